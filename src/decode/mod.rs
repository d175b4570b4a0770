//! Reads JSON and YAML from external sources: registries, engines, and other programs, most of them written in Go.
//!
//! Everything that Go's decoders accept is accepted: a `null` field counts as absent or empty, a `null` in a list is
//! skipped, field names match without regard to case (except in types that serde flattens), the last of several fields
//! of one name counts, and JSON may start with a byte order mark and be followed by other text. Required fields stay
//! required: the error names the missing field and its path.
//!
//! This applies to fields of our types. A type that accepts any JSON (`serde_json::Value`) gets the original value.

mod json;
mod yaml;

use std::fmt;

pub use json::{RawFields, json, json_text, json_values};
pub use yaml::{large_yaml, yaml, yaml_documents};

/// The longest name of a field in characters that an error repeats.
const NAME_LIMIT: usize = 64;
/// The longest description in characters.
const MESSAGE_LIMIT: usize = 300;

/// Why a text is not what it should be: where in it, and what is wrong there. The text's values are not repeated beyond
/// what the error of its type says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeError {
    /// From the innermost part outwards.
    path: Vec<Part>,
    message: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Field(String),
    Element(usize),
}

impl DecodeError {
    fn new(message: impl fmt::Display) -> Self {
        let message: String = message.to_string().chars().take(MESSAGE_LIMIT).collect();
        Self {
            path: Vec::new(),
            message,
        }
    }

    fn within_field(mut self, name: &str) -> Self {
        let plain = |letter: char| if letter.is_control() { ' ' } else { letter };
        let name = name.chars().take(NAME_LIMIT).map(plain).collect();
        self.path.push(Part::Field(name));
        self
    }

    fn within_element(mut self, at: usize) -> Self {
        self.path.push(Part::Element(at));
        self
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, part) in self.path.iter().rev().enumerate() {
            match part {
                Part::Field(name) if at == 0 => formatter.write_str(name)?,
                Part::Field(name) => write!(formatter, ".{name}")?,
                Part::Element(index) => write!(formatter, "[{index}]")?,
            }
        }
        let colon = if self.path.is_empty() { "" } else { ": " };
        write!(formatter, "{colon}{}", self.message)
    }
}

impl std::error::Error for DecodeError {}

impl serde::de::Error for DecodeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message)
    }
}
