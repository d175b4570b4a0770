//! JSON. Values are parsed once per enclosing object or list that a type requests, and values that no type requests are
//! not parsed. So the memory is that of the result and of the fields of one object.

use std::borrow::Cow;
use std::fmt;

use serde::de::value::{CowStrDeserializer, SeqDeserializer};
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, forward_to_deserialize_any};
use serde_json::Number;
use serde_json::value::RawValue;

use super::DecodeError;

/// The byte order mark, which some programs on Windows write.
pub(super) const BYTE_ORDER_MARK: char = '\u{feff}';
/// Maximum nesting depth, as in serde_json.
const MAX_DEPTH: usize = 128;
/// The largest integer that a float represents exactly.
const MAX_EXACT_FLOAT: f64 = 9_007_199_254_740_992.0;

/// Decodes the first value in `bytes`. Invalid UTF-8 and single surrogates become replacement characters.
///
/// # Errors
/// If the text is not JSON, or not of the type `T`.
pub fn json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    json_text(&replace_single_surrogates(String::from_utf8_lossy(bytes)))
}

/// `text` with U+FFFD in place of the escape sequences of surrogates that are not in a pair (RFC 8259, section 8.2). Programs that
/// shorten a text write them, and serde_json refuses them.
fn replace_single_surrogates(text: Cow<'_, str>) -> Cow<'_, str> {
    let code_at = |at: usize| {
        let digits = text.get(at..)?.strip_prefix("\\u")?.get(..4)?;
        u32::from_str_radix(digits, 16).ok()
    };
    let mut replaced = String::new();
    let (mut at, mut copied) = (0, 0);
    while let Some(found) = text[at..].find('\\') {
        at += found;
        let step = match (code_at(at), code_at(at + 6)) {
            (Some(0xD800..=0xDBFF), Some(0xDC00..=0xDFFF)) => 12,
            (Some(0xD800..=0xDFFF), _) => {
                replaced.push_str(&text[copied..at]);
                replaced.push_str("\\ufffd");
                copied = at + 6;
                6
            }
            // The next character is escaped.
            _ => 1 + text[at + 1..].chars().next().map_or(0, char::len_utf8),
        };
        at += step;
    }
    match copied {
        0 => text,
        _ => (replaced + &text[copied..]).into(),
    }
}

/// Like [`json`], for a type that borrows from the text.
///
/// # Errors
/// As [`json`].
pub fn json_text<'de, T: Deserialize<'de>>(text: &'de str) -> Result<T, DecodeError> {
    let text = text.trim_start_matches(BYTE_ORDER_MARK);
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = <&RawValue>::deserialize(&mut deserializer).map_err(syntax_error)?;
    T::deserialize(Json(value.get(), MAX_DEPTH))
}

/// Like [`json_text`], with a seed that decides what is kept.
///
/// # Errors
/// As [`json`].
pub(super) fn json_seed<T: for<'de> DeserializeSeed<'de, Value = V>, V>(text: &str, seed: T) -> Result<V, DecodeError> {
    let text = text.trim_start_matches(BYTE_ORDER_MARK);
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = <&RawValue>::deserialize(&mut deserializer).map_err(syntax_error)?;
    seed.deserialize(Json(value.get(), MAX_DEPTH))
}

/// An upper bound of the number of JSON values in `bytes`, including nested ones. It determines the memory of the
/// decoded value, which the length of the text does not. Invalid JSON is counted heuristically.
pub fn json_values(bytes: &[u8]) -> usize {
    let (mut values, mut in_text, mut escaped) = (1_usize, false, false);
    for &byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b',' | b'[' | b'{' if !in_text => values += 1,
            _ => {}
        }
    }
    values
}

/// Converts an error of serde_json.
fn syntax_error(error: serde_json::Error) -> DecodeError {
    DecodeError::new(error)
}

/// A value: its well-formed text, and the remaining nesting depth.
#[derive(Clone, Copy)]
struct Json<'de>(&'de str, usize);

impl<'de> Json<'de> {
    fn remaining_depth(self) -> Result<usize, DecodeError> {
        let depth = self.1.checked_sub(1);
        depth.ok_or_else(|| {
            DecodeError::new(format!(
                "objects and lists are nested more than {MAX_DEPTH} levels deep"
            ))
        })
    }

    fn is_null(self) -> bool {
        self.0 == "null"
    }

    fn starts_with(self, with: char) -> bool {
        self.0.starts_with(with)
    }

