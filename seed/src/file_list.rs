//! The list of the files that a seed receives: a text with a line `SHA-256 SIZE NAME` for each file, sorted by name.

use std::fmt;

/// The first line of a list.
const HEADER: &str = "jackal-seed-files 1";
/// The longest list in bytes.
pub const MAX_LIST: usize = 256 * 1024;
/// The most files of a list.
pub const MAX_FILES: usize = 1000;
/// The longest name in bytes.
const MAX_NAME: usize = 255;
/// The largest file in bytes: 1 TiB. With [`MAX_FILES`], no sum of sizes overflows.
const MAX_SIZE: u64 = 1 << 40;

/// The bytes of a SHA-256 digest.
pub type Sha256Digest = [u8; 32];

/// A file of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedFile {
    /// Its path below the directory of the seed, with `/` between the components.
    pub name: String,
    /// Its length in bytes.
    pub size: u64,
    /// The digest of its content.
    pub digest: Sha256Digest,
}

/// Files with distinct names that were checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileList {
    files: Vec<ListedFile>,
}

/// Why a list cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListError {
    /// It is longer than [`MAX_LIST`] or has more than [`MAX_FILES`] files.
    TooLong,
    /// A line, counted from 1, has another form.
    Line(usize),
    /// A name is not a plain path below the directory.
    Name(String),
    /// Two names are equal, or one is the directory of another.
    Duplicate(String),
}

impl fmt::Display for ListError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => write!(
                formatter,
                "the list has more than {MAX_FILES} files or {MAX_LIST} bytes"
            ),
            Self::Line(line) => write!(formatter, "line {line} of the list is not `SHA-256 SIZE NAME`"),
            Self::Name(name) => write!(formatter, "{name:?} is not the name of a file below the directory"),
            Self::Duplicate(name) => write!(formatter, "{name:?} is in the list twice, or also a directory"),
        }
    }
}

impl std::error::Error for ListError {}

impl FileList {
    /// Checks names and sizes, and sorts the files by name.
    ///
    /// # Errors
    /// The first name or size that cannot be used.
    pub fn new(mut files: Vec<ListedFile>) -> Result<Self, ListError> {
        if files.len() > MAX_FILES {
            return Err(ListError::TooLong);
        }
        files.sort_by(|one, other| one.name.split('/').cmp(other.name.split('/')));
        let mut previous: Option<&str> = None;
        for (index, file) in files.iter().enumerate() {
            if file.size > MAX_SIZE {
                return Err(ListError::Line(index + 2));
            }
            if !is_plain_path(&file.name) {
                return Err(ListError::Name(file.name.chars().take(MAX_NAME).collect()));
            }
            // In this order, a directory is followed by what it holds.
            if let Some(previous) = previous
                && let Some(rest) = file.name.strip_prefix(previous)
                && (rest.is_empty() || rest.starts_with('/'))
            {
                return Err(ListError::Duplicate(previous.to_owned()));
            }
            previous = Some(&file.name);
        }
        let list = Self { files };
        match list.to_text().len() {
            0..=MAX_LIST => Ok(list),
            _ => Err(ListError::TooLong),
        }
    }

    /// Reads the text of a list.
    ///
    /// # Errors
    /// The first line, name or size that cannot be used.
    pub fn parse(text: &[u8]) -> Result<Self, ListError> {
        if text.len() > MAX_LIST {
            return Err(ListError::TooLong);
        }
        let text = std::str::from_utf8(text).map_err(|_| ListError::Line(1))?;
        // Without its end, a line may have lost some of its name.
        let text = text.strip_suffix('\n').ok_or(ListError::Line(1))?;
        let mut lines = text.split('\n');
        if lines.next() != Some(HEADER) {
            return Err(ListError::Line(1));
        }
        let mut files = Vec::new();
        for (index, line) in lines.enumerate() {
            if files.len() == MAX_FILES {
                return Err(ListError::TooLong);
            }
            files.push(parse_line(line).ok_or(ListError::Line(index + 2))?);
        }
        Self::new(files)
    }

    /// The text, which [`Self::parse`] reads.
    pub fn to_text(&self) -> String {
        let mut text = format!("{HEADER}\n");
        for file in &self.files {
            text.push_str(&format!("{} {} {}\n", to_hex(&file.digest), file.size, file.name));
        }
        text
    }

    /// The files in the order of the list.
    pub fn files(&self) -> &[ListedFile] {
        &self.files
    }
}

fn parse_line(line: &str) -> Option<ListedFile> {
    let (digest, rest) = line.split_once(' ')?;
    let (size, name) = rest.split_once(' ')?;
    Some(ListedFile {
        name: name.to_owned(),
        size: parse_number(size)?,
        digest: parse_hex(digest)?,
    })
}

