//! Reads JSON and YAML from external sources: registries, engines, and other programs, most of them written in Go.
//!
//! Everything that Go's decoders accept is accepted: a `null` field counts as absent or empty, a `null` in a list is
//! skipped, field names match without regard to case (except in types that serde flattens), the last of several fields
//! of one name counts, and JSON may start with a byte order mark and be followed by other text. Required fields stay
//! required: the error names the missing field and its path.
//!
//! This applies to fields of our types. A type that accepts any JSON (`serde_json::Value`) gets the original value.

mod json;
mod list;
mod ordered;
mod yaml;

use std::fmt;

pub use json::{RawFields, json, json_text, json_values};
pub use list::json_texts;
pub use ordered::{Ordered, ordered_yaml_documents};
pub use yaml::{large_yaml, yaml, yaml_documents};

/// Maximum length of a field name in errors, in characters.
const MAX_NAME_LENGTH: usize = 64;
/// Maximum length of a message, in characters.
const MAX_MESSAGE_LENGTH: usize = 300;

/// Why a text cannot be decoded: the path and the problem. It contains values of the text only as far as the error of
/// the type does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodeError {
    /// From the innermost segment outwards.
    path: Vec<PathSegment>,
    message: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum PathSegment {
    Field(String),
    Element(usize),
}

impl DecodeError {
    fn new(message: impl fmt::Display) -> Self {
        let message: String = message.to_string().chars().take(MAX_MESSAGE_LENGTH).collect();
        Self {
            path: Vec::new(),
            message,
        }
    }

    fn in_field(mut self, name: &str) -> Self {
        let replace_control = |letter: char| if letter.is_control() { ' ' } else { letter };
        let name = name.chars().take(MAX_NAME_LENGTH).map(replace_control).collect();
        self.path.push(PathSegment::Field(name));
        self
    }

    fn in_element(mut self, index: usize) -> Self {
        self.path.push(PathSegment::Element(index));
        self
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, part) in self.path.iter().rev().enumerate() {
            match part {
                PathSegment::Field(name) if index == 0 => formatter.write_str(name)?,
                PathSegment::Field(name) => write!(formatter, ".{name}")?,
                PathSegment::Element(position) => write!(formatter, "[{position}]")?,
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