    /// Deserializes with serde_json, including `null`.
    fn deserialize_as_is<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let value = serde_json::Deserializer::from_str(self.0).deserialize_any(visitor);
        // The position is relative to this value, so it is removed.
        value.map_err(|error| {
            let (line, column) = (error.line(), error.column());
            let message = error.to_string();
            DecodeError::new(message.trim_end_matches(&format!(" at line {line} column {column}")))
        })
    }

    fn number<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        if self.is_null() {
            return visitor.visit_u64(0);
        }
        // Some programs write integers as floats.
        let float = serde_json::from_str::<Number>(self.0).ok().filter(Number::is_f64);
        match float.and_then(|float| float.as_f64()) {
            Some(float) if float.fract() == 0.0 && (0.0..=MAX_EXACT_FLOAT).contains(&float) => {
                visitor.visit_u64(float as u64)
            }
            Some(float) if float.fract() == 0.0 && (-MAX_EXACT_FLOAT..0.0).contains(&float) => {
                visitor.visit_i64(float as i64)
            }
            _ => self.deserialize_as_is(visitor),
        }
    }

    /// The fields of an object; the last of equal names counts. `known` are the field names of the type; those that are
    /// `null` are omitted.
    fn fields(self, known: &'static [&'static str]) -> Result<Vec<(Cow<'static, str>, &'de str)>, DecodeError> {
        if self.is_null() {
            return Ok(Vec::new());
        }
        let RawFields(fields) = serde_json::from_str(self.0).map_err(syntax_error)?;
        let fields = fields.into_iter().map(|(name, value)| (Cow::Owned(name), value.get()));
        let mut fields: Vec<(Cow<'static, str>, &str)> = fields.collect();
        for (name, _) in &mut fields {
            if !known.contains(&name.as_ref())
                && let Some(known_name) = known.iter().find(|known| known.eq_ignore_ascii_case(name))
            {
                *name = Cow::Borrowed(known_name);
            }
        }
        // Sort by name, the last of equal names first, and then restore the order of the text.
        let mut order: Vec<usize> = (0..fields.len()).collect();
        order.sort_unstable_by(|&one, &other| fields[one].0.cmp(&fields[other].0).then(other.cmp(&one)));
        order.dedup_by(|one, kept| fields[*one].0 == fields[*kept].0);
        order.retain(|&index| fields[index].1 != "null" || !known.contains(&fields[index].0.as_ref()));
        order.sort_unstable();
        Ok(order
            .into_iter()
            .map(|index| (std::mem::take(&mut fields[index].0), fields[index].1))
            .collect())
    }
}

impl<'de> Deserializer<'de> for Json<'de> {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_as_is(visitor)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.is_null() {
            true => visitor.visit_bool(false),
            false => self.deserialize_as_is(visitor),
        }
    }

    fn deserialize_i8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.number(visitor)
    }

    fn deserialize_i16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.number(visitor)
    }

    fn deserialize_i32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.number(visitor)
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.number(visitor)
    }

    fn deserialize_u8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.number(visitor)
    }

    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.number(visitor)
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.number(visitor)
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.number(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.is_null() {
            true => visitor.visit_str(""),
            false => self.deserialize_as_is(visitor),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.is_null() {
            true => visitor.visit_none(),
            false => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        // Internal types of serde_json, such as `RawValue`, are deserialized by serde_json.
        match name.starts_with("$serde_json") {
            true => serde_json::Deserializer::from_str(self.0)
                .deserialize_newtype_struct(name, visitor)
                .map_err(syntax_error),
            false => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        if self.is_null() {
            return visitor.visit_seq(SeqDeserializer::<_, DecodeError>::new(std::iter::empty::<Json<'de>>()));
        }
        if !self.starts_with('[') {
            return self.deserialize_as_is(visitor);
        }
        let elements: Vec<&RawValue> = serde_json::from_str(self.0).map_err(syntax_error)?;
        visitor.visit_seq(RemainingElements {
            elements: elements.into_iter().enumerate(),
            depth: self.remaining_depth()?,
        })
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _length: usize, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_struct("", &[], visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        if !self.is_null() && !self.starts_with('{') {
            return self.deserialize_as_is(visitor);
        }
        let fields = self.fields(fields)?;
        visitor.visit_map(RemainingFields {
            fields: fields.into_iter(),
            next: None,
            depth: self.remaining_depth()?,
        })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        serde_json::Deserializer::from_str(self.0)
            .deserialize_enum(name, variants, visitor)
            .map_err(syntax_error)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        i128 u128 f32 f64 char bytes byte_buf unit unit_struct tuple_struct identifier
    }
}

impl<'de> IntoDeserializer<'de, DecodeError> for Json<'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// The fields of an object in their original order, including duplicates, with the raw values.
pub struct RawFields<'de>(pub Vec<(String, &'de RawValue)>);

impl<'de> Deserialize<'de> for RawFields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = RawFields<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawFields<'de>, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(RawFields(fields))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// The fields that the type has not requested yet.
struct RemainingFields<'de> {
    fields: std::vec::IntoIter<(Cow<'static, str>, &'de str)>,
    next: Option<(Cow<'static, str>, &'de str)>,
    depth: usize,
}

impl<'de> MapAccess<'de> for RemainingFields<'de> {
    type Error = DecodeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, DecodeError> {
        self.next = self.fields.next();
        let Some((name, _)) = &self.next else { return Ok(None) };
        let key = seed.deserialize(CowStrDeserializer::<DecodeError>::new(Cow::Borrowed(name.as_ref())));
        key.map(Some).map_err(|error| error.in_field(name))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, DecodeError> {
        let Some((name, text)) = self.next.take() else {
            return Err(DecodeError::new("a field without a name"));
        };
        seed.deserialize(Json(text, self.depth))
            .map_err(|error| error.in_field(&name))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.fields.len())
    }
}

/// The list elements that the type has not requested yet, with their positions.
struct RemainingElements<'de> {
    elements: std::iter::Enumerate<std::vec::IntoIter<&'de RawValue>>,
    depth: usize,
}

impl<'de> SeqAccess<'de> for RemainingElements<'de> {
    type Error = DecodeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, DecodeError> {
        let Some((index, value)) = self.elements.find(|(_, value)| value.get() != "null") else {
            return Ok(None);
        };
        let element = seed.deserialize(Json(value.get(), self.depth));
        element.map(Some).map_err(|error| error.in_element(index))
    }
}

#[cfg(test)]
mod tests;
