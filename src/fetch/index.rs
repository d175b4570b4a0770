//! The index of a chart repository (Helm, "The Chart Repository Guide").

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::decode;
use crate::oci::Digest;
use crate::registry::Endpoint;

/// The longest index in bytes that is read.
pub(super) const LIMIT: usize = 32 * 1024 * 1024;

/// What an index says of one version of a chart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    /// Where its archive is: an address of its own, or one that starts from the repository's.
    pub url: String,
    /// The archive's digest, if the index has it.
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

/// The most versions of one chart.
const VERSIONS: usize = 50_000;

/// Reads an index, and keeps the versions of the chart that is called so. Others may be many.
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

/// What the index `text` says of `version` of the chart `name`. The error says what is wrong with the index, or what it
/// lacks.
pub(super) fn find(text: &str, name: &str, version: &str) -> Result<Listed, Missing> {
    let versions = decode::large_yaml(text, LIMIT, ChartIndexFilter(name))
        .map_err(|error| Missing::Index(format!("is not the index of a chart repository: {error}")))?;
    let versions = versions.ok_or(Missing::Chart)?;
    let plain = |version: &str| version.strip_prefix('v').unwrap_or(version).to_owned();
    // The first that says where it is: generators that append to an index leave broken entries beside good ones.
    let of = |is_it: &dyn Fn(&str) -> bool| {
        let fitting = || versions.iter().filter(|known| is_it(&known.version));
        fitting()
            .find(|known| !known.urls.is_empty())
            .or_else(|| fitting().next())
    };
    let found = of(&|known| known == version)
        .or_else(|| of(&|known| plain(known) == plain(version)))
        .ok_or_else(|| Missing::Version(named(&versions)))?;
    let url = found.urls.first().ok_or(Missing::Address)?;
    let digest = found.digest.as_ref().filter(|digest| !digest.is_empty());
    let digest = digest.map(|digest| format!("sha256:{}", digest.strip_prefix("sha256:").unwrap_or(digest)).parse());
    Ok(Listed {
        url: url.clone(),
        digest: digest
            .transpose()
            .map_err(|error: crate::oci::DigestError| Missing::Index(format!("has a digest that is none: {error}")))?,
    })
}

/// Some of the versions of a chart, for people.
fn named(versions: &[Version]) -> Vec<String> {
    let said = versions.iter().map(|known| known.version.clone());
    said.filter(|version| !version.is_empty()).take(5).collect()
}

/// Why an index does not say where a chart is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// It cannot be read.
    Index(String),
    /// It lists no chart of the name.
    Chart,
    /// It lists others of the name; some of them.
    Version(Vec<String>),
    /// It lists the version, and no address of it.
    Address,
}

impl Missing {
    /// The same as far as it may be told to whoever named the host: what was read there, where its content is wrong, need
    /// not be for them.
    pub fn told(self, host: &Endpoint) -> Self {
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
