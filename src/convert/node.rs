//! A YAML document whose fields keep the order in which a person would write them.

use serde::ser::{Serialize, SerializeMap as _, Serializer};
use serde_json::Value;

/// A part of the document.
#[derive(Clone, Debug)]
pub(super) enum Node {
    Value(Value),
    List(Vec<Node>),
    Fields(Vec<(&'static str, Node)>),
}

impl Node {
    pub fn text(text: impl Into<String>) -> Self {
        Self::Value(Value::String(text.into()))
    }

    /// An object with the fields that are not `None`.
    pub fn fields(fields: impl IntoIterator<Item = (&'static str, Option<Node>)>) -> Self {
        Self::Fields(
            fields
                .into_iter()
                .filter_map(|(key, node)| Some((key, node?)))
                .collect(),
        )
    }

    /// A list; `None` if it is empty.
    pub fn list(nodes: Vec<Node>) -> Option<Self> {
        (!nodes.is_empty()).then_some(Self::List(nodes))
    }

    /// The value of a field that is only written if it is true.
    pub fn flag(set: bool) -> Option<Self> {
        set.then_some(Self::Value(Value::Bool(true)))
    }
}

impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Value(value) => value.serialize(serializer),
            Self::List(nodes) => nodes.serialize(serializer),
            Self::Fields(fields) => {
                let mut map = serializer.serialize_map(Some(fields.len()))?;
                for (key, node) in fields {
                    map.serialize_entry(key, node)?;
                }
                map.end()
            }
        }
    }
}
