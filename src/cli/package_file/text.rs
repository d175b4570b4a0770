//! The text of an input file in UTF-8 or UTF-16.

use std::io::Read;
use std::path::Path;

use crate::cli::UsageError;

/// The maximum size in bytes: more than an API server accepts.
const LIMIT: u64 = 8 * 1024 * 1024;

/// The name of `path` in messages.
pub(in crate::cli) fn name_of(path: &Path) -> String {
    match path.as_os_str() == "-" {
        true => "standard input".to_owned(),
        false => path.display().to_string(),
    }
}

/// The text of the file `path`, or of standard input for `-`, for the command `command`.
pub(in crate::cli) fn read(path: &Path, command: &str) -> Result<String, UsageError> {
    let name = name_of(path);
    let cannot = |error: std::io::Error| UsageError(format!("cannot read {name}: {error}"));
    let content = match path.as_os_str() == "-" {
        true => within_limit(&mut std::io::stdin().lock()).map_err(cannot)?,
        false => {
            if name.contains("://") && !path.exists() {
                return Err(UsageError(format!(
                    "{name} is a URL, and {command} reads files: use curl -fsSL {name} | jackal-operator {command} -"
                )));
            }
            if path.is_dir() {
                return Err(UsageError(format!(
                    "{name} is a directory, and {command} reads a file: name a file in it"
                )));
            }
            let mut file = std::fs::File::open(path).map_err(cannot)?;
            within_limit(&mut file).map_err(cannot)?
        }
    };
    decode(content).ok_or_else(|| UsageError(format!("{name} is not text: {command} reads YAML or JSON in UTF-8")))
}

fn within_limit(input: &mut dyn Read) -> std::io::Result<Vec<u8>> {
    let mut content = Vec::new();
    let read = input.take(LIMIT + 1).read_to_end(&mut content)?;
    match read as u64 > LIMIT {
        true => Err(std::io::Error::other(format!("it is larger than {LIMIT} bytes"))),
        false => Ok(content),
    }
}

/// Decodes UTF-8, or UTF-16 with a byte order mark, as written by shells of Windows.
fn decode(content: Vec<u8>) -> Option<String> {
    let units = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let (pairs, rest) = bytes.as_chunks::<2>();
        let units: Vec<u16> = pairs.iter().map(|pair| unit(*pair)).collect();
        rest.is_empty().then(|| String::from_utf16(&units).ok())?
    };
    match content.as_slice() {
        [0xff, 0xfe, rest @ ..] => units(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => units(rest, u16::from_be_bytes),
        _ => {
            let text = String::from_utf8(content).ok()?;
            let text = text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text);
            // YAML contains no NUL (YAML 1.2.2, section 5.1), but archives do.
            (!text.contains('\0')).then_some(text)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utf8_and_utf16_are_decoded() {
        let wide = |mark: [u8; 2], unit: fn(u16) -> [u8; 2]| {
            [mark.to_vec(), "é: 1".encode_utf16().flat_map(unit).collect()].concat()
        };
        for content in [
            "é: 1".as_bytes().to_vec(),
            "\u{feff}é: 1".as_bytes().to_vec(),
            wide([0xff, 0xfe], u16::to_le_bytes),
            wide([0xfe, 0xff], u16::to_be_bytes),
        ] {
            assert_eq!(decode(content).as_deref(), Some("é: 1"));
        }
        assert_eq!(decode(vec![0x28, 0xb5, 0x2f, 0xfd]), None, "an archive by zstd");
        assert_eq!(decode(b"a\0b".to_vec()), None);
        assert_eq!(decode(vec![0xff, 0xfe, 1]), None);
    }

    #[test]
    fn messages_for_urls_and_directories_name_the_solution() {
        let said = |path: &str| read(Path::new(path), "build").unwrap_err().to_string();
        assert!(
            said("https://a.example/p.yaml").contains("curl -fsSL https://a.example/p.yaml | jackal-operator build -")
        );
        assert!(said("/").contains("/ is a directory, and build reads a file"));
        assert!(said("/nowhere").contains("cannot read /nowhere: No such file"));
    }
}
