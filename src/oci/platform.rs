//! Platforms, after the OCI image specification, "Image Index", compared as containerd compares them.

use std::cmp::Reverse;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::UnknownFields;
use super::unknown_fields::with_unknown_fields;

/// What an image runs on, as `os/architecture[/variant]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Platform {
    /// Such as `amd64`. Empty where it is not said.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub architecture: String,
    /// Such as `linux`. Empty where it is not said.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub os: String,
    /// Such as `v8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// The version of the system; only Windows images have it.
    #[serde(default, rename = "os.version", skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// What the system must be able to do; only Windows images have it.
    #[serde(default, rename = "os.features", skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    /// All other fields.
    #[serde(flatten, skip_deserializing)]
    pub unknown: UnknownFields,
}

/// A text that names no platform.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("`{0}` is not a platform: write it as os/architecture or os/architecture/variant, such as linux/amd64")]
pub struct PlatformError(String);

/// How well an image suits the platform that was asked for; the smallest suits best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PlatformMatch {
    /// It is made for that platform.
    Exact,
    /// It is made for an earlier variant, which the asked one runs too: `arm/v6` where `arm/v7` was asked for.
    Earlier(Reverse<(u32, u32)>),
    /// One of both does not say the variant.
    Unsaid,
}

with_unknown_fields!(Platform);

impl Platform {
    /// `os/architecture`, without a variant.
    pub fn new(os: impl Into<String>, architecture: impl Into<String>) -> Self {
        Self {
            os: os.into(),
            architecture: architecture.into(),
            ..Self::default()
        }
    }

    /// What an image configuration (image specification, "Image Configuration") says that it runs on. The
    /// configuration of an artifact that is no image says nothing.
    pub fn of_config(json: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Configuration {
            os: Option<String>,
            architecture: Option<String>,
            variant: Option<String>,
            #[serde(rename = "os.version")]
            os_version: Option<String>,
        }
        let read: Configuration = crate::decode::json(json).ok()?;
        let written = |text: Option<String>| text.filter(|text| !text.is_empty());
        let platform = Self {
            os: read.os.unwrap_or_default(),
            architecture: read.architecture.unwrap_or_default(),
            variant: written(read.variant),
            os_version: written(read.os_version),
            ..Self::default()
        };
        platform.is_said().then_some(platform)
    }

    /// Whether it says what an image runs on. Without a system Linux is meant, as containerd has it.
    pub fn is_said(&self) -> bool {
        let unknown = self.os == "unknown" && self.architecture == "unknown";
        !self.architecture.is_empty() && !unknown
    }

