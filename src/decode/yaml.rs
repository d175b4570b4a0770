//! YAML, decoded as a stream; only the result is kept in memory.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::Value;
use serde_saphyr::DuplicateKeyPolicy;

use super::DecodeError;
use super::json::{json_seed, json_values};

/// Maximum number of nodes in a large document. The index of the largest public chart repository has half a million in
/// 20 MB.
pub const MAX_NODES: usize = 1_500_000;

/// Decodes the only document in `text`, within the default limits of the YAML parser. JSON is decoded as JSON.
///
/// # Errors
/// If the text is not YAML, or not of the type `T`.
pub fn yaml<T: DeserializeOwned>(text: &str) -> Result<T, DecodeError> {
    with_options(
        text,
        serde_saphyr::options! { duplicate_keys: DuplicateKeyPolicy::LastWins },
        PhantomData::<T>,
    )
}

/// Like [`yaml`], for a text of at most `limit` bytes with more nodes than the default, such as the index of a large
/// chart repository. `seed` decides what is kept.
///
/// # Errors
/// As [`yaml`], and if the text is longer or has more than [`MAX_NODES`] nodes.
pub fn large_yaml<T: for<'de> DeserializeSeed<'de, Value = V> + Clone, V>(
    text: &str,
    limit: usize,
    seed: T,
) -> Result<V, DecodeError> {
    if text.len() > limit {
        return Err(DecodeError::new(format!("it is longer than {limit} bytes")));
    }
    if text.trim_start().starts_with('{') && json_values(text.as_bytes()) > MAX_NODES {
        return Err(DecodeError::new(format!("it has more than {MAX_NODES} nodes")));
    }
    let budget = serde_saphyr::budget! {
        max_events: 2 * MAX_NODES,
        max_nodes: MAX_NODES,
        max_total_scalar_bytes: limit,
    };
    with_options(
        text,
        serde_saphyr::options! { budget: budget, duplicate_keys: DuplicateKeyPolicy::LastWins },
        seed,
    )
}

/// Decodes all documents in `text` as untyped values.
///
/// # Errors
/// As [`yaml`].
pub fn yaml_documents(text: &str) -> Result<Vec<Value>, DecodeError> {
    let options = serde_saphyr::options! { duplicate_keys: DuplicateKeyPolicy::LastWins };
    serde_saphyr::from_multiple_with_options(text, options).map_err(first_line)
}

fn with_options<T: for<'de> DeserializeSeed<'de, Value = V> + Clone, V>(
    text: &str,
    options: serde_saphyr::Options,
    seed: T,
) -> Result<V, DecodeError> {
    // JSON may be indented by tabs, which YAML does not allow. Text that only looks like JSON is YAML.
    if text.trim_start_matches('\u{feff}').trim_start().starts_with('{')
        && let Ok(decoded) = json_seed(text, seed.clone())
    {
        return Ok(decoded);
    }
    let decoded =
        serde_saphyr::with_deserializer_from_str_with_options(text, options, |yaml| seed.deserialize(Yaml(yaml)));
    decoded.map_err(first_line)
}

/// The first line of the message, without the excerpt.
pub(super) fn first_line(error: serde_saphyr::Error) -> DecodeError {
    DecodeError::new(error.to_string().lines().next().unwrap_or_default())
}

/// A deserializer that skips `null` list elements and converts `null` fields to the empty value of their type.
struct Yaml<D>(D);

