//! JSON. The text of a value is looked at once for each object or list around it that a type asks for, and values that
//! no type asks for are not read, so the memory is that of the result and of one object's fields.

use std::borrow::Cow;
use std::fmt;

use serde::de::value::{CowStrDeserializer, SeqDeserializer};
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, forward_to_deserialize_any};
use serde_json::Number;
use serde_json::value::RawValue;

use super::DecodeError;

/// What some editors and programs of Windows begin a file with.
const BYTE_ORDER_MARK: char = '\u{feff}';
/// How deep objects and lists may lie in each other; serde_json has the same limit.
const DEPTH_LIMIT: usize = 128;
/// The largest whole number that a float gives exactly.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// Reads the value that `bytes` begin with. Bytes that are not UTF-8 become replacement characters.
///
/// # Errors
/// Where the text is no JSON, or not of the type `T`.
pub fn json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    json_text(&String::from_utf8_lossy(bytes))
}

/// As [`json`], for a type that borrows from its text.
///
/// # Errors
/// As [`json`].
pub fn json_text<'de, T: Deserialize<'de>>(text: &'de str) -> Result<T, DecodeError> {
    let text = text.trim_start_matches(BYTE_ORDER_MARK);
    let mut first = serde_json::Deserializer::from_str(text);
    let value = <&RawValue>::deserialize(&mut first).map_err(syntax)?;
    T::deserialize(Json(value.get(), DEPTH_LIMIT))
}

/// As [`json_text`]; what is kept of it is up to `seed`.
///
/// # Errors
/// As [`json`].
pub(super) fn json_seed<T: for<'de> DeserializeSeed<'de, Value = V>, V>(text: &str, seed: T) -> Result<V, DecodeError> {
    let text = text.trim_start_matches(BYTE_ORDER_MARK);
    let mut first = serde_json::Deserializer::from_str(text);
    let value = <&RawValue>::deserialize(&mut first).map_err(syntax)?;
    seed.deserialize(Json(value.get(), DEPTH_LIMIT))
}

/// How many values the JSON in `bytes` has at most, those within others included: what they take in memory once they are read
/// does not follow from the length of the text. Bytes that are no JSON are counted as far as they look like it.
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

/// serde_json's own description without its position where that is always the start of a value.
fn syntax(error: serde_json::Error) -> DecodeError {
    DecodeError::new(error)
}

/// One value: its text, which is well-formed, and how many objects and lists it may still hold within each other.
#[derive(Clone, Copy)]
struct Json<'de>(&'de str, usize);

impl<'de> Json<'de> {
    fn inner_depth(self) -> Result<usize, DecodeError> {
        let depth = self.1.checked_sub(1);
        depth.ok_or_else(|| DecodeError::new(format!("more than {DEPTH_LIMIT} objects and lists lie in each other")))
    }

    fn is_null(self) -> bool {
        self.0 == "null"
    }

    fn begins(self, with: char) -> bool {
        self.0.starts_with(with)
    }

