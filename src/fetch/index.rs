//! The index of a chart repository (Helm, "The Chart Repository Guide").

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::decode;
use crate::oci::Digest;
use crate::registry::Endpoint;

/// The longest index in bytes.
pub(super) const LIMIT: usize = 32 * 1024 * 1024;

/// The entry of a chart's version in an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ChartEntry {
    /// The address of its archive, absolute or relative to the repository's.
    pub url: String,
    /// The archive's digest, if the index contains it.
    pub digest: Option<Digest>,
}

#[derive(Deserialize)]
struct Version {
    #[serde(default)]
    version: String,
    #[serde(default)]
    urls: Vec<String>,
    #[serde(default)]
    digest: Option<String>,
}

/// The longest address of an archive in bytes. Addresses are cached.
const ADDRESS: usize = 4096;
/// The most versions of one chart.
const VERSIONS: usize = 50_000;

/// Reads an index and keeps only the versions of the chart with this name, because an index may list many charts.
#[derive(Clone, Copy)]
struct ChartIndexFilter<'n>(&'n str);

impl<'de> DeserializeSeed<'de> for ChartIndexFilter<'_> {
    type Value = Option<Vec<Version>>;

    fn deserialize<D: Deserializer<'de>>(self, index: D) -> Result<Self::Value, D::Error> {
        index.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for ChartIndexFilter<'_> {
    type Value = Option<Vec<Version>>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the index of a chart repository")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(name) = fields.next_key::<String>()? {
            match name.as_str() {
                "entries" => found = fields.next_value_seed(Entries(self.0))?,
                _ => drop(fields.next_value::<IgnoredAny>()?),
            }
        }
        Ok(found)
    }
}

/// The field `entries` of an index.
struct Entries<'n>(&'n str);

impl<'de> DeserializeSeed<'de> for Entries<'_> {
    type Value = Option<Vec<Version>>;

    fn deserialize<D: Deserializer<'de>>(self, entries: D) -> Result<Self::Value, D::Error> {
        entries.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Entries<'_> {
    type Value = Option<Vec<Version>>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("charts by their names")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut charts: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(name) = charts.next_key::<String>()? {
            match name == self.0 {
                true => found = Some(charts.next_value::<Versions>()?.0),
                false => drop(charts.next_value::<IgnoredAny>()?),
            }
        }
        Ok(found)
    }
}

/// The versions of one chart, at most [`VERSIONS`].
struct Versions(Vec<Version>);

impl<'de> Deserialize<'de> for Versions {
    fn deserialize<D: Deserializer<'de>>(versions: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Versions;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("the versions of a chart")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut versions: A) -> Result<Versions, A::Error> {
                let mut found = Vec::new();
                while let Some(version) = versions.next_element()? {
                    if found.len() >= VERSIONS {
                        return Err(A::Error::custom(format!("a chart has more than {VERSIONS} versions")));
                    }
                    found.push(version);
                }
                Ok(Versions(found))
            }
        }
        versions.deserialize_seq(List)
    }
}

/// Finds `version` of the chart `name` in the index `text`.
pub(super) fn find(text: &str, name: &str, version: &str) -> Result<ChartEntry, Missing> {
    let versions = decode::large_yaml(text, LIMIT, ChartIndexFilter(name))
        .map_err(|error| Missing::Index(format!("is not the index of a chart repository: {error}")))?;
    let versions = versions.ok_or(Missing::Chart)?;
    let plain = |version: &str| version.strip_prefix('v').unwrap_or(version).to_owned();
    // The first entry with an address: generators that append to an index leave broken entries besides good ones.
    let first = |matches: &dyn Fn(&str) -> bool| {
        let matching = || versions.iter().filter(|known| matches(&known.version));
        matching()
            .find(|known| !known.urls.is_empty())
            .or_else(|| matching().next())
    };
    let found = first(&|known| known == version)
        .or_else(|| first(&|known| plain(known) == plain(version)))
        .ok_or_else(|| Missing::Version(examples(&versions)))?;
    let url = found.urls.first().ok_or(Missing::Address)?;
    if url.len() > ADDRESS {
        let why = format!("has an address of more than {ADDRESS} bytes");
        return Err(Missing::Index(why));
    }
    let digest = found.digest.as_ref().filter(|digest| !digest.is_empty());
    let digest = digest.map(|digest| format!("sha256:{}", digest.strip_prefix("sha256:").unwrap_or(digest)).parse());
    Ok(ChartEntry {
        url: url.clone(),
        digest: digest
            .transpose()
            .map_err(|error: crate::oci::DigestError| Missing::Index(format!("has an invalid digest: {error}")))?,
    })
}

/// Some versions of a chart, for messages.
fn examples(versions: &[Version]) -> Vec<String> {
    let names = versions.iter().map(|known| known.version.clone());
    names.filter(|version| !version.is_empty()).take(5).collect()
}

/// Why an index does not contain the address of a chart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// The index is invalid.
    Index(String),
    /// It lists no chart with this name.
    Chart,
    /// It lists only other versions; some of them.
    Version(Vec<String>),
    /// It lists the version without an address.
    Address,
}

impl Missing {
    /// The same without details of the index, if the host has restrictions: the user who named the host may not be allowed to
    /// read its content.
    pub fn redacted(self, host: &Endpoint) -> Self {
        match self {
            Self::Index(_) if host.restrictions.is_some() => {
                Self::Index("is not the index of a chart repository".to_owned())
            }
            missing => missing,
        }
    }
}

#[cfg(test)]
mod tests;