    /// The same platform in the form that containerd gives it, so that two names of one platform are equal:
    /// `linux/arm` is `linux/arm/v7`, `linux/arm64/v8` is `linux/arm64`, `linux/x86_64` is `linux/amd64`.
    pub fn normalised(&self) -> Self {
        let os = match self.os.to_ascii_lowercase() {
            os if os.is_empty() => "linux".to_owned(),
            os if os == "macos" => "darwin".to_owned(),
            os => os,
        };
        let architecture = self.architecture.to_ascii_lowercase();
        let variant = self.variant.as_deref().unwrap_or_default().to_ascii_lowercase();
        let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
            ("i386", _) => ("386", ""),
            ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
            ("x86_64" | "x86-64", variant) => ("amd64", variant),
            ("aarch64" | "arm64", "8" | "v8" | "8.0" | "v8.0") => ("arm64", ""),
            ("aarch64" | "arm64", "9" | "9.0" | "v9.0") => ("arm64", "v9"),
            ("aarch64", variant) => ("arm64", variant),
            ("armhf", _) | ("arm", "" | "7") => ("arm", "v7"),
            ("armel", _) | ("arm", "6") => ("arm", "v6"),
            ("arm", "5") => ("arm", "v5"),
            ("arm", "8") => ("arm", "v8"),
            (architecture, variant) => (architecture, variant),
        };
        Self {
            os,
            architecture: architecture.to_owned(),
            variant: (!variant.is_empty()).then(|| variant.to_owned()),
            ..self.clone()
        }
    }

    /// Whether an image made for `offered` is what somebody who wrote `self` asked for.
    pub fn admits(&self, offered: &Platform) -> bool {
        self.suitability(offered).is_some()
    }

    /// How well an image made for `offered` suits somebody who wrote `self`; `None` when it does not. Parts that
    /// were not written match anything.
    pub fn suitability(&self, offered: &Platform) -> Option<PlatformMatch> {
        let (asked, has) = (self.normalised(), offered.normalised());
        if !offered.is_said() || asked.os != has.os || asked.architecture != has.architecture {
            return None;
        }
        if self.os_version.is_some() && self.os_version != offered.os_version {
            return None;
        }
        if asked.variant == has.variant {
            return Some(PlatformMatch::Exact);
        }
        match (asked.version(), has.version()) {
            (Some(asked), Some(has)) if has < asked => Some(PlatformMatch::Earlier(Reverse(has))),
            _ if self.variant.is_none() || has.variant.is_none() => Some(PlatformMatch::Unsaid),
            _ => None,
        }
    }

    /// The variant of a normalised platform as a number, where a later one runs what is made for an earlier one.
    fn version(&self) -> Option<(u32, u32)> {
        let first = match self.architecture.as_str() {
            "amd64" => "v1",
            "arm64" => "v8",
            "arm" => "v7",
            _ => return None,
        };
        let digits = self.variant.as_deref().unwrap_or(first).strip_prefix('v')?;
        let (major, minor) = digits.split_once('.').unwrap_or((digits, "0"));
        Some((major.parse().ok()?, minor.parse().ok()?))
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let parts: Vec<&str> = text.split('/').collect();
        let plain =
            |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        if !(2..=3).contains(&parts.len()) || !parts.iter().all(plain) {
            return Err(PlatformError(text.chars().take(80).collect()));
        }
        Ok(Self {
            variant: parts.get(2).map(|&variant| variant.to_owned()),
            ..Self::new(parts[0], parts[1])
        })
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let os = if self.os.is_empty() { "linux" } else { &self.os };
        write!(formatter, "{os}/{}", self.architecture)?;
        match self.variant.as_deref() {
            None | Some("") => Ok(()),
            Some(variant) => write!(formatter, "/{variant}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    #[test]
    fn reads_and_matches() {
        assert_eq!(platform("linux/arm64/v8").to_string(), "linux/arm64/v8");
        assert!(!platform("linux/arm/v6").admits(&platform("linux/arm/v7")));
        assert!(!platform("linux/amd64").admits(&platform("windows/amd64")));
        assert!(platform("linux/mips64le").admits(&platform("linux/mips64le/hardfloat")));
        assert!(!platform("linux/mips64le/softfloat").admits(&platform("linux/mips64le/hardfloat")));
        for bad in ["", "linux", "linux/", "a/b/c/d", "linux/amd 64"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }

    /// The table of containerd's `platforms.Normalize`.
    #[test]
    fn two_names_of_one_platform_are_equal() {
        for (names, normal) in [
            (
                &["linux/arm", "linux/arm/7", "linux/armhf", "Linux/ARM/V7"][..],
                "linux/arm/v7",
            ),
            (&["linux/armel", "linux/arm/6"], "linux/arm/v6"),
            (
                &["linux/aarch64", "linux/arm64/v8", "linux/arm64/8", "linux/arm64/v8.0"],
                "linux/arm64",
            ),
            (&["linux/arm64/9", "linux/arm64/v9.0"], "linux/arm64/v9"),
            (&["linux/x86_64", "linux/x86-64", "linux/amd64/v1"], "linux/amd64"),
            (&["linux/x86_64/v3"], "linux/amd64/v3"),
            (&["linux/i386"], "linux/386"),
            (&["macos/arm64"], "darwin/arm64"),
        ] {
            for name in names {
                assert_eq!(platform(name).normalised(), platform(normal), "{name}");
                assert_eq!(
                    platform(name).suitability(&platform(normal)),
                    Some(PlatformMatch::Exact),
                    "{name}"
                );
                assert_eq!(
                    platform(normal).suitability(&platform(name)),
                    Some(PlatformMatch::Exact),
                    "{name}"
                );
            }
        }
        let unsaid = Platform::new("", "amd64");
        assert!(platform("linux/amd64").admits(&unsaid));
        assert_eq!(unsaid.to_string(), "linux/amd64");
    }

    #[test]
    fn what_suits_best_comes_first() {
        for (asked, offers) in [
            ("linux/arm/v7", &["linux/arm", "linux/arm/v6", "linux/arm/v5"][..]),
            (
                "linux/arm",
                &["linux/arm/v7", "linux/arm/v6", "linux/arm/v5", "linux/arm/v8"],
            ),
            ("linux/amd64/v3", &["linux/amd64/v3", "linux/amd64/v2", "linux/amd64"]),
            ("linux/amd64", &["linux/amd64", "linux/amd64/v2"]),
            ("linux/arm64/v9", &["linux/arm64/v9", "linux/arm64/v8.5", "linux/arm64"]),
        ] {
            let suitable: Vec<_> = offers
                .iter()
                .map(|offer| platform(asked).suitability(&platform(offer)))
                .collect();
            assert!(suitable.iter().all(Option::is_some), "{asked} {suitable:?}");
            assert!(suitable.is_sorted_by(|one, next| one < next), "{asked} {suitable:?}");
        }
        for (asked, offered) in [("linux/arm/v7", "linux/arm/v8"), ("linux/amd64/v2", "linux/amd64/v3")] {
            assert!(!platform(asked).admits(&platform(offered)), "{asked}");
        }
        assert!(!platform("unknown/unknown").admits(&platform("unknown/unknown")));
        assert!(!platform("linux/amd64").admits(&Platform::default()));
    }

    #[test]
    fn keeps_fields_that_it_does_not_know() {
        let json = r#"{"architecture":"amd64","os":"windows","os.version":"10.0","os.features":["win32k"],"features":["sse4"]}"#;
        let read: Platform = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), json);
        assert_eq!(serde_json::to_string(&Platform::default()).unwrap(), "{}");
    }

    #[test]
    fn a_configuration_without_a_system_is_for_linux() {
        let of = |json: &str| Platform::of_config(json.as_bytes()).map(|platform| platform.to_string());
        assert_eq!(
            of(r#"{"architecture":"arm","variant":"v6"}"#).as_deref(),
            Some("linux/arm/v6")
        );
        assert_eq!(of(r#"{"os":"linux","architecture":""}"#), None);
        assert_eq!(of("{}"), None);
    }
}
