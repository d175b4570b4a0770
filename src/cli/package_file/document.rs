//! The documents of a YAML or JSON text, with the line of each value.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::Spanned;

use crate::api::schema::{Path, Step};

/// A document.
#[derive(Clone, Debug)]
pub(super) struct Document {
    /// The content.
    pub value: Value,
    /// The line on which it begins, counted from one.
    pub line: u64,
    parts: Parts,
}

/// The lines of the fields or items of a value.
#[derive(Clone, Debug)]
enum Parts {
    None,
    Fields(BTreeMap<String, (u64, Parts)>),
    Items(Vec<(u64, Parts)>),
}

/// A decoded value with the lines of its parts.
struct Tree(Value, Parts);

/// The documents of `text` that are not empty; a list of objects (`kind: List`) is replaced by its items.
pub(super) fn documents(text: &str) -> Result<Vec<Document>, String> {
    let trees: Vec<Spanned<Tree>> = serde_saphyr::from_multiple(text).map_err(|error| {
        let indented_by_tabs = text.lines().any(|line| line.trim_start_matches(' ').starts_with('\t'));
        let advice = if indented_by_tabs {
            "; indent with spaces: YAML allows no tabs there"
        } else {
            ""
        };
        format!("{error}{advice}")
    })?;
    let documents = trees.into_iter().map(|tree| Document {
        line: tree.referenced.line(),
        value: tree.value.0,
        parts: tree.value.1,
    });
    Ok(documents
        .flat_map(Document::items)
        .filter(|document| !document.value.is_null())
        .collect())
}

impl Document {
    /// The line of the value at `path`, or of its nearest existing parent.
    pub fn line_of(&self, path: &Path) -> u64 {
        let (mut line, mut parts) = (self.line, &self.parts);
        for step in &path.0 {
            let next = match (step, parts) {
                (Step::Field(name), Parts::Fields(fields)) => fields.get(name),
                (Step::Item(index), Parts::Items(items)) => items.get(*index),
                _ => None,
            };
            match next {
                Some((at, inner)) => (line, parts) = (*at, inner),
                None => break,
            }
        }
        line
    }

    /// The items of a list of objects, as written by `kubectl get -o yaml`; the document itself if it is not a list.
    fn items(mut self) -> Vec<Self> {
        let is_list = self.value["kind"].as_str().is_some_and(|kind| kind.ends_with("List"));
        let items = self
            .value
            .get_mut("items")
            .filter(|_| is_list)
            .and_then(Value::as_array_mut);
        let Some(items) = items.map(std::mem::take) else {
            return vec![self];
        };
        let mut lines = match self.parts {
            Parts::Fields(mut fields) => match fields.remove("items") {
                Some((_, Parts::Items(lines))) => lines.into_iter(),
                _ => Vec::new().into_iter(),
            },
            _ => Vec::new().into_iter(),
        };
        let items = items.into_iter().map(|value| {
            let (line, parts) = lines.next().unwrap_or((self.line, Parts::None));
            Self { value, line, parts }
        });
        items.collect()
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

fn leaf<E>(value: impl Into<Value>) -> Result<Tree, E> {
    Ok(Tree(value.into(), Parts::None))
}

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        leaf(value)
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        leaf(value)
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        leaf(value)
    }

    fn visit_f64<E>(self, value: f64) -> Result<Tree, E> {
        // JSON has neither infinity nor NaN.
        leaf(Number::from_f64(value).map_or_else(|| Value::String(value.to_string()), Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
        leaf(value)
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        leaf(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Tree, E> {
        leaf(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        Tree::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Tree, A::Error> {
        let (mut values, mut lines) = (Vec::new(), Vec::new());
        while let Some(item) = items.next_element::<Spanned<Tree>>()? {
            lines.push((item.referenced.line(), item.value.1));
            values.push(item.value.0);
        }
        Ok(Tree(Value::Array(values), Parts::Items(lines)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Tree, A::Error> {
        let (mut values, mut lines) = (Map::new(), BTreeMap::new());
        while let Some(name) = fields.next_key::<Spanned<String>>()? {
            let value = fields.next_value::<Tree>()?;
            lines.insert(name.value.clone(), (name.referenced.line(), value.1));
            values.insert(name.value, value.0);
        }
        Ok(Tree(Value::Object(values), Parts::Fields(lines)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_has_a_line() {
        let text = "# first\na: 1\n---\n\nkind: X\nspec:\n  list:\n  - one\n  - two: {three: 3}\n";
        let documents = documents(text).unwrap();
        let line = |path: &[Step]| documents[1].line_of(&Path(path.to_vec()));
        let field = |name: &str| Step::Field(name.to_owned());
        assert_eq!((documents[0].line, documents[1].line), (2, 5));
        assert_eq!(line(&[field("spec")]), 6);
        assert_eq!(line(&[field("spec"), field("list"), Step::Item(1)]), 9);
        assert_eq!(line(&[field("spec"), field("list"), Step::Item(0), field("none")]), 8);
        assert_eq!(line(&[field("none")]), 5);
    }

    #[test]
    fn values_are_decoded_as_json() {
        let text = "{a: [1, -2, 1.5, true, null, ~, 'x', \"y\", .inf, {1: b}], c: *x}";
        assert!(documents(text).is_err(), "an alias of nothing");
        let text = "{a: [1, -2, 1.5, true, null, ~, 'x', \"y\", {1: b}]}";
        let expected = serde_json::json!({"a": [1, -2, 1.5, true, null, null, "x", "y", {"1": "b"}]});
        assert_eq!(documents(text).unwrap()[0].value, expected);
        assert_eq!(documents(&expected.to_string()).unwrap()[0].value, expected);
        assert_eq!(documents("words").unwrap()[0].value, "words");
        assert!(documents("").unwrap().is_empty());
        assert!(documents("# nothing\n---\n# at all\n---\n").unwrap().is_empty());
        let windows = documents("a: 1\r\nb: |\r\n  x\r\n  y\r\n").unwrap();
        assert_eq!(windows[0].value, serde_json::json!({"a": 1, "b": "x\ny\n"}));
        let json = documents("{\n\t\"a\": [\n\t\t1\n\t]\n}\n").unwrap();
        assert_eq!(
            json[0].value,
            serde_json::json!({"a": [1]}),
            "JSON may be indented by tabs"
        );
        let tabs = documents("a:\n\tb: 1\n").unwrap_err();
        assert!(tabs.ends_with("YAML allows no tabs there"), "{tabs}");
        assert!(documents("a: 1\na: 2\n").is_err(), "a field that is there twice");
    }

    #[test]
    fn lists_are_replaced_by_their_items() {
        let text = "apiVersion: v1\nkind: List\nitems:\n- kind: A\n  b: 1\n- kind: List\n  items: []\n- null\n";
        let documents = documents(text).unwrap();
        assert_eq!(documents[0].value["kind"], "A");
        assert_eq!(
            (
                documents[0].line,
                documents[0].line_of(&Path(vec![Step::Field("b".to_owned())]))
            ),
            (4, 5)
        );
        assert_eq!(documents.len(), 2, "a list in a list stays as it is");
    }
}
