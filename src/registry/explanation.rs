//! Extracts a readable message from the body of an error response: the errors of the distribution specification, and
//! the formats of registries, storage services, proxies and token services. Pure.
//!
//! The message is one bounded line without terminal control characters, and without parts that differ between
//! attempts, such as times and request IDs.

use std::borrow::Cow;
use std::io::Read as _;
use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Map, Value};

/// Maximum length of a message, in characters.
const MESSAGE_LIMIT: usize = 300;
/// Maximum length of the `detail` of one error, in characters.
const DETAIL_LIMIT: usize = 160;
/// Bytes of a compressed body that are decompressed.
const DECOMPRESSED_LIMIT: usize = 64 * 1024;
/// Errors of one response that are read.
const MAX_ERRORS: usize = 4;
/// Nesting levels of `detail` that are read.
const MAX_DEPTH: usize = 3;

/// A cause that is recognized from the message, whatever the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ErrorCause {
    /// The registry is full, or a quota is used up.
    NoSpace,
    /// The tag cannot be overwritten.
    Immutable,
}

/// The parsed body of an error response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Explanation {
    /// The error codes, such as `DENIED`.
    pub codes: Vec<String>,
    /// ErrorEntry line; may be empty.
    pub text: String,
}

impl Explanation {
    /// Parses a body, which may be truncated. The format is detected from the content, because media types are
    /// unreliable.
    pub fn parse(body: &[u8]) -> Self {
        let (body, _) = decompress(body, DECOMPRESSED_LIMIT);
        let text = String::from_utf8_lossy(&body);
        let text = text.trim_start_matches('\u{feff}').trim();
        if let Some(value) = json(text) {
            return Self::from_json(&value);
        }
        if text.starts_with('<') {
            let lower = text.to_ascii_lowercase();
            let page = ["<!doctype", "<html", "<head", "<body"]
                .iter()
                .any(|tag| lower.contains(tag));
            let error = element(text, "code").or_else(|| element(text, "message"));
            return match error.filter(|_| !page) {
                Some(_) => Self::from_xml(text),
                None => Self::from_text(&html_text(text)),
            };
        }
        if text.starts_with('{') || text.starts_with("[{") {
            return Self::from_truncated_json(text);
        }
        match is_binary(text) {
            true => Self::default(),
            false => Self::from_text(text),
        }
    }

    /// Reads the first code and message of truncated JSON, as far as they are present.
    fn from_truncated_json(text: &str) -> Self {
        let first = |names: &[&str]| names.iter().find_map(|name| truncated_field(text, name));
        let entry = ErrorEntry {
            code: first(&["code"]).unwrap_or_default(),
            message: first(&["message", "detail", "details", "error_description", "error"]).unwrap_or_default(),
            detail: String::new(),
        };
        Self {
            text: line(&entry.message(), MESSAGE_LIMIT),
            codes: Some(entry.code).filter(|code| !code.is_empty()).into_iter().collect(),
        }
    }

    /// The cause that the message describes, where the status does not.
    pub fn cause(&self) -> Option<ErrorCause> {
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
        // Phrases of rate limits, not of storage quotas.
        const RATE_LIMIT: [&str; 3] = ["quota metric", "requests per", "per minute"];
        const IMMUTABLE: [&str; 4] = [
            "immutable",
            "imagetagalreadyexists",
            "cannot be overwritten",
            // Nexus, whose repositories can be write-once.
            "does not allow updating",
        ];
        let words = self.text.to_ascii_lowercase();
        let has = |phrases: &[&str]| phrases.iter().any(|phrase| words.contains(phrase));
        let quota = words.contains("quota") && has(&["exceed", "reached", "over"]);
        if quota && !has(&RATE_LIMIT) || has(&NO_SPACE) {
            return Some(ErrorCause::NoSpace);
        }
        has(&IMMUTABLE).then_some(ErrorCause::Immutable)
    }

    fn from_text(text: &str) -> Self {
        Self {
            codes: Vec::new(),
            text: line(text, MESSAGE_LIMIT),
        }
    }

