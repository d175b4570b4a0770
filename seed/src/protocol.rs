//! The lines of a connection between a client and a seed.
//!
//! The seed sends a greeting. Then the client sends commands, and the seed answers each with one line, after which the lengths of
//! the files follow where they were asked for. A refusal ends the connection, except that of `files` before there is a list.
//!
//! | command | followed by | answer |
//! |---|---|---|
//! | `list LENGTH` | the text of the list | `ok` |
//! | `files` | | `files COUNT`, then a line for each file: its present length in bytes, or `complete` |
//! | `file INDEX OFFSET` | the bytes of the file from `OFFSET`, which is its present length | `ok` when its digest is right |

use std::fmt;

use crate::file_list::{Sha256Digest, parse_hex, parse_number, to_hex};

/// The longest line in bytes, without its end.
pub const MAX_LINE: usize = 512;

/// The start of a greeting, which tells the version of the protocol.
const GREETING: &str = "jackal-seed 1 ";

/// The first line of the seed. `list` is the digest of the list that it accepts.
pub fn greeting(list: &Sha256Digest) -> String {
    format!("{GREETING}{}", to_hex(list))
}

/// The digest of the list that a seed accepts, from its greeting.
pub fn parse_greeting(line: &str) -> Option<Sha256Digest> {
    parse_hex(line.strip_prefix(GREETING)?)
}

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// To accept the list that follows.
    List {
        /// Its length in bytes.
        length: u64,
    },
    /// To tell which content is present.
    Files,
    /// To accept the rest of a file, which follows.
    File {
        /// The position of the file in the list, from 0.
        index: u64,
        /// The bytes of it that are present.
        offset: u64,
    },
}

impl Command {
    /// Reads a line.
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let command = match words.next()? {
            "list" => Self::List {
                length: parse_number(words.next()?)?,
            },
            "files" => Self::Files,
            "file" => Self::File {
                index: parse_number(words.next()?)?,
                offset: parse_number(words.next()?)?,
            },
            _ => return None,
        };
        words.next().is_none().then_some(command)
    }
}

impl fmt::Display for Command {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::List { length } => write!(formatter, "list {length}"),
            Self::Files => write!(formatter, "files"),
            Self::File { index, offset } => write!(formatter, "file {index} {offset}"),
        }
    }
}

/// What is present of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// So many bytes of it.
    Partial(u64),
    /// All of it, and its digest is right.
    Complete,
}

impl Presence {
    /// Reads a line.
    pub fn parse(line: &str) -> Option<Self> {
        match line {
            "complete" => Some(Self::Complete),
            length => Some(Self::Partial(parse_number(length)?)),
        }
    }
}

impl fmt::Display for Presence {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Partial(length) => write!(formatter, "{length}"),
            Self::Complete => write!(formatter, "complete"),
        }
    }
}

/// Why a seed refuses a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The line is no command, or its numbers are out of range.
    Command,
    /// The seed has no list yet.
    NoList,
    /// The list has another digest than the seed was started with, or cannot be used.
    List,
    /// The disk has too little space for the files.
    NoSpace,
    /// Another length of the file is present.
    Offset,
    /// The file has another digest than the list says; what was received of it is discarded.
    Digest,
    /// Reading or writing a file failed.
    Storage,
}

const REFUSALS: [(Refusal, &str); 7] = [
    (Refusal::Command, "command"),
    (Refusal::NoList, "no-list"),
    (Refusal::List, "list"),
    (Refusal::NoSpace, "no-space"),
    (Refusal::Offset, "offset"),
    (Refusal::Digest, "digest"),
    (Refusal::Storage, "storage"),
];

/// An answer of the seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The command was done.
    Done,
    /// So many lines follow.
    Files(u64),
    /// The command was refused, with an explanation for a person.
    Refused(Refusal, String),
}

impl Answer {
    /// Reads a line.
    pub fn parse(line: &str) -> Option<Self> {
        if line == "ok" {
            return Some(Self::Done);
        }
        let (word, rest) = line.split_once(' ')?;
        match word {
            "files" => Some(Self::Files(parse_number(rest)?)),
            "error" => {
                let (code, explanation) = rest.split_once(' ')?;
                let (refusal, _) = REFUSALS.iter().find(|(_, word)| *word == code)?;
                Some(Self::Refused(*refusal, explanation.to_owned()))
            }
            _ => None,
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => write!(formatter, "ok"),
            Self::Files(count) => write!(formatter, "files {count}"),
            Self::Refused(refusal, explanation) => {
                let code = REFUSALS.iter().find(|(other, _)| other == refusal);
                let code = code.map_or("storage", |(_, word)| word);
                // One line of bounded length, whatever the operating system says.
                let clean = explanation.chars().map(|c| if c.is_ascii_graphic() { c } else { ' ' });
                let explanation: String = clean.take(MAX_LINE - 32).collect();
                write!(formatter, "error {code} {explanation}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_they_were_written() {
        for command in [
            Command::List { length: 12 },
            Command::Files,
            Command::File {
                index: 0,
                offset: u64::MAX,
            },
        ] {
            assert_eq!(Command::parse(&command.to_string()), Some(command));
        }
        for presence in [Presence::Partial(0), Presence::Partial(u64::MAX), Presence::Complete] {
            assert_eq!(Presence::parse(&presence.to_string()), Some(presence));
        }
        for (refusal, _) in REFUSALS {
            let answer = Answer::Refused(refusal, "why it failed".to_owned());
            assert_eq!(Answer::parse(&answer.to_string()), Some(answer));
        }
        for answer in [Answer::Done, Answer::Files(3)] {
            assert_eq!(Answer::parse(&answer.to_string()), Some(answer));
        }
        assert_eq!(parse_greeting(&greeting(&[7; 32])), Some([7; 32]));
    }

    #[test]
    fn malformed_lines_are_refused() {
        for bad in [
            "",
            "list",
            "list ",
            "list -1",
            "list 1 2",
            "files 1",
            "file 1",
            "file 1 2 3",
            "file  1 2",
            "file 1 18446744073709551616",
            "FILES",
            " files",
            "files ",
            "files\r",
        ] {
            assert_eq!(Command::parse(bad), None, "{bad:?}");
        }
        for bad in [
            "",
            "ok ",
            "files",
            "files x",
            "error",
            "error digest",
            "error unknown text",
            "complete",
        ] {
            assert_eq!(Answer::parse(bad), None, "{bad:?}");
        }
        assert_eq!(Presence::parse("completed"), None);
        for bad in ["jackal-seed 2 ", "jackal-seed 1 ab", "HTTP/1.1 400 Bad Request"] {
            assert_eq!(parse_greeting(bad), None);
        }
    }

    #[test]
    fn an_explanation_is_one_short_line() {
        let answer = Answer::Refused(Refusal::Storage, format!("a\nb{}", "c".repeat(5000))).to_string();
        assert!(
            answer.starts_with("error storage a bc") && answer.len() <= MAX_LINE,
            "{answer}"
        );
    }
}
