//! YAML, read as it streams; nothing of it is kept but the result.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::Value;
use serde_saphyr::DuplicateKeyPolicy;

use super::DecodeError;
use super::json::{json_seed, json_values};

/// Scalars, lists and mappings that a large text may have. The index of the largest public chart repository has half a million
/// of them in 20 MB.
pub const LARGE_NODES: usize = 1_500_000;

/// Reads the only document in `text`, within the usual limits of the YAML reader. JSON is read as such.
///
/// # Errors
/// Where the text is no YAML, or not of the type `T`.
pub fn yaml<T: DeserializeOwned>(text: &str) -> Result<T, DecodeError> {
    with_options(
        text,
        serde_saphyr::options! { duplicate_keys: DuplicateKeyPolicy::LastWins },
        PhantomData::<T>,
    )
}

/// As [`yaml`], for a text of at most `limit` bytes that has more parts than usual, such as the index of a large
/// repository. What is kept of it is up to `seed`.
///
/// # Errors
/// As [`yaml`], and when the text is longer or has more than [`LARGE_NODES`] parts.
pub fn large_yaml<T: for<'de> DeserializeSeed<'de, Value = V> + Clone, V>(
    text: &str,
    limit: usize,
    seed: T,
) -> Result<V, DecodeError> {
    if text.len() > limit {
        return Err(DecodeError::new(format!("it is longer than {limit} bytes")));
    }
    if text.trim_start().starts_with('{') && json_values(text.as_bytes()) > LARGE_NODES {
        return Err(DecodeError::new(format!("it has more than {LARGE_NODES} parts")));
    }
    let budget = serde_saphyr::budget! {
        max_events: 2 * LARGE_NODES,
        max_nodes: LARGE_NODES,
        max_total_scalar_bytes: limit,
    };
    with_options(
        text,
        serde_saphyr::options! { budget: budget, duplicate_keys: DuplicateKeyPolicy::LastWins },
        seed,
    )
}

/// Reads the documents in `text`, whatever they hold.
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
    // Programs that write JSON indent it by tabs too. What only looks like it is YAML.
    if text.trim_start_matches('\u{feff}').trim_start().starts_with('{')
        && let Ok(read) = json_seed(text, seed.clone())
    {
        return Ok(read);
    }
    let read =
        serde_saphyr::with_deserializer_from_str_with_options(text, options, |yaml| seed.deserialize(Yaml(yaml)));
    read.map_err(first_line)
}

/// What the reader says, without the excerpt that it draws below.
fn first_line(error: serde_saphyr::Error) -> DecodeError {
    DecodeError::new(error.to_string().lines().next().unwrap_or_default())
}

/// A deserializer that leaves the `null` elements of lists out, and takes a `null` field for the empty value of its type.
struct Yaml<D>(D);

/// Forwards requests, with what lies within seen in the same way.
macro_rules! forward {
    ($($method:ident($($argument:ident: $type:ty),*)),* $(,)?) => {$(
        fn $method<V: Visitor<'de>>(self, $($argument: $type,)* visitor: V) -> Result<V::Value, D::Error> {
            self.0.$method($($argument,)* Within(visitor))
        }
    )*};
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Yaml<D> {
    type Error = D::Error;

    // Whoever takes anything gets what stands there.
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

/// The visitor of a type, which is given [`Yaml`] where it is given a deserializer.
struct Within<V>(V);

macro_rules! visit {
    ($($method:ident($type:ty)),* $(,)?) => {$(
        fn $method<E: serde::de::Error>(self, value: $type) -> Result<V::Value, E> {
            self.0.$method(value)
        }
    )*};
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Within<V> {
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
        self.0.visit_seq(Elements(elements))
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<V::Value, A::Error> {
        self.0.visit_map(Fields(fields))
    }
}

struct Elements<A>(A);

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Elements<A> {
    type Error = A::Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, A::Error> {
        let mut seed = Some(seed);
        loop {
            match self.0.next_element_seed(Present(&mut seed))? {
                Some(Some(value)) => return Ok(Some(value)),
                Some(None) if seed.is_some() => {}
                _ => return Ok(None),
            }
        }
    }
}

struct Fields<A>(A);

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Fields<A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        self.0.next_key_seed(seed)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, A::Error> {
        let mut seed = Some(seed);
        match (self.0.next_value_seed(Present(&mut seed))?, seed) {
            (Some(value), _) => Ok(value),
            (None, Some(seed)) => seed.deserialize(Null(PhantomData)),
            (None, None) => Err(A::Error::custom("a value that was read already")),
        }
    }
}

/// Takes the seed for a value that is not `null`.
struct Present<'a, T>(&'a mut Option<T>);

