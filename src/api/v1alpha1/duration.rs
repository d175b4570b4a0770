//! Durations as Kubernetes writes them, read so that no object can bring a process down: kube's own type
//! panics at numbers that no clock holds.

use std::borrow::Cow;
use std::str::FromStr;
use std::time;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

/// The longest duration: ten years. Added to any time of any clock it gives another.
const LIMIT: time::Duration = time::Duration::from_secs(10 * 365 * 24 * 3600);

/// A span of time in the form of Go's `time.ParseDuration`, such as `90s` or `1h30m`: not negative, and at most
/// ten years.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Duration(time::Duration);

/// Why a text is no duration.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum DurationError {
    /// It is not in that form.
    #[error("`{0}` is no duration: write numbers with a unit (ns, us, ms, s, m, h), such as 90s or 1h30m")]
    Form(String),
    /// It is negative or longer than ten years.
    #[error("`{0}` is no duration to wait for: it must be from 0s to 87600h")]
    Range(String),
}

impl From<Duration> for time::Duration {
    fn from(duration: Duration) -> Self {
        duration.0
    }
}

impl FromStr for Duration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        let form = || DurationError::Form(text.to_owned());
        let range = || DurationError::Range(text.to_owned());
        let (negative, mut rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        if rest.is_empty() {
            return Err(form());
        }
        let mut seconds = 0.0;
        let is_number = |c: char| c.is_ascii_digit() || c == '.';
        while !rest.is_empty() && rest != "0" {
            let (number, after) = rest.split_at(rest.find(|c| !is_number(c)).ok_or_else(form)?);
            let (unit, after) = after.split_at(after.find(is_number).unwrap_or(after.len()));
            let unit = match unit {
                "ns" => 1e-9,
                // The micro sign and the Greek letter.
                "us" | "\u{b5}s" | "\u{3bc}s" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return Err(form()),
            };
            seconds += number.parse::<f64>().map_err(|_| form())? * unit;
            rest = after;
        }
        let duration = time::Duration::try_from_secs_f64(seconds).map_err(|_| range())?;
        if duration > LIMIT || (negative && !duration.is_zero()) {
            return Err(range());
        }
        Ok(Self(duration))
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // One number and one unit, which is a duration in Go's form too.
        serializer.collect_str(&format_args!("{:?}", self.0))
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Duration {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // Not the format `duration`, which is that of ISO 8601.
        json_schema!({ "type": "string" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<time::Duration, DurationError> {
        text.parse::<Duration>().map(Into::into)
    }

    #[test]
    fn reads_what_go_writes() {
        let cases = [
            ("0", 0),
            ("0s", 0),
            ("-0s", 0),
            ("+90s", 90_000),
            ("1h30m", 5_400_000),
            ("1.5s", 1_500),
            ("1m0.25s", 60_250),
            ("250ms", 250),
            ("87600h", 315_360_000_000),
        ];
        for (text, milliseconds) in cases {
            assert_eq!(read(text), Ok(time::Duration::from_millis(milliseconds)), "{text}");
        }
        assert_eq!(read("7\u{b5}s"), Ok(time::Duration::from_micros(7)));
    }

    #[test]
    fn refuses_what_no_clock_holds() {
        for text in [
            "99999999999999999999h",
            "87601h",
            "-1s",
            &format!("{}s", "9".repeat(400)),
        ] {
            assert!(matches!(read(text), Err(DurationError::Range(_))), "{text}");
        }
        for text in [
            "", "-", "5", "s", "1.2.3s", "1x", "1h 3m", "NaNs", "infs", "1e9s", "--1s",
        ] {
            assert!(matches!(read(text), Err(DurationError::Form(_))), "{text}");
        }
    }

    #[test]
    fn writes_what_it_reads() {
        for text in ["3600s", "1.5s", "250ms", "7\u{b5}s", "0ns"] {
            let duration: Duration = text.parse().unwrap();
            assert_eq!(serde_json::to_value(duration).unwrap(), text);
            assert_eq!(serde_json::from_value::<Duration>(text.into()).unwrap(), duration);
        }
    }
}
