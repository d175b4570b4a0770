//! What the body of a failing answer says for people: the errors of the distribution specification, and what registries,
//! storage, proxies and token services write instead. Pure.
//!
//! What it says is one bounded line without characters that a terminal would act on, and without what differs from one
//! try to the next: times, and names of requests.

use std::borrow::Cow;
use std::io::Read as _;
use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Map, Value};

/// The longest explanation in characters.
const LIMIT: usize = 300;
/// The longest `detail` of one error in characters.
const DETAIL_LIMIT: usize = 160;
/// Bytes of a compressed body that are read.
const INFLATED_LIMIT: usize = 64 * 1024;
/// How many errors of one answer are read.
const ERRORS: usize = 4;
/// How deep `detail` is looked into.
const DEPTH: usize = 3;

/// What some explanations mean, whatever status they come with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Says {
    /// The registry is full, or a quota is used up.
    NoSpace,
    /// What stands under the tag stays.
    Immutable,
}

/// The explanation of a failing answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Explanation {
    /// The codes of its errors, such as `DENIED`.
    pub codes: Vec<String>,
    /// One line; may be empty.
    pub text: String,
}

impl Explanation {
    /// Reads a body, of which the end may be missing. What it is, it shows better than its media type.
    pub fn read(body: &[u8]) -> Self {
        let (body, _) = inflated(body, INFLATED_LIMIT);
        let text = String::from_utf8_lossy(&body);
        let text = text.trim_start_matches('\u{feff}').trim();
        if let Some(value) = json(text) {
            return Self::of_json(&value);
        }
        if text.starts_with('<') {
            let lower = text.to_ascii_lowercase();
            let page = ["<!doctype", "<html", "<head", "<body"]
                .iter()
                .any(|tag| lower.contains(tag));
            let error = element(text, "code").or_else(|| element(text, "message"));
            return match error.filter(|_| !page) {
                Some(_) => Self::of_xml(text),
                None => Self::of_text(&html(text)),
            };
        }
        if text.starts_with('{') || text.starts_with("[{") {
            return Self::of_broken_json(text);
        }
        match is_binary(text) {
            true => Self::default(),
            false => Self::of_text(text),
        }
    }

    /// Of JSON whose end is missing: the first code and message, as far as they are there.
    fn of_broken_json(text: &str) -> Self {
        let first = |names: &[&str]| names.iter().find_map(|name| beginning_of(text, name));
        let one = One {
            code: first(&["code"]).unwrap_or_default(),
            message: first(&["message", "detail", "details", "error_description", "error"]).unwrap_or_default(),
            detail: String::new(),
        };
        Self {
            text: line(&one.words(), LIMIT),
            codes: Some(one.code).filter(|code| !code.is_empty()).into_iter().collect(),
        }
    }

    /// What its words mean, where the status does not say it.
    pub fn says(&self) -> Option<Says> {
        const NO_SPACE: [&str; 16] = [
            "no space left",
            "enospc",
            "disk is full",
            "disk full",
            "storage is full",
            "storagefull",
            "not enough space",
            "not enough disk",
            "not enough storage",
            "out of disk",
            "insufficient storage",
            "insufficient disk",
            "insufficient space",
            "minimum free d",
            "storage limit",
            "maximum allowed number",
        ];
        // Of requests in a time, not of room.
        const OF_TIME: [&str; 3] = ["quota metric", "requests per", "per minute"];
        const IMMUTABLE: [&str; 4] = [
            "immutable",
            "imagetagalreadyexists",
            "cannot be overwritten",
            // Nexus, whose repositories may take each name once.
            "does not allow updating",
        ];
        let words = self.text.to_ascii_lowercase();
        let has = |phrases: &[&str]| phrases.iter().any(|phrase| words.contains(phrase));
        let quota = words.contains("quota") && has(&["exceed", "reached", "over"]);
        if quota && !has(&OF_TIME) || has(&NO_SPACE) {
            return Some(Says::NoSpace);
        }
        has(&IMMUTABLE).then_some(Says::Immutable)
    }