/// Forwards requests and wraps the visitor.
macro_rules! forward {
    ($($method:ident($($argument:ident: $type:ty),*)),* $(,)?) => {$(
        fn $method<V: Visitor<'de>>(self, $($argument: $type,)* visitor: V) -> Result<V::Value, D::Error> {
            self.0.$method($($argument,)* NestedVisitor(visitor))
        }
    )*};
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Yaml<D> {
    type Error = D::Error;

    // Types that accept anything get the original value.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_any(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_ignored_any(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_enum(name, variants, visitor)
    }

    forward! {
        deserialize_bool(),
        deserialize_i8(),
        deserialize_i16(),
        deserialize_i32(),
        deserialize_i64(),
        deserialize_u8(),
        deserialize_u16(),
        deserialize_u32(),
        deserialize_u64(),
        deserialize_f32(),
        deserialize_f64(),
        deserialize_char(),
        deserialize_str(),
        deserialize_string(),
        deserialize_bytes(),
        deserialize_byte_buf(),
        deserialize_seq(),
        deserialize_map(),
        deserialize_identifier(),
        deserialize_option(),
        deserialize_unit(),
        deserialize_unit_struct(name: &'static str),
        deserialize_newtype_struct(name: &'static str),
        deserialize_tuple(length: usize),
        deserialize_tuple_struct(name: &'static str, length: usize),
        deserialize_struct(name: &'static str, fields: &'static [&'static str]),
    }
}

/// Wraps a visitor, so that nested deserializers are wrapped in [`Yaml`].
struct NestedVisitor<V>(V);

macro_rules! visit {
    ($($method:ident($type:ty)),* $(,)?) => {$(
        fn $method<E: serde::de::Error>(self, value: $type) -> Result<V::Value, E> {
            self.0.$method(value)
        }
    )*};
}

impl<'de, V: Visitor<'de>> Visitor<'de> for NestedVisitor<V> {
    type Value = V::Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(formatter)
    }

    visit! {
        visit_bool(bool), visit_i64(i64), visit_i128(i128), visit_u64(u64), visit_u128(u128), visit_f64(f64),
        visit_char(char), visit_str(&str), visit_borrowed_str(&'de str), visit_string(String), visit_bytes(&[u8]),
        visit_borrowed_bytes(&'de [u8]), visit_byte_buf(Vec<u8>),
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<V::Value, E> {
        self.0.visit_none()
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<V::Value, E> {
        self.0.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.0.visit_some(Yaml(inner))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.0.visit_newtype_struct(Yaml(inner))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, elements: A) -> Result<V::Value, A::Error> {
        self.0.visit_seq(ElementAccess(elements))
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<V::Value, A::Error> {
        self.0.visit_map(FieldAccess(fields))
    }
}

struct ElementAccess<A>(A);

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for ElementAccess<A> {
    type Error = A::Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, A::Error> {
        let mut seed = Some(seed);
        loop {
            match self.0.next_element_seed(NonNullSeed(&mut seed))? {
                Some(Some(value)) => return Ok(Some(value)),
                Some(None) if seed.is_some() => {}
                _ => return Ok(None),
            }
        }
    }
}

struct FieldAccess<A>(A);

impl<'de, A: MapAccess<'de>> MapAccess<'de> for FieldAccess<A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        self.0.next_key_seed(seed)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, A::Error> {
        let mut seed = Some(seed);
        match (self.0.next_value_seed(NonNullSeed(&mut seed))?, seed) {
            (Some(value), _) => Ok(value),
            (None, Some(seed)) => seed.deserialize(EmptyValue(PhantomData)),
            (None, None) => Err(A::Error::custom("a value that was read already")),
        }
    }
}

/// Uses the seed only for a value that is not `null`.
struct NonNullSeed<'a, T>(&'a mut Option<T>);

impl<'de, T: DeserializeSeed<'de>> DeserializeSeed<'de> for NonNullSeed<'_, T> {
    type Value = Option<T::Value>;

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<Self::Value, D::Error> {
        value.deserialize_option(self)
    }
}

impl<'de, T: DeserializeSeed<'de>> Visitor<'de> for NonNullSeed<'_, T> {
    type Value = Option<T::Value>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value")
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, value: D) -> Result<Self::Value, D::Error> {
        self.0.take().map(|seed| seed.deserialize(Yaml(value))).transpose()
    }
}

/// A deserializer of the empty value of each type.
struct EmptyValue<E>(PhantomData<E>);

macro_rules! empty {
    ($($method:ident: $visit:ident($value:expr)),* $(,)?) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
            visitor.$visit($value)
        }
    )*};
}

impl<'de, E: serde::de::Error> Deserializer<'de> for EmptyValue<E> {
    type Error = E;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
        visitor.visit_unit()
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
        visitor.visit_none()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value, E> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
        visitor.visit_seq(SeqDeserializer::<_, E>::new(std::iter::empty::<()>()))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
        visitor.visit_map(MapDeserializer::<_, E>::new(std::iter::empty::<((), ())>()))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, E> {
        self.deserialize_map(visitor)
    }

    empty! {
        deserialize_bool: visit_bool(false),
        deserialize_i8: visit_i64(0), deserialize_i16: visit_i64(0), deserialize_i32: visit_i64(0),
        deserialize_i64: visit_i64(0), deserialize_u8: visit_u64(0), deserialize_u16: visit_u64(0),
        deserialize_u32: visit_u64(0), deserialize_u64: visit_u64(0), deserialize_f32: visit_f64(0.0),
        deserialize_f64: visit_f64(0.0), deserialize_str: visit_str(""), deserialize_string: visit_str(""),
        deserialize_bytes: visit_bytes(b""), deserialize_byte_buf: visit_bytes(b""),
    }