/// Whether `name` is a relative path of plain components: no empty one, none that begins with a dot, only ASCII letters, digits and
/// `._-`.
fn is_plain_path(name: &str) -> bool {
    let is_plain = |component: &str| {
        !component.is_empty()
            && !component.starts_with('.')
            && component
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
    };
    name.len() <= MAX_NAME && name.split('/').all(is_plain)
}

/// A number in decimal digits without sign or leading zeros.
pub fn parse_number(text: &str) -> Option<u64> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if is_plain { text.parse().ok() } else { None }
}

/// A digest as 64 lower-case hexadecimal digits.
pub fn to_hex(digest: &Sha256Digest) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads 64 lower-case hexadecimal digits.
pub fn parse_hex(text: &str) -> Option<Sha256Digest> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut digest = [0; 32];
    for (byte, pair) in digest.iter_mut().zip(digits.chunks(2)) {
        let value = |digit: &u8| match digit {
            b'0'..=b'9' => Some(digit - b'0'),
            b'a'..=b'f' => Some(digit - b'a' + 10),
            _ => None,
        };
        *byte = value(pair.first()?)? << 4 | value(pair.last()?)?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> ListedFile {
        ListedFile {
            name: name.to_owned(),
            size: 7,
            digest: [0xab; 32],
        }
    }

    #[test]
    fn a_list_is_sorted_and_read_again() {
        let list = FileList::new(vec![
            file("layout/index.json"),
            file("layout-2"),
            file("jackal-operator"),
        ])
        .unwrap();
        let names: Vec<&str> = list.files().iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names, ["jackal-operator", "layout/index.json", "layout-2"]);
        let text = list.to_text();
        assert!(
            text.contains(&format!("\n{} 7 jackal-operator\n", "ab".repeat(32))),
            "{text}"
        );
        assert_eq!(FileList::parse(text.as_bytes()), Ok(list));
        assert_eq!(FileList::parse(b"jackal-seed-files 1\n"), Ok(FileList::default()));
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let long = "a".repeat(256);
        for bad in [
            "",
            "/",
            "/etc/passwd",
            "..",
            "../a",
            "a/../b",
            "a/..",
            ".",
            "./a",
            "a//b",
            "a/",
            ".seed/list",
            "a/.b",
            "a\\b",
            "a b",
            "a\0b",
            "\u{e4}",
            "a\nb",
            &long,
        ] {
            let refused = FileList::new(vec![file(bad)]);
            assert!(matches!(refused, Err(ListError::Name(_))), "{bad:?}: {refused:?}");
        }
        assert!(FileList::new(vec![file("layout/blobs/sha256/0_a-B.json")]).is_ok());
    }

    #[test]
    fn a_name_is_there_once_and_not_a_directory_of_another() {
        for (one, other) in [("a", "a"), ("a", "a/b"), ("a/b/c", "a/b")] {
            let refused = FileList::new(vec![file("a-b"), file(one), file("a.b"), file(other)]);
            assert!(
                matches!(refused, Err(ListError::Duplicate(_))),
                "{one} {other}: {refused:?}"
            );
        }
    }

    #[test]
    fn malformed_lists_are_refused() {
        let digest = "ab".repeat(32);
        let lines = |line: &str| format!("{HEADER}\n{line}\n");
        let big = (MAX_SIZE + 1).to_string();
        for bad in [
            String::new(),
            "jackal-seed-files 2\n".to_owned(),
            format!("{HEADER}\n{digest} 7 cut"),
            lines(""),
            lines(&digest),
            lines(&format!("{digest} 7")),
            lines(&format!("{digest} -7 a")),
            lines(&format!("{digest} +7 a")),
            lines(&format!("{digest} 07 a")),
            lines(&format!("{digest} 99999999999999999999 a")),
            lines(&format!("{digest} {big} a")),
            lines(&format!("{} 7 a", digest.to_uppercase())),
            lines(&format!("{} 7 a", &digest[2..])),
        ] {
            let refused = FileList::parse(bad.as_bytes());
            assert!(matches!(refused, Err(ListError::Line(_))), "{bad:?}: {refused:?}");
        }
        assert_eq!(FileList::parse(b"\xff\n"), Err(ListError::Line(1)));
        assert_eq!(FileList::parse(&vec![b'a'; MAX_LIST + 1]), Err(ListError::TooLong));
        let many = (0..=MAX_FILES).map(|number| file(&number.to_string())).collect();
        assert_eq!(FileList::new(many), Err(ListError::TooLong));
        let long = (0..MAX_FILES).map(|number| file(&format!("{number:0>250}"))).collect();
        assert_eq!(FileList::new(long), Err(ListError::TooLong));
    }
}
