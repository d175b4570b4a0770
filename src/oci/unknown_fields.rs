//! Unknown fields of a document, which are preserved byte by byte when the document is serialized again.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeSeed, IntoDeserializer, MapAccess, Visitor};
use serde::ser::{Error as _, SerializeMap};
use serde::{Deserialize, Deserializer, Serialize, Serializer, forward_to_deserialize_any};
use serde_json::value::RawValue;

/// The unknown fields of one JSON object: the raw value by field name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UnknownFields(BTreeMap<String, String>);

impl UnknownFields {
    /// The value of a field, if it exists and has the type `T`.
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

/// Implements serde for types whose field `unknown` collects all other fields. They derive the serde traits with
/// `remote = "Self"`, and `unknown` is flattened but not deserialized: flattening in serde would neither keep values
/// byte by byte nor pass on the known field names.
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
                let read = Self::deserialize($crate::oci::unknown_fields::UnknownFieldCollector::new(deserializer, &mut unknown))?;
                Ok(Self { unknown, ..read })
            }
        }
    )*};
}

pub(super) use with_unknown_fields;

/// A struct deserializer that collects the fields that the struct does not have.
pub(super) struct UnknownFieldCollector<'u, D> {
    inner: D,
    unknown: &'u mut UnknownFields,
}

impl<'u, D> UnknownFieldCollector<'u, D> {
    /// Deserializes from `inner` and collects unknown fields in `unknown`.
    pub fn new(inner: D, unknown: &'u mut UnknownFields) -> Self {
        Self { inner, unknown }
    }
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for UnknownFieldCollector<'_, D> {
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
        let known = KnownFields {
            inner: visitor,
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

/// Wraps the visitor or the fields of a struct, and passes on only known fields.
struct KnownFields<'u, T> {
    inner: T,
    fields: &'static [&'static str],
    unknown: &'u mut UnknownFields,
}

impl<'de, V: Visitor<'de>> Visitor<'de> for KnownFields<'_, V> {
    type Value = V::Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(formatter)
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<V::Value, A::Error> {
        self.inner.visit_map(KnownFields {
            inner: fields,
            fields: self.fields,
            unknown: self.unknown,
        })
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for KnownFields<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        while let Some(name) = self.inner.next_key::<String>()? {
            if self.fields.contains(&name.as_str()) {
                return seed.deserialize(name.into_deserializer()).map(Some);
            }
            let value: Box<RawValue> = self.inner.next_value()?;
            self.unknown.0.insert(name, value.get().to_owned());
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.inner.next_value_seed(seed)
    }
}
