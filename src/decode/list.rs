//! A list in a JSON object that is longer than what may be kept of it.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::DecodeError;
use super::json::BYTE_ORDER_MARK;

/// The texts of the list in the field `field` of the object in `bytes`; `None` if it has more than `limit` elements. It is
/// empty if there is no such field. Elements that are `null` are skipped. Nothing else of the object is in memory.
///
/// # Errors
/// If the text is not a JSON object, or the field is not a list of texts.
pub fn json_texts(bytes: &[u8], field: &str, limit: usize) -> Result<Option<Vec<String>>, DecodeError> {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_start_matches(BYTE_ORDER_MARK);
    let read = serde_json::Deserializer::from_str(text).deserialize_any(Object { field, limit });
    read.map_err(DecodeError::new)
}

struct Object<'f> {
    field: &'f str,
    limit: usize,
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = Option<Vec<String>>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Some(Vec::new()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self::Value, A::Error> {
        let mut found = Some(Vec::new());
        while let Some(name) = fields.next_key::<String>()? {
            match name.eq_ignore_ascii_case(self.field) {
                true => found = fields.next_value_seed(Texts(self.limit))?,
                false => drop(fields.next_value::<IgnoredAny>()?),
            }
        }
        Ok(found)
    }
}

/// A list of at most this many texts.
struct Texts(usize);

impl<'de> DeserializeSeed<'de> for Texts {
    type Value = Option<Vec<String>>;

    fn deserialize<D: Deserializer<'de>>(self, list: D) -> Result<Self::Value, D::Error> {
        list.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Texts {
    type Value = Option<Vec<String>>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list of texts")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Some(Vec::new()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
        let (mut found, mut count) = (Vec::new(), 0);
        while let Some(element) = elements.next_element::<Option<String>>()? {
            count += 1;
            if count > self.0 {
                // The rest must be well-formed too.
                while elements.next_element::<IgnoredAny>()?.is_some() {}
                return Ok(None);
            }
            found.extend(element);
        }
        Ok(Some(found))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_limited_before_it_is_kept() {
        let texts = |json: &str| json_texts(json.as_bytes(), "tags", 2);
        let two = Ok(Some(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(
            texts(r#"{"name":{"tags":[1]},"tags":["a","b"],"more":[[]]} and more"#),
            two
        );
        assert_eq!(texts("\u{feff}{\"Tags\":[\"a\",\"b\"]}"), two);
        assert_eq!(texts(r#"{"tags":["x"],"tags":["a","b"]}"#), two);
        assert_eq!(texts(r#"{"tags":["a",null]}"#), Ok(Some(vec!["a".to_owned()])));
        for empty in ["{}", "null", r#"{"tags":null}"#, r#"{"tags":[]}"#] {
            assert_eq!(texts(empty), Ok(Some(Vec::new())), "{empty}");
        }
        assert_eq!(texts(r#"{"tags":["a","a","a"]}"#), Ok(None));
        assert_eq!(texts(r#"{"tags":["a",null,"a"]}"#), Ok(None));
        for bad in [
            "",
            "[]",
            r#"{"tags":"a"}"#,
            r#"{"tags":[1]}"#,
            r#"{"tags":["a","b","c"}"#,
        ] {
            assert!(texts(bad).is_err(), "{bad}");
        }
    }
}
