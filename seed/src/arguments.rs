//! The arguments of the program.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::file_list::{Sha256Digest, parse_hex};

/// How the program is called.
pub const USAGE: &str = "\
usage: jackal-seed --listen ADDRESS:PORT --directory DIR --list sha256:DIGEST -- COMMAND [ARGUMENT...]

Receives the files of a list with that digest into DIR, verifies them and executes COMMAND. Where all of them are there
already, it verifies them and executes COMMAND at once.";

/// The arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arguments {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Where the files are stored.
    pub directory: PathBuf,
    /// The digest of the list.
    pub list: Sha256Digest,
    /// The command, and its arguments.
    pub command: Vec<OsString>,
}

/// Reads the arguments without the name of the program.
///
/// # Errors
/// What is wrong.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Arguments, String> {
    let mut arguments = arguments.into_iter();
    let (mut listen, mut directory, mut list) = (None, None, None);
    let command: Vec<OsString> = loop {
        let flag = arguments.next().ok_or("the command is missing")?;
        if flag == "--" {
            break arguments.collect();
        }
        let flag = flag.to_string_lossy().into_owned();
        let value = arguments.next().ok_or_else(|| format!("{flag} has no value"))?;
        let text = value.to_str();
        match flag.as_str() {
            "--listen" => {
                let address = text.and_then(|text| text.parse().ok());
                listen = Some(address.ok_or("--listen is not ADDRESS:PORT")?);
            }
            "--directory" => directory = Some(PathBuf::from(value)),
            "--list" => {
                let digest = text.and_then(|text| parse_hex(text.strip_prefix("sha256:")?));
                list = Some(digest.ok_or("--list is not sha256: and 64 hexadecimal digits")?);
            }
            _ => return Err(format!("unknown argument {flag}")),
        }
    };
    if command.is_empty() {
        return Err("the command is missing".to_owned());
    }
    Ok(Arguments {
        listen: listen.ok_or("--listen is missing")?,
        directory: directory.ok_or("--directory is missing")?,
        list: list.ok_or("--list is missing")?,
        command,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Arguments, String> {
        parse(text.split(' ').map(OsString::from))
    }

    #[test]
    fn the_command_follows_the_dashes() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let text =
            format!("--listen 127.0.0.1:31998 --directory /seed/files --list {digest} -- /seed/files/a --list -- b");
        let arguments = parsed(&text).unwrap();
        assert_eq!(arguments.listen, "127.0.0.1:31998".parse().unwrap());
        assert_eq!(arguments.directory, PathBuf::from("/seed/files"));
        assert_eq!(arguments.list, [0xab; 32]);
        assert_eq!(arguments.command, ["/seed/files/a", "--list", "--", "b"]);
        for (from, to) in [
            ("--listen 127.0.0.1:31998 ", ""),
            ("--list ", "--digest "),
            (":31998", ""),
            ("sha256:", ""),
            (" -- /seed", " /seed"),
            (" -- /seed/files/a --list -- b", " --"),
            (" -- /seed/files/a --list -- b", ""),
        ] {
            assert!(parsed(&text.replacen(from, to, 1)).is_err(), "{from} {to}");
        }
    }
}