    forward_to_deserialize_any! {
        i128 u128 char unit unit_struct tuple tuple_struct enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Chart {
        version: String,
        urls: Vec<String>,
        count: u64,
        digest: Option<String>,
        labels: BTreeMap<String, String>,
        inner: Option<Box<Chart>>,
        any: Value,
    }

    fn charts(text: &str) -> BTreeMap<String, Vec<Chart>> {
        yaml(text).unwrap()
    }

    #[test]
    fn null_counts_as_absent_and_numbers_become_strings() {
        let decoded = charts(
            "a:\n- null\n- version: 1.10\n  urls: [~, x, null]\n  inner: {version: ~, urls: ~, labels: {b: null}}\n-\nb: null\nc:\n",
        );
        assert_eq!((decoded["b"].len(), decoded["c"].len(), decoded["a"].len()), (0, 0, 1));
        let chart = &decoded["a"][0];
        assert_eq!(
            (chart.version.as_str(), chart.urls.as_slice()),
            ("1.10", &["x".to_owned()][..])
        );
        assert_eq!(chart.inner.as_ref().unwrap().version, "");
        let nothing = "a: [{version: null, urls: null, count: null, digest: ~, labels: ~, inner: ~, any: ~}]";
        assert_eq!(charts(nothing)["a"], [Chart::default()]);
        assert_eq!(
            charts("a: [{any: [null, {b: ~}]}]")["a"][0].any,
            json!([null, {"b": null}])
        );
    }

    #[test]
    fn the_last_of_equal_fields_counts() {
        assert_eq!(charts("a: [{version: x, version: y}]")["a"][0].version, "y");
        assert_eq!(charts("\u{feff}a: []\na: [{}]")["a"].len(), 1);
        assert_eq!(charts("").len(), 0);
    }

    #[test]
    fn json_and_flow_style_yaml_are_decoded() {
        let json = "\u{feff}{\n\t\"a\": [\n\t\t{\"version\": \"1\", \"count\": 2, \"urls\": null}\n\t]\n}\n";
        assert_eq!(
            (charts(json)["a"][0].version.as_str(), charts(json)["a"][0].count),
            ("1", 2)
        );
        assert_eq!(charts("{a: [{version: 1.10}], b: }")["a"][0].version, "1.10");
        assert_eq!(charts("{\"a\": [{\"version\": 1.10}]}")["a"][0].version, "1.10");
    }

    #[test]
    fn multiple_documents_are_decoded() {
        let decoded = yaml_documents("---\r\na: 1\r\na: 2\r\n---\r\n---\r\nb: ~\r\n").unwrap();
        let decoded: Vec<Value> = decoded.into_iter().filter(|document| !document.is_null()).collect();
        assert_eq!(decoded, [json!({"a": 2}), json!({"b": null})]);
        assert!(yaml_documents("a: [").is_err());
    }

    #[test]
    fn anchors_are_resolved_within_limits() {
        let decoded: Value = yaml("a: &x {b: [1]}\nc: *x\nd:\n  <<: *x\n  e: 2\n").unwrap();
        assert_eq!(decoded["c"], json!({"b": [1]}));
        assert_eq!(decoded["d"], json!({"b": [1], "e": 2}));
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
        for level in 1..12 {
            let below = format!("*a{}, ", level - 1).repeat(9);
            bomb.push_str(&format!("a{level}: &a{level} [{}]\n", below.trim_end_matches(", ")));
        }
        assert!(yaml::<Value>(&bomb).is_err());
        assert!(yaml_documents(&bomb).is_err());
    }

    #[test]
    fn too_long_texts_and_wrong_types_are_rejected() {
        assert!(large_yaml("a: b", 3, PhantomData::<Value>).is_err());
        let many = "- a\n".repeat(MAX_NODES + 1);
        assert!(large_yaml(&many, usize::MAX, PhantomData::<serde::de::IgnoredAny>).is_err());
        assert!(yaml::<BTreeMap<String, Vec<Chart>>>("a: [{count: x}]").is_err());
        let error = yaml::<Value>("a: [").unwrap_err().to_string();
        assert!(!error.contains('\n'), "{error}");
    }
}