    /// As serde_json has it, `null` included.
    fn as_it_is<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let value = serde_json::Deserializer::from_str(self.0).deserialize_any(visitor);
        // The position is that within this value, which tells nobody anything.
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
        // A whole number may be written as a float, as programs do that know only floats.
        let float = serde_json::from_str::<Number>(self.0).ok().filter(Number::is_f64);
        match float.and_then(|float| float.as_f64()) {
            Some(float) if float.fract() == 0.0 && (0.0..=EXACT).contains(&float) => visitor.visit_u64(float as u64),
            Some(float) if float.fract() == 0.0 && (-EXACT..0.0).contains(&float) => visitor.visit_i64(float as i64),
            _ => self.as_it_is(visitor),
        }
    }

    /// The fields of an object, of those of one name the last. `known` are the names that a type asks for; those that are
    /// `null` are left out.
    fn fields(self, known: &'static [&'static str]) -> Result<Vec<(Cow<'static, str>, &'de str)>, DecodeError> {
        if self.is_null() {
            return Ok(Vec::new());
        }
        let RawFields(fields) = serde_json::from_str(self.0).map_err(syntax)?;
        let fields = fields.into_iter().map(|(name, value)| (Cow::Owned(name), value.get()));
        let mut fields: Vec<(Cow<'static, str>, &str)> = fields.collect();
        for (name, _) in &mut fields {
            if !known.contains(&name.as_ref())
                && let Some(meant) = known.iter().find(|known| known.eq_ignore_ascii_case(name))
            {
                *name = Cow::Borrowed(meant);
            }
        }
        // Sorted by their names with the last of one name first, and then in the order of the text again.
        let mut order: Vec<usize> = (0..fields.len()).collect();
        order.sort_unstable_by(|&one, &other| fields[one].0.cmp(&fields[other].0).then(other.cmp(&one)));
        order.dedup_by(|one, kept| fields[*one].0 == fields[*kept].0);
        order.retain(|&at| fields[at].1 != "null" || !known.contains(&fields[at].0.as_ref()));
        order.sort_unstable();
        Ok(order
            .into_iter()
            .map(|at| (std::mem::take(&mut fields[at].0), fields[at].1))
            .collect())
    }
}

impl<'de> Deserializer<'de> for Json<'de> {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.as_it_is(visitor)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.is_null() {
            true => visitor.visit_bool(false),
            false => self.as_it_is(visitor),
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
            false => self.as_it_is(visitor),
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
        // serde_json's own types, such as `RawValue`, are read by it alone.
        match name.starts_with("$serde_json") {
            true => serde_json::Deserializer::from_str(self.0)
                .deserialize_newtype_struct(name, visitor)
                .map_err(syntax),
            false => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        if self.is_null() {
            return visitor.visit_seq(SeqDeserializer::<_, DecodeError>::new(std::iter::empty::<Json<'de>>()));
        }
        if !self.begins('[') {
            return self.as_it_is(visitor);
        }
        let elements: Vec<&RawValue> = serde_json::from_str(self.0).map_err(syntax)?;
        visitor.visit_seq(Elements {
            elements: elements.into_iter().enumerate(),
            depth: self.inner_depth()?,
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
        if !self.is_null() && !self.begins('{') {
            return self.as_it_is(visitor);
        }
        let fields = self.fields(fields)?;
        visitor.visit_map(Remaining {
            fields: fields.into_iter(),
            next: None,
            depth: self.inner_depth()?,
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
            .map_err(syntax)
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

/// The fields of an object in the order of the text, each as often as it is there, with the texts of their values.
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

/// The fields that a type has not taken yet.
struct Remaining<'de> {
    fields: std::vec::IntoIter<(Cow<'static, str>, &'de str)>,
    next: Option<(Cow<'static, str>, &'de str)>,
    depth: usize,
}

impl<'de> MapAccess<'de> for Remaining<'de> {
    type Error = DecodeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, DecodeError> {
        self.next = self.fields.next();
        let Some((name, _)) = &self.next else { return Ok(None) };
        let key = seed.deserialize(CowStrDeserializer::<DecodeError>::new(Cow::Borrowed(name.as_ref())));
        key.map(Some).map_err(|error| error.within_field(name))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, DecodeError> {
        let Some((name, text)) = self.next.take() else {
            return Err(DecodeError::new("a field without a name"));
        };
        seed.deserialize(Json(text, self.depth))
            .map_err(|error| error.within_field(&name))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.fields.len())
    }
}

/// The elements of a list that a type has not taken yet, with their positions.
struct Elements<'de> {
    elements: std::iter::Enumerate<std::vec::IntoIter<&'de RawValue>>,
    depth: usize,
}

impl<'de> SeqAccess<'de> for Elements<'de> {
    type Error = DecodeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, DecodeError> {
        let Some((at, value)) = self.elements.find(|(_, value)| value.get() != "null") else {
            return Ok(None);
        };
        let element = seed.deserialize(Json(value.get(), self.depth));
        element.map(Some).map_err(|error| error.within_element(at))
    }
}

#[cfg(test)]
mod tests;