    fn from_json(value: &Value) -> Self {
        let errors: Vec<ErrorEntry> = match value {
            Value::Object(fields) => match fields.get("errors") {
                Some(Value::Array(all)) if !all.is_empty() => {
                    all.iter().take(MAX_ERRORS).filter_map(ErrorEntry::parse).collect()
                }
                Some(entry @ (Value::Object(_) | Value::String(_))) => ErrorEntry::parse(entry).into_iter().collect(),
                _ => Vec::new(),
            },
            Value::Array(all) => all.iter().take(MAX_ERRORS).filter_map(ErrorEntry::parse).collect(),
            _ => Vec::new(),
        };
        let errors = match errors.is_empty() {
            true => ErrorEntry::parse(value).into_iter().collect(),
            false => errors,
        };
        let words: Vec<String> = errors
            .iter()
            .map(ErrorEntry::message)
            .filter(|words| !words.is_empty())
            .collect();
        let words = match words.is_empty() {
            // Unknown field names: use all texts.
            true => detail_text(value, MAX_DEPTH),
            false => words.join(", "),
        };
        Self {
            text: line(&words, MESSAGE_LIMIT),
            codes: errors
                .into_iter()
                .map(|entry| entry.code)
                .filter(|code| !code.is_empty())
                .collect(),
        }
    }

    /// Reads XML errors of S3, Azure and Google storage: `<Error><Code>…</Code><Message>…</Message>`, and Google's
    /// `<Details>`. The other elements differ per request.
    fn from_xml(text: &str) -> Self {
        let named = |name| element(text, name).unwrap_or_default();
        let entry = ErrorEntry {
            code: named("code"),
            message: named("message"),
            detail: named("details"),
        };
        Self {
            text: line(&entry.message(), MESSAGE_LIMIT),
            codes: Some(entry.code).filter(|code| !code.is_empty()).into_iter().collect(),
        }
    }
}

/// ErrorEntry error of a response.
struct ErrorEntry {
    code: String,
    message: String,
    detail: String,
}