impl<'de, T: DeserializeSeed<'de>> DeserializeSeed<'de> for Present<'_, T> {
    type Value = Option<T::Value>;

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<Self::Value, D::Error> {
        value.deserialize_option(self)
    }
}

impl<'de, T: DeserializeSeed<'de>> Visitor<'de> for Present<'_, T> {
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

/// The empty value of each type.
struct Null<E>(PhantomData<E>);

macro_rules! empty {
    ($($method:ident: $visit:ident($value:expr)),* $(,)?) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, E> {
            visitor.$visit($value)
        }
    )*};
}

impl<'de, E: serde::de::Error> Deserializer<'de> for Null<E> {
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
    fn null_counts_as_absent_and_texts_stay_texts() {
        let read = charts(
            "a:\n- null\n- version: 1.10\n  urls: [~, x, null]\n  inner: {version: ~, urls: ~, labels: {b: null}}\n-\nb: null\nc:\n",
        );
        assert_eq!((read["b"].len(), read["c"].len(), read["a"].len()), (0, 0, 1));
        let chart = &read["a"][0];
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
    fn the_last_of_a_name_counts() {
        assert_eq!(charts("a: [{version: x, version: y}]")["a"][0].version, "y");
        assert_eq!(charts("\u{feff}a: []\na: [{}]")["a"].len(), 1);
        assert_eq!(charts("").len(), 0);
    }

    #[test]
    fn json_is_read_as_such_and_yaml_that_looks_like_it_too() {
        let json = "\u{feff}{\n\t\"a\": [\n\t\t{\"version\": \"1\", \"count\": 2, \"urls\": null}\n\t]\n}\n";
        assert_eq!(
            (charts(json)["a"][0].version.as_str(), charts(json)["a"][0].count),
            ("1", 2)
        );
        assert_eq!(charts("{a: [{version: 1.10}], b: }")["a"][0].version, "1.10");
        assert_eq!(charts("{\"a\": [{\"version\": 1.10}]}")["a"][0].version, "1.10");
    }

    #[test]
    fn documents_are_read_one_by_one() {
        let read = yaml_documents("---\r\na: 1\r\na: 2\r\n---\r\n---\r\nb: ~\r\n").unwrap();
        let read: Vec<Value> = read.into_iter().filter(|document| !document.is_null()).collect();
        assert_eq!(read, [json!({"a": 2}), json!({"b": null})]);
        assert!(yaml_documents("a: [").is_err());
    }

    #[test]
    fn anchors_are_followed_within_bounds() {
        let read: Value = yaml("a: &x {b: [1]}\nc: *x\nd:\n  <<: *x\n  e: 2\n").unwrap();
        assert_eq!(read["c"], json!({"b": [1]}));
        assert_eq!(read["d"], json!({"b": [1], "e": 2}));
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
        for level in 1..12 {
            let below = format!("*a{}, ", level - 1).repeat(9);
            bomb.push_str(&format!("a{level}: &a{level} [{}]\n", below.trim_end_matches(", ")));
        }
        assert!(yaml::<Value>(&bomb).is_err());
        assert!(yaml_documents(&bomb).is_err());
    }

    #[test]
    fn refuses_what_is_too_long_or_another_type() {
        assert!(large_yaml("a: b", 3, PhantomData::<Value>).is_err());
        let many = "- a\n".repeat(LARGE_NODES + 1);
        assert!(large_yaml(&many, usize::MAX, PhantomData::<serde::de::IgnoredAny>).is_err());
        assert!(yaml::<BTreeMap<String, Vec<Chart>>>("a: [{count: x}]").is_err());
        let error = yaml::<Value>("a: [").unwrap_err().to_string();
        assert!(!error.contains('\n'), "{error}");
    }
}
