//! Durations as text.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A duration in whole milliseconds, written as numbers with units: `90s`, `1h30m`, `1.5h`, `1d`, `500ms`. The API server
/// checks the format; a duration that is too long is found here and fails only its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Period(Duration);

/// Why text is not a duration.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PeriodError {
    /// The format is wrong.
    #[error("`{0}` is not a duration: {FORM}")]
    Form(String),
    /// The duration exceeds ten years.
    #[error("the duration `{0}` is longer than ten years: write a shorter one")]
    TooLong(String),
}

/// The format, as the API server checks it and [`Period::from_str`] reads it.
const PATTERN: &str = r"^([0-9]+([.][0-9]+)?(ms|s|m|h|d|w))+$";
/// The format in messages.
const FORM: &str = "write numbers with the units w, d, h, m, s and ms, such as 90s, 1h30m or 1d";
/// The maximum length in characters.
const TEXT_LIMIT: usize = 64;
/// The maximum duration.
const LIMIT: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

impl From<Period> for Duration {
    fn from(period: Period) -> Self {
        period.0
    }
}

impl FromStr for Period {
    type Err = PeriodError;

    fn from_str(text: &str) -> Result<Self, PeriodError> {
        let shown = || text.chars().take(TEXT_LIMIT).collect::<String>();
        let form = || PeriodError::Form(shown());
        if text.is_empty() || text.len() > TEXT_LIMIT {
            return Err(form());
        }
        let mut millis = 0.0_f64;
        let mut rest = text;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(form)?;
            let (number, after) = rest.split_at(digits);
            let letters = after.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(after.len());
            let (unit, next) = after.split_at(letters);
            let unit = match unit {
                "ms" => 1.0,
                "s" => 1e3,
                "m" => 60e3,
                "h" => 3600e3,
                "d" => 24.0 * 3600e3,
                "w" => 7.0 * 24.0 * 3600e3,
                _ => return Err(form()),
            };
            if number.starts_with('.') || number.ends_with('.') {
                return Err(form());
            }
            millis += number.parse::<f64>().map_err(|_| form())? * unit;
            rest = next;
        }
        if millis > LIMIT.as_secs_f64() * 1e3 {
            return Err(PeriodError::TooLong(shown()));
        }
        // The value is finite, not negative and far below the largest integer.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        Ok(Self(Duration::from_millis(millis.round() as u64)))
    }
}

impl TryFrom<String> for Period {
    type Error = PeriodError;

    fn try_from(text: String) -> Result<Self, PeriodError> {
        text.parse()
    }
}

impl From<Period> for String {
    fn from(period: Period) -> Self {
        period.to_string()
    }
}

impl fmt::Display for Period {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = self.0.as_millis();
        let parts = [
            (whole / 3_600_000, "h"),
            (whole / 60_000 % 60, "m"),
            (whole / 1000 % 60, "s"),
            (whole % 1000, "ms"),
        ];
        if whole == 0 {
            return formatter.write_str("0s");
        }
        parts
            .iter()
            .filter(|(number, _)| *number > 0)
            .try_for_each(|(number, unit)| write!(formatter, "{number}{unit}"))
    }
}

impl JsonSchema for Period {
    fn schema_name() -> Cow<'static, str> {
        "Period".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // A rule instead of a pattern, because the message of a pattern is the expression.
        json_schema!({
            "type": "string",
            "maxLength": TEXT_LIMIT,
            "x-kubernetes-validations": [{
                "rule": format!("self.matches('{PATTERN}')"),
                "message": format!("not a duration: {FORM}"),
            }],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_parsed_and_printed() {
        for (text, millis, shown) in [
            ("90s", 90_000, "1m30s"),
            ("1h30m", 5_400_000, "1h30m"),
            ("1.5h", 5_400_000, "1h30m"),
            ("500ms", 500, "500ms"),
            ("0s", 0, "0s"),
            ("1d", 86_400_000, "24h"),
            ("1w", 604_800_000, "168h"),
            ("1w2d3h", 788_400_000, "219h"),
            ("0.5d", 43_200_000, "12h"),
            ("1h0m0.25s", 3_600_250, "1h250ms"),
        ] {
            let period: Period = text.parse().unwrap();
            assert_eq!(Duration::from(period), Duration::from_millis(millis), "{text}");
            assert_eq!(period.to_string(), shown);
            assert_eq!(shown.parse(), Ok(period));
        }
    }

    #[test]
    fn other_text_is_refused() {
        for text in [
            "",
            "1",
            "h",
            "-1s",
            "+1s",
            "1D",
            "1 d",
            "1day",
            "1y",
            "d",
            "1.s",
            ".5s",
            "1.2.3s",
            "1 s",
            "1H",
            "10µs",
            &"1s".repeat(40),
        ] {
            assert!(matches!(text.parse::<Period>(), Err(PeriodError::Form(_))), "{text}");
        }
        for text in ["99999999999999999999h", "87841h", &format!("{}s", "9".repeat(60))] {
            assert!(matches!(text.parse::<Period>(), Err(PeriodError::TooLong(_))), "{text}");
        }
    }
}