    fn of_text(text: &str) -> Self {
        Self {
            codes: Vec::new(),
            text: line(text, LIMIT),
        }
    }

    fn of_json(value: &Value) -> Self {
        let errors: Vec<One> = match value {
            Value::Object(fields) => match fields.get("errors") {
                Some(Value::Array(all)) if !all.is_empty() => all.iter().take(ERRORS).filter_map(One::read).collect(),
                Some(one @ (Value::Object(_) | Value::String(_))) => One::read(one).into_iter().collect(),
                _ => Vec::new(),
            },
            Value::Array(all) => all.iter().take(ERRORS).filter_map(One::read).collect(),
            _ => Vec::new(),
        };
        let errors = match errors.is_empty() {
            true => One::read(value).into_iter().collect(),
            false => errors,
        };
        let words: Vec<String> = errors
            .iter()
            .map(One::words)
            .filter(|words| !words.is_empty())
            .collect();
        let words = match words.is_empty() {
            // Whatever its fields are called.
            true => words_of(value, DEPTH),
            false => words.join(", "),
        };
        Self {
            text: line(&words, LIMIT),
            codes: errors
                .into_iter()
                .map(|one| one.code)
                .filter(|code| !code.is_empty())
                .collect(),
        }
    }

    /// Of S3 and the storage of Azure and Google: `<Error><Code>…</Code><Message>…</Message>`, and Google's `<Details>`; the
    /// rest is of this request alone.
    fn of_xml(text: &str) -> Self {
        let named = |name| element(text, name).unwrap_or_default();
        let one = One {
            code: named("code"),
            message: named("message"),
            detail: named("details"),
        };
        Self {
            text: line(&one.words(), LIMIT),
            codes: Some(one.code).filter(|code| !code.is_empty()).into_iter().collect(),
        }
    }
}

/// One error.
struct One {
    code: String,
    message: String,
    detail: String,
}

impl One {
    fn read(value: &Value) -> Option<Self> {
        let fields = match value {
            Value::Object(fields) => fields,
            Value::String(text) => {
                return Some(Self {
                    code: String::new(),
                    message: text.clone(),
                    detail: String::new(),
                });
            }
            _ => return None,
        };
        // `error` is a code in OAuth2 (RFC 6749, section 5.2), an object or a sentence elsewhere.
        let within = ["error", "Error"]
            .iter()
            .find_map(|name| fields.get(*name))
            .filter(|error| error.is_object());
        if let Some(inner) = within.and_then(Self::read).filter(|inner| !inner.words().is_empty()) {
            return Some(inner);
        }
        let described = text(fields, &["error_description"]);
        let error = text(fields, &["error", "Error"]);
        let message = text(
            fields,
            &[
                "message",
                "Message",
                "msg",
                "errorMessage",
                "error_message",
                "description",
                "reason",
            ],
        );
        let (code, message) = match (described, error, message) {
            (Some(described), error, _) => (error, Some(described)),
            (None, Some(error), Some(message)) if error.contains(' ') => (None, Some(format!("{error}: {message}"))),
            (None, Some(error), Some(message)) => (Some(error), Some(message)),
            (None, Some(error), None) => (None, Some(error)),
            (None, None, message) => (None, message.or_else(|| text(fields, &["title"]))),
        };
        let code = code.or_else(|| text(fields, &["code", "Code", "__type"]));
        // The status stands before it anyway.
        let code = code.filter(|code| !code.bytes().all(|byte| byte.is_ascii_digit()));
        let detail = ["detail", "details", "Detail"]
            .iter()
            .find_map(|name| fields.get(*name));
        let detail = detail.map(|detail| words_of(detail, DEPTH)).unwrap_or_default();
        let (message, detail) = match message {
            Some(message) => (message, detail),
            None => (detail, String::new()),
        };
        Some(Self {
            code: code.unwrap_or_default(),
            message,
            detail,
        })
    }