impl ErrorEntry {
    fn parse(value: &Value) -> Option<Self> {
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
        // `error` is a code in OAuth2 (RFC 6749, section 5.2), and an object or a sentence elsewhere.
        let nested = ["error", "Error"]
            .iter()
            .find_map(|name| fields.get(*name))
            .filter(|error| error.is_object());
        if let Some(inner) = nested.and_then(Self::parse).filter(|inner| !inner.message().is_empty()) {
            return Some(inner);
        }
        let description = text(fields, &["error_description"]);
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
        let (code, message) = match (description, error, message) {
            (Some(description), error, _) => (error, Some(description)),
            (None, Some(error), Some(message)) if error.contains(' ') => (None, Some(format!("{error}: {message}"))),
            (None, Some(error), Some(message)) => (Some(error), Some(message)),
            (None, Some(error), None) => (None, Some(error)),
            (None, None, message) => (None, message.or_else(|| text(fields, &["title"]))),
        };
        let code = code.or_else(|| text(fields, &["code", "Code", "__type"]));
        // Numeric codes repeat the status, which the message has already.
        let code = code.filter(|code| !code.bytes().all(|byte| byte.is_ascii_digit()));
        let detail = ["detail", "details", "Detail"]
            .iter()
            .find_map(|name| fields.get(*name));
        let detail = detail.map(|detail| detail_text(detail, MAX_DEPTH)).unwrap_or_default();
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

    fn message(&self) -> String {
        let mut parts: Vec<&str> = [self.code.as_str(), self.message.as_str()].into();
        let detail = line(&self.detail, DETAIL_LIMIT);
        if !self.message.contains(&self.detail) {
            parts.push(&detail);
        }
        parts.retain(|part| !part.trim().is_empty());
        parts.join(": ")
    }
}

/// The first of these fields that is a non-empty string.
fn text(fields: &Map<String, Value>, names: &[&str]) -> Option<String> {
    let texts = names.iter().filter_map(|name| fields.get(*name)?.as_str());
    texts.map(str::trim).find(|text| !text.is_empty()).map(str::to_owned)
}

/// The text of a `detail` of any type: its strings, and the meaning of error numbers of storage drivers.
fn detail_text(detail: &Value, depth: usize) -> String {
    match detail {
        Value::String(text) => text.trim().to_owned(),
        Value::Array(all) if depth > 0 => {
            let all = all.iter().take(MAX_ERRORS).map(|entry| detail_text(entry, depth - 1));
            all.filter(|words| !words.is_empty()).collect::<Vec<_>>().join(", ")
        }
        Value::Object(fields) if depth > 0 => {
            let mut words = Vec::new();
            for (name, value) in fields.iter().take(16) {
                if differs_per_request(name) {
                    continue;
                }
                match value {
                    Value::Number(number) if name == "Err" => words.extend(number.as_i64().and_then(errno)),
                    Value::String(text) if !text.trim().is_empty() => words.push(format!("{name} {}", text.trim())),
                    Value::Object(_) | Value::Array(_) => words.push(detail_text(value, depth - 1)),
                    _ => {}
                }
            }
            words.retain(|words| !words.is_empty());
            words.join(", ")
        }
        _ => String::new(),
    }
}

/// Whether the values of a field differ per request.
fn differs_per_request(name: &str) -> bool {
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

/// The meaning of a Linux error number, which distribution's filesystem driver passes on.
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

/// Parses the first JSON value of a text that starts like an object, a list or a string; ignores what follows it.
fn json(text: &str) -> Option<Value> {
    match text.as_bytes().first()? {
        b'{' | b'[' => serde_json::Deserializer::from_str(text).into_iter().next()?.ok(),
        _ => serde_json::from_str(text).ok(),
    }
}

/// The string value of the first field `name` in truncated JSON, as far as it is present.
fn truncated_field(json: &str, name: &str) -> Option<String> {
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
    // An escape sequence may be truncated too.
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

/// Whether the text is binary: it contains a zero byte, or more than a quarter of its characters are invalid UTF-8.
/// Text in another encoding has few of these.
fn is_binary(text: &str) -> bool {
    let (mut length, mut unknown) = (0, 0);
    for character in text.chars().take(MESSAGE_LIMIT) {
        match character {
            '\0' => return true,
            '\u{fffd}' => unknown += 1,
            _ => {}
        }
        length += 1;
    }
    unknown * 4 > length
}

/// Whether `body` begins as gzip does (RFC 1952, section 2.3.1). JSON and YAML never do.
pub(super) fn is_gzip(body: &[u8]) -> bool {
    body.starts_with(&[0x1f, 0x8b])
}

/// Decompresses `body` if it is gzip, up to `limit` bytes; also returns whether that is the whole content. Proxies
/// compress responses even when the request does not allow it.
pub(super) fn decompress(body: &[u8], limit: usize) -> (Cow<'_, [u8]>, bool) {
    if !is_gzip(body) {
        return (body.into(), true);
    }
    let mut content = Vec::new();
    let mut reader = flate2::read::GzDecoder::new(body).take(limit as u64);
    let read = reader.read_to_end(&mut content);
    let whole = read.is_ok() && content.len() < limit;
    (content.into(), whole)
}

/// The text of the first XML or HTML element with this name.
fn element(text: &str, name: &str) -> Option<String> {
    let lower = text.to_ascii_lowercase();
    let open = lower.find(&format!("<{name}>"))? + name.len() + 2;
    let end = open + lower.get(open..)?.find("</")?;
    Some(unescape_entities(text.get(open..end)?))
}

/// The title of a page, else its first heading, else its text.
fn html_text(text: &str) -> String {
    let named = ["title", "h1", "h2"].into_iter().filter_map(|name| element(text, name));
    let named = named.map(|found| strip_markup(&found)).find(|found| !found.is_empty());
    named.unwrap_or_else(|| strip_markup(text))
}

/// Removes markup.
fn strip_markup(text: &str) -> String {
    static HIDDEN: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"(?is)<(script|style|head)\b.*?</(script|style|head)>|<!--.*?-->|<[^>]*>").ok());
    match &*HIDDEN {
        Some(hidden) => unescape_entities(hidden.replace_all(text, " ").trim()),
        None => String::new(),
    }
}

fn unescape_entities(text: &str) -> String {
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

/// ErrorEntry line of at most `limit` characters, without terminal control characters and without parts that differ
/// between attempts.
fn line(text: &str, limit: usize) -> String {
    static VARIABLE_PARTS: LazyLock<Option<Regex>> = LazyLock::new(|| {
        let uuid = r"\b[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}\b";
        let time = r"\b\d{4}[-/]\d\d[-/]\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?( ?(Z|UTC|[+-]\d\d:?\d\d))?";
        let date = r"\b(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d? \w{3} \d{4} \d\d:\d\d:\d\d \w+";
        let address = r"\b(?P<address>\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}):\d{1,5}\b";
        // Digests are kept, because they identify content.
        let id = r"(?P<digest>\b[a-z0-9]+:[0-9a-f]{32,}\b)|\b[0-9a-fA-F]{16,}\b";
        Regex::new(&format!("{uuid}|{time}|{date}|{address}|{id}")).ok()
    });
    // Enough to fill a line after removals.
    let text: String = text.chars().take(4 * MESSAGE_LIMIT).collect();
    let text = match &*VARIABLE_PARTS {
        Some(variable_parts) => variable_parts.replace_all(&text, |found: &regex::Captures<'_>| {
            let kept = found.name("digest").or_else(|| found.name("address"));
            kept.map_or_else(|| "…".to_owned(), |kept| kept.as_str().to_owned())
        }),
        None => text.into(),
    };
    clean(&text, limit)
}

/// ErrorEntry line of at most `limit` characters, without terminal control characters.
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
        // Invisible characters, and characters that change the text direction.
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
