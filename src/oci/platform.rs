//! Platforms (OCI image specification, "Image Index"), compared like containerd does.

use std::cmp::Reverse;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::UnknownFields;
use super::unknown_fields::with_unknown_fields;

/// A platform, as `os/architecture[/variant]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Platform {
    /// Such as `amd64`. Empty if absent.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub architecture: String,
    /// Such as `linux`. Empty if absent.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub os: String,
    /// Such as `v8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// The version of the operating system; only for Windows images.
    #[serde(default, rename = "os.version", skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// The required features of the operating system; only for Windows images.
    #[serde(default, rename = "os.features", skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    /// All other fields.
    #[serde(flatten, skip_deserializing)]
    pub unknown: UnknownFields,
}

/// A text that is not a platform.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("`{0}` is not a platform: write it as os/architecture or os/architecture/variant, such as linux/amd64")]
pub struct PlatformError(String);

/// How well an image matches a requested platform; smaller is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PlatformMatch {
    /// Its platform is the requested one.
    Exact,
    /// It is for an earlier variant, which the requested one supports: `arm/v6` for `arm/v7`.
    Earlier(Reverse<(u32, u32)>),
    /// One of them has no variant.
    Unspecified,
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

    /// The platform in an image configuration (image specification, "Image Configuration"). `None` for the
    /// configuration of an artifact that is not an image.
    pub fn of_config(json: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Configuration {
            os: Option<String>,
            architecture: Option<String>,
            variant: Option<String>,
            #[serde(rename = "os.version")]
            os_version: Option<String>,
        }
        let config: Configuration = crate::decode::json(json).ok()?;
        let non_empty = |text: Option<String>| text.filter(|text| !text.is_empty());
        let platform = Self {
            os: config.os.unwrap_or_default(),
            architecture: config.architecture.unwrap_or_default(),
            variant: non_empty(config.variant),
            os_version: non_empty(config.os_version),
            ..Self::default()
        };
        platform.is_specified().then_some(platform)
    }

    /// Whether it specifies a platform. The default operating system is Linux, as in containerd.
    pub fn is_specified(&self) -> bool {
        let unknown = self.os == "unknown" && self.architecture == "unknown";
        !self.architecture.is_empty() && !unknown
    }

    /// The normalised platform, as in containerd, so that equivalent names are equal: `linux/arm` is `linux/arm/v7`,
    /// `linux/arm64/v8` is `linux/arm64`, `linux/x86_64` is `linux/amd64`.
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

    /// Whether an image for `offered` matches this requested platform.
    pub fn admits(&self, offered: &Platform) -> bool {
        self.suitability(offered).is_some()
    }

    /// How well an image for `offered` matches this requested platform; `None` if it does not. Omitted parts match
    /// anything.
    pub fn suitability(&self, offered: &Platform) -> Option<PlatformMatch> {
        let (requested, actual) = (self.normalised(), offered.normalised());
        if !offered.is_specified() || requested.os != actual.os || requested.architecture != actual.architecture {
            return None;
        }
        if self.os_version.is_some() && self.os_version != offered.os_version {
            return None;
        }
        if requested.variant == actual.variant {
            return Some(PlatformMatch::Exact);
        }
        match (requested.version(), actual.version()) {
            (Some(requested), Some(actual)) if actual < requested => Some(PlatformMatch::Earlier(Reverse(actual))),
            _ if self.variant.is_none() || actual.variant.is_none() => Some(PlatformMatch::Unspecified),
            _ => None,
        }
    }

    /// The variant of a normalised platform as a number. A later variant runs images for an earlier one.
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
    fn platforms_are_parsed_and_matched() {
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
    fn equivalent_names_are_equal() {
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
        let without_os = Platform::new("", "amd64");
        assert!(platform("linux/amd64").admits(&without_os));
        assert_eq!(without_os.to_string(), "linux/amd64");
    }

    #[test]
    fn better_matches_come_first() {
        for (requested, offers) in [
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
                .map(|offer| platform(requested).suitability(&platform(offer)))
                .collect();
            assert!(suitable.iter().all(Option::is_some), "{requested} {suitable:?}");
            assert!(
                suitable.is_sorted_by(|one, next| one < next),
                "{requested} {suitable:?}"
            );
        }
        for (requested, offered) in [("linux/arm/v7", "linux/arm/v8"), ("linux/amd64/v2", "linux/amd64/v3")] {
            assert!(!platform(requested).admits(&platform(offered)), "{requested}");
        }
        assert!(!platform("unknown/unknown").admits(&platform("unknown/unknown")));
        assert!(!platform("linux/amd64").admits(&Platform::default()));
    }

    #[test]
    fn unknown_fields_are_preserved() {
        let json = r#"{"architecture":"amd64","os":"windows","os.version":"10.0","os.features":["win32k"],"features":["sse4"]}"#;
        let parsed: Platform = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_string(&parsed).unwrap(), json);
        assert_eq!(serde_json::to_string(&Platform::default()).unwrap(), "{}");
    }

    #[test]
    fn the_default_operating_system_is_linux() {
        let of = |json: &str| Platform::of_config(json.as_bytes()).map(|platform| platform.to_string());
        assert_eq!(
            of(r#"{"architecture":"arm","variant":"v6"}"#).as_deref(),
            Some("linux/arm/v6")
        );
        assert_eq!(of(r#"{"os":"linux","architecture":""}"#), None);
        assert_eq!(of("{}"), None);
    }
}