    fn words(&self) -> String {
        let mut parts: Vec<&str> = [self.code.as_str(), self.message.as_str()].into();
        let detail = line(&self.detail, DETAIL_LIMIT);
        if !self.message.contains(&self.detail) {
            parts.push(&detail);
        }
        parts.retain(|part| !part.trim().is_empty());
        parts.join(": ")
    }
}

/// The first of several fields that is a text.
fn text(fields: &Map<String, Value>, names: &[&str]) -> Option<String> {
    let texts = names.iter().filter_map(|name| fields.get(*name)?.as_str());
    texts.map(str::trim).find(|text| !text.is_empty()).map(str::to_owned)
}

/// What there is to read in a `detail` of whatever type: its texts, and what a storage's error number means.
fn words_of(detail: &Value, depth: usize) -> String {
    match detail {
        Value::String(text) => text.trim().to_owned(),
        Value::Array(all) if depth > 0 => {
            let all = all.iter().take(ERRORS).map(|one| words_of(one, depth - 1));
            all.filter(|words| !words.is_empty()).collect::<Vec<_>>().join(", ")
        }
        Value::Object(fields) if depth > 0 => {
            let mut words = Vec::new();
            for (name, value) in fields.iter().take(16) {
                if is_of_one_request(name) {
                    continue;
                }
                match value {
                    Value::Number(number) if name == "Err" => words.extend(number.as_i64().and_then(errno)),
                    Value::String(text) if !text.trim().is_empty() => words.push(format!("{name} {}", text.trim())),
                    Value::Object(_) | Value::Array(_) => words.push(words_of(value, depth - 1)),
                    _ => {}
                }
            }
            words.retain(|words| !words.is_empty());
            words.join(", ")
        }
        _ => String::new(),
    }
}

/// Fields whose values are other ones each time.
fn is_of_one_request(name: &str) -> bool {
    let name: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
    let name = name.to_ascii_lowercase();
    [
        "request",
        "trace",
        "correlation",
        "session",
        "upload",
        "time",
        "date",
        "host",
        "instance",
        "uuid",
    ]
    .iter()
    .any(|part| name.contains(part))
        || name == "id"
}

/// What Linux's numbers mean, which distribution's file system driver passes on.
fn errno(number: i64) -> Option<String> {
    let meaning = match number {
        5 => "input/output error",
        13 => "permission denied",
        28 => "no space left on device",
        30 => "read-only file system",
        122 => "disk quota exceeded",
        _ => return None,
    };
    Some(meaning.to_owned())
}

/// The first value of JSON text that begins as an object, a list or a text does; what follows it does not count.
fn json(text: &str) -> Option<Value> {
    match text.as_bytes().first()? {
        b'{' | b'[' => serde_json::Deserializer::from_str(text).into_iter().next()?.ok(),
        _ => serde_json::from_str(text).ok(),
    }
}

/// The text of the first field `name` of JSON, as far as it goes.
fn beginning_of(json: &str, name: &str) -> Option<String> {
    let name = format!("\"{name}\"");
    let (_, rest) = json.split_once(&name)?;
    let text = rest.trim_start().strip_prefix(':')?.trim_start().strip_prefix('"')?;
    let mut escaped = false;
    let end = text.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    });
    let mut text = &text[..end.unwrap_or(text.len())];
    // An escape may be cut too.
    for _ in 0..8 {
        if let Ok(text) = serde_json::from_str::<String>(&format!("\"{text}\"")) {
            return Some(text).filter(|text| !text.trim().is_empty());
        }
        let mut shorter = text.chars();
        shorter.next_back();
        text = shorter.as_str();
    }
    None
}

/// Whether a text is none: it has a zero, or as many bytes as not that are no UTF-8. A text in another encoding has few.
fn is_binary(text: &str) -> bool {
    let (mut length, mut unknown) = (0, 0);
    for character in text.chars().take(LIMIT) {
        match character {
            '\0' => return true,
            '\u{fffd}' => unknown += 1,
            _ => {}
        }
        length += 1;
    }
    unknown * 4 > length
}

