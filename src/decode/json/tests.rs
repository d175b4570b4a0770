use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;
use serde_json::{Value, json as literal};

use super::*;

/// A text with a form of its own, as a digest has.
#[derive(Debug, PartialEq, serde::Deserialize)]
#[serde(try_from = "String")]
struct Digest(String);

impl TryFrom<String> for Digest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.strip_prefix("sha256:") {
            Some(hex) => Ok(Self(hex.to_owned())),
            None => Err(format!("`{text}` is not a digest")),
        }
    }
}

#[derive(Debug, Default, PartialEq, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Page {
    media_type: String,
    size: u64,
    offset: i64,
    done: bool,
    tags: Vec<String>,
    labels: BTreeMap<String, String>,
    inner: Option<Box<Page>>,
    pages: Vec<Page>,
    any: Value,
}

#[derive(Debug, PartialEq, serde::Deserialize)]
struct Whole {
    digest: Digest,
    #[serde(flatten)]
    others: HashMap<String, Value>,
}

fn page(text: &str) -> Page {
    json(text.as_bytes()).unwrap()
}

#[test]
fn null_counts_as_absent_and_the_last_of_equal_fields_counts() {
    let nothing = r#"{"mediaType":null,"size":null,"offset":null,"done":null,"tags":null,"labels":null,"inner":null,"pages":null}"#;
    assert_eq!(page(nothing), Page::default());
    assert_eq!(page("null"), Page::default());
    assert_eq!(page(r#"{"tags":[null,"a",null,"b"]}"#).tags, ["a", "b"]);
    assert_eq!(page(r#"{"pages":[null,{"size":1},{}]}"#).pages.len(), 2);
    assert_eq!(page(r#"{"size":1,"size":2}"#).size, 2);
    assert_eq!(page(r#"{"SIZE":1,"Size":2}"#).size, 2);
    assert_eq!(
        page(r#"{"MediaType":"a","inner":{"mediatype":"b"}}"#)
            .inner
            .unwrap()
            .media_type,
        "b"
    );
    let labels = page(r#"{"labels":{"a":"1","b":null,"a":"2"}}"#).labels;
    assert_eq!(
        labels,
        BTreeMap::from([("a", "2"), ("b", "")].map(|(key, value)| (key.to_owned(), value.to_owned())))
    );
}

#[test]
fn floats_byte_order_marks_and_trailing_text_are_accepted() {
    for (text, size) in [("1e3", 1000), ("1000.0", 1000), ("18446744073709551615", u64::MAX)] {
        assert_eq!(page(&format!(r#"{{"size":{text}}}"#)).size, size);
    }
    assert_eq!(page(r#"{"offset":-1e3}"#).offset, -1000);
    for bad in ["-1", "1.5", "\"1\"", "1e300", "[]"] {
        assert!(
            json::<Page>(format!(r#"{{"size":{bad}}}"#).as_bytes()).is_err(),
            "{bad}"
        );
    }
    assert_eq!(page("\u{feff}{\"size\":1}\n").size, 1);
    assert_eq!(page("{\"size\":1}\n<!-- -->").size, 1);
    assert_eq!(
        json::<Page>(b"{\"mediaType\":\"\xff\"}").unwrap().media_type,
        "\u{fffd}"
    );
}

#[test]
fn single_surrogates_become_replacement_characters() {
    for (text, decoded) in [
        (r"a\ud83d\ude00b", "a\u{1f600}b"),
        (r"a\uD83D", "a\u{fffd}"),
        (r"\ude00\ud83d!", "\u{fffd}\u{fffd}!"),
        (r"\ud83d\ud83d\ude00", "\u{fffd}\u{1f600}"),
        (r"\\ud83d\u0041\\", r"\ud83dA\"),
        (r"\ud83d\n", "\u{fffd}\n"),
    ] {
        assert_eq!(
            page(&format!(r#"{{"mediaType":"{text}"}}"#)).media_type,
            decoded,
            "{text}"
        );
    }
    assert_eq!(page(r#"{"labels":{"\udc00":"a"}}"#).labels["\u{fffd}"], "a");
    for bad in [
        r#"{"mediaType":"\"#,
        r#"{"mediaType":"\u"#,
        r#"{"mediaType":"\ud83"}"#,
        "\\",
        "\\é",
    ] {
        assert!(json::<Page>(bad.as_bytes()).is_err(), "{bad}");
    }
}

#[test]
fn untyped_values_are_unchanged() {
    let value = literal!({"a": [null, 1.5, {"b": null}], "a b": "c"});
    assert_eq!(page(&literal!({ "any": value }).to_string()).any, value);
    let text = r#"{"digest":"sha256:ab","x":{"y":[null]},"z":null}"#;
    let read: Whole = json(text.as_bytes()).unwrap();
    let others = HashMap::from([("x".to_owned(), literal!({"y": [null]})), ("z".to_owned(), Value::Null)]);
    assert_eq!(read.others, others);
}

#[test]
fn errors_contain_the_path() {
    let error = |text: &str| {
        json::<BTreeMap<String, Vec<Whole>>>(text.as_bytes())
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        error(r#"{"manifests":[null,{"size":1}]}"#),
        "manifests[1]: missing field `digest`"
    );
    assert_eq!(
        error(r#"{"manifests":[{"digest":""}]}"#),
        error(r#"{"manifests":[{"digest":null}]}"#)
    );
    assert!(error(r#"{"manifests":[{"digest":"x"}]}"#).starts_with("manifests[0].digest: `x` is not a digest"));
    assert!(error(r#"{"manifests":"x"}"#).starts_with("manifests: invalid type: string"));
    assert!(error("<html>").contains("expected value at line 1"));
    assert!(error("{\"a\":").contains("EOF"));
    let long = format!(r#"{{"{}":1}}"#, "a\\n".repeat(1000));
    assert!(error(&long).len() < 500 && !error(&long).contains('\n'));
}

#[test]
fn nesting_is_limited() {
    let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
    assert!(json::<Value>(deep.as_bytes()).is_err());
    let inner = format!(
        "{}{}",
        r#"{"inner":"#.repeat(5_000),
        "{}".to_owned() + &"}".repeat(5_000)
    );
    assert!(json::<Page>(inner.as_bytes()).is_err());
}

proptest! {
    #[test]
    fn output_of_serde_json_is_decoded(tags in proptest::collection::vec("\\PC{0,20}", 0..8), size: u64, offset: i64) {
        let text = literal!({"tags": tags, "size": size, "offset": offset}).to_string();
        let read = page(&text);
        prop_assert_eq!((read.tags, read.size, read.offset), (tags, size, offset));
    }

    #[test]
    fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = json::<Page>(&bytes);
    }
}

#[test]
fn values_are_counted_without_decoding() {
    for (text, expected) in [
        ("", 1),
        ("1", 1),
        ("[1,2]", 3),
        (r#"{"a":"b,{[","c":[{},"\",\\"]}"#, 6),
        (r#"{"a\\":[],"b":[]}"#, 5),
    ] {
        assert_eq!(json_values(text.as_bytes()), expected, "{text}");
    }
}
