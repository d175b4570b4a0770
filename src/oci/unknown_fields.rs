//! Fields of a document that we do not know, which stay to the byte when the document is written anew.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeSeed, IntoDeserializer, MapAccess, Visitor};
use serde::ser::{Error as _, SerializeMap};
use serde::{Deserialize, Deserializer, Serialize, Serializer, forward_to_deserialize_any};
use serde_json::value::RawValue;

/// The unknown fields of one JSON object: the text of each value, by the field's name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UnknownFields(BTreeMap<String, String>);

impl UnknownFields {
    /// The value of a field, if it is there and of the type `T`.
    pub fn get<'f, T: Deserialize<'f>>(&'f self, name: &str) -> Option<T> {
        serde_json::from_str(self.0.get(name)?).ok()
    }
}

impl Serialize for UnknownFields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, text) in &self.0 {
            let value: &RawValue = serde_json::from_str(text).map_err(S::Error::custom)?;
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// Reads types whose field `unknown` takes all fields that they do not name. They derive serde's traits with
/// `remote = "Self"`, where `unknown` is flattened and not deserialized: serde's own way to collect fields would neither
/// leave values as they are written nor say the names that the type knows.
macro_rules! with_unknown_fields {
    ($($type:ty),*) => {$(
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                Self::serialize(self, serializer)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let mut unknown = $crate::oci::UnknownFields::default();
                let read = Self::deserialize($crate::oci::unknown_fields::Collecting::new(deserializer, &mut unknown))?;
                Ok(Self { unknown, ..read })
            }
        }
    )*};
}

pub(super) use with_unknown_fields;

/// A deserializer of a struct that keeps the fields which the struct does not name.
pub(super) struct Collecting<'u, D> {
    inner: D,
    unknown: &'u mut UnknownFields,
}

impl<'u, D> Collecting<'u, D> {
    /// Reads with `inner`, and keeps in `unknown` what the struct does not name.
    pub fn new(inner: D, unknown: &'u mut UnknownFields) -> Self {
        Self { inner, unknown }
    }
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Collecting<'_, D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_any(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let unknown = self.unknown;
        let known = Known {
            of: visitor,
            fields,
            unknown,
        };
        self.inner.deserialize_struct(name, fields, known)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// The visitor of a struct, or its fields, of which those are passed on that it names.
struct Known<'u, T> {
    of: T,
    fields: &'static [&'static str],
    unknown: &'u mut UnknownFields,
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Known<'_, V> {
    type Value = V::Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.of.expecting(formatter)
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<V::Value, A::Error> {
        self.of.visit_map(Known {
            of: fields,
            fields: self.fields,
            unknown: self.unknown,
        })
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Known<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        while let Some(name) = self.of.next_key::<String>()? {
            if self.fields.contains(&name.as_str()) {
                return seed.deserialize(name.into_deserializer()).map(Some);
            }
            let value: Box<RawValue> = self.of.next_value()?;
            self.unknown.0.insert(name, value.get().to_owned());
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.of.next_value_seed(seed)
    }
}