/// `body`, or what it is the gzip of, at most `limit` bytes of it; and whether that is all. Proxies compress answers also
/// where nobody asked for it.
pub(super) fn inflated(body: &[u8], limit: usize) -> (Cow<'_, [u8]>, bool) {
    if !body.starts_with(&[0x1f, 0x8b]) {
        return (body.into(), true);
    }
    let mut content = Vec::new();
    let mut reader = flate2::read::GzDecoder::new(body).take(limit as u64);
    let read = reader.read_to_end(&mut content);
    let whole = read.is_ok() && content.len() < limit;
    (content.into(), whole)
}

/// The text of the first element of this name.
fn element(text: &str, name: &str) -> Option<String> {
    let lower = text.to_ascii_lowercase();
    let open = lower.find(&format!("<{name}>"))? + name.len() + 2;
    let end = open + lower.get(open..)?.find("</")?;
    Some(unescaped(text.get(open..end)?))
}

/// A page's title, else its first heading, else its text.
fn html(text: &str) -> String {
    let named = ["title", "h1", "h2"].into_iter().filter_map(|name| element(text, name));
    let named = named.map(|found| bare(&found)).find(|found| !found.is_empty());
    named.unwrap_or_else(|| bare(text))
}

/// Text without markup.
fn bare(text: &str) -> String {
    static HIDDEN: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"(?is)<(script|style|head)\b.*?</(script|style|head)>|<!--.*?-->|<[^>]*>").ok());
    match &*HIDDEN {
        Some(hidden) => unescaped(hidden.replace_all(text, " ").trim()),
        None => String::new(),
    }
}

fn unescaped(text: &str) -> String {
    let mut text = text.to_owned();
    for (entity, character) in [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&#34;", "\""),
        ("&apos;", "'"),
        ("&#39;", "'"),
        ("&nbsp;", " "),
        ("&amp;", "&"),
    ] {
        text = text.replace(entity, character);
    }
    text
}

/// One line of at most `limit` characters, without what a terminal would act on and what differs from one try to the
/// next.
fn line(text: &str, limit: usize) -> String {
    static PASSING: LazyLock<Option<Regex>> = LazyLock::new(|| {
        let uuid = r"\b[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}\b";
        let time = r"\b\d{4}[-/]\d\d[-/]\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?( ?(Z|UTC|[+-]\d\d:?\d\d))?";
        let date = r"\b(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d? \w{3} \d{4} \d\d:\d\d:\d\d \w+";
        let address = r"\b(?P<address>\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}):\d{1,5}\b";
        // Not digests, which say what is meant.
        let id = r"(?P<digest>\b[a-z0-9]+:[0-9a-f]{32,}\b)|\b[0-9a-fA-F]{16,}\b";
        Regex::new(&format!("{uuid}|{time}|{date}|{address}|{id}")).ok()
    });
    // Enough for what is left of it to fill a line.
    let text: String = text.chars().take(4 * LIMIT).collect();
    let text = match &*PASSING {
        Some(passing) => passing.replace_all(&text, |found: &regex::Captures<'_>| {
            let kept = found.name("digest").or_else(|| found.name("address"));
            kept.map_or_else(|| "…".to_owned(), |kept| kept.as_str().to_owned())
        }),
        None => text.into(),
    };
    clean(&text, limit)
}

/// One line of at most `limit` characters, without what a terminal would act on.
pub(super) fn clean(text: &str, limit: usize) -> String {
    static ESCAPES: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"\x1b(\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|.)").ok());
    let text = match &*ESCAPES {
        Some(escapes) => escapes.replace_all(text, " "),
        None => text.into(),
    };
    let mut line = String::new();
    let mut length = 0;
    let mut gap = false;
    for character in text.chars() {
        if character.is_whitespace() || character.is_control() {
            gap = true;
            continue;
        }
        // Those that turn the direction of what follows, or are not seen.
        if matches!(character, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{061c}')
        {
            continue;
        }
        if length >= limit {
            line.push('…');
            return line;
        }
        if gap && length > 0 {
            line.push(' ');
            length += 1;
        }
        gap = false;
        line.push(character);
        length += 1;
    }
    line
}

#[cfg(test)]
mod tests;
