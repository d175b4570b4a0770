//! The form of an inventory in a file.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use jiff::Timestamp;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use super::{Holdings, RepositoryContent};
use crate::fault::{Fault, Reason};
use crate::oci::{Digest, Hasher, Reference};

/// The version of the form.
const VERSION: u32 = 1;

/// The fields before the list of repositories.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Start<'a> {
    version: u32,
    registry: &'a str,
    time: String,
    tool_version: &'a str,
}

/// One repository.
#[derive(Serialize)]
struct RepositoryForm<'a> {
    repository: &'a str,
    tags: &'a BTreeMap<String, Digest>,
    manifests: &'a BTreeMap<Digest, u64>,
    blobs: &'a BTreeMap<Digest, u64>,
}

/// Writes an inventory, repository by repository.
pub struct InventoryWriter<W> {
    out: W,
    hasher: Hasher,
    is_first: bool,
}

impl<W: AsyncWrite + Unpin> InventoryWriter<W> {
    /// Begins the inventory of `registry`. The same registry and `time` give the same bytes.
    ///
    /// # Errors
    /// When `out` cannot be written.
    pub async fn begin(out: W, registry: &str, time: Timestamp) -> Result<Self, Fault> {
        let start = Start {
            version: VERSION,
            registry,
            time: time.to_string(),
            tool_version: env!("CARGO_PKG_VERSION"),
        };
        let mut text = json(&start);
        // The list of repositories is the last field of the same object.
        text.pop();
        text.extend_from_slice(b",\"repositories\":[");
        let mut writer = Self {
            out,
            hasher: Hasher::sha256(),
            is_first: true,
        };
        writer.write(&text).await?;
        Ok(writer)
    }

    /// Adds a repository. The caller adds them sorted by their names.
    ///
    /// # Errors
    /// When the output cannot be written.
    pub async fn repository(&mut self, content: &RepositoryContent) -> Result<(), Fault> {
        let mut text = match std::mem::take(&mut self.is_first) {
            true => b"\n".to_vec(),
            false => b",\n".to_vec(),
        };
        text.extend(json(&RepositoryForm {
            repository: &content.repository,
            tags: &content.tags,
            manifests: &content.manifests,
            blobs: &content.blobs,
        }));
        self.write(&text).await
    }

    /// Ends the inventory. Returns its digest.
    ///
    /// # Errors
    /// When the output cannot be written.
    pub async fn finish(mut self) -> Result<Digest, Fault> {
        self.write(b"\n]}\n").await?;
        self.out.flush().await.map_err(cannot_write)?;
        Ok(self.hasher.finish())
    }

    async fn write(&mut self, text: &[u8]) -> Result<(), Fault> {
        self.hasher.update(text);
        self.out.write_all(text).await.map_err(cannot_write)
    }
}

fn cannot_write(error: std::io::Error) -> Fault {
    let message = format!("the inventory cannot be written: {error}");
    Fault::retryable(Reason::SourceFailed, message)
}

/// Texts, numbers and maps alone: writing them cannot fail.
fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

/// What the inventory `text` says of the blobs and manifests `wanted`. Nothing else of it is kept.
///
/// # Errors
/// A stalled fault, where it is not an inventory of this version.
pub fn read(text: &[u8], wanted: &HashSet<Digest>) -> Result<Holdings, Fault> {
    let mut decoder = serde_json::Deserializer::from_slice(text);
    let read = decoder.deserialize_map(InventoryVisitor { wanted });
    let read = read.and_then(|holdings| decoder.end().map(|()| holdings));
    read.map_err(|error| {
        let message = format!("it is not an inventory that this version of jackal-operator reads: {error}");
        Fault::stalled(Reason::SourceFailed, message)
    })
}

struct InventoryVisitor<'w> {
    wanted: &'w HashSet<Digest>,
}

impl<'de> Visitor<'de> for InventoryVisitor<'_> {
    type Value = Holdings;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an inventory")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Holdings, A::Error> {
        let (mut holdings, mut version, mut has_list) = (Holdings::default(), None, false);
        while let Some(field) = fields.next_key::<String>()? {
            match field.as_str() {
                "version" => version = Some(fields.next_value::<u32>()?),
                "registry" => holdings.registry = fields.next_value()?,
                "repositories" => {
                    has_list = true;
                    fields.next_value_seed(Repositories {
                        wanted: self.wanted,
                        holdings: &mut holdings,
                    })?;
                }
                _ => drop(fields.next_value::<IgnoredAny>()?),
            }
        }
        match version {
            Some(VERSION) if has_list => Ok(holdings),
            Some(VERSION) => Err(A::Error::missing_field("repositories")),
            Some(other) => Err(A::Error::custom(format_args!(
                "its version is {other} and not {VERSION}"
            ))),
            None => Err(A::Error::missing_field("version")),
        }
    }
}

/// Reads the list of repositories one by one.
struct Repositories<'w, 'h> {
    wanted: &'w HashSet<Digest>,
    holdings: &'h mut Holdings,
}

impl<'de> DeserializeSeed<'de> for Repositories<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, decoder: D) -> Result<(), D::Error> {
        decoder.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Repositories<'_, '_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list of repositories")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        #[derive(Deserialize)]
        struct Entry {
            repository: String,
            tags: BTreeMap<String, Digest>,
            manifests: Keys,
            blobs: Keys,
        }
        while let Some(entry) = entries.next_element::<Entry>()? {
            if !is_repository(&entry.repository) {
                let shown: String = entry.repository.chars().take(100).collect();
                return Err(A::Error::custom(format_args!("{shown:?} is not a repository")));
            }
            let tags = entry.tags.into_iter().map(|(tag, digest)| (format!(":{tag}"), digest));
            let digests = entry
                .manifests
                .0
                .into_iter()
                .map(|digest| (format!("@{digest}"), digest));
            for (name, digest) in tags.chain(digests) {
                if let Some(wanted) = self.wanted.get(&digest) {
                    let names = self.holdings.names.entry(wanted.clone()).or_default();
                    names.insert(format!("{}{name}", entry.repository));
                }
            }
            for digest in entry.blobs.0 {
                if let Some(wanted) = self.wanted.get(&digest) {
                    let known = self.holdings.blobs.entry(wanted.clone());
                    known.or_insert_with(|| entry.repository.clone());
                }
            }
        }
        Ok(())
    }
}

/// The keys of a map of digests.
struct Keys(Vec<Digest>);

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(decoder: D) -> Result<Self, D::Error> {
        struct KeysVisitor;
        impl<'de> Visitor<'de> for KeysVisitor {
            type Value = Keys;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a map of digests")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Keys, A::Error> {
                let mut keys = Vec::new();
                while let Some((digest, _)) = entries.next_entry::<Digest, IgnoredAny>()? {
                    keys.push(digest);
                }
                Ok(Keys(keys))
            }
        }
        decoder.deserialize_map(KeysVisitor)
    }
}

/// Whether `text` is the path of a repository, or empty.
pub(in crate::archive) fn is_repository(text: &str) -> bool {
    text.is_empty() || format!("localhost/{text}:1").parse::<Reference>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(repository: &str, blobs: &[&[u8]]) -> RepositoryContent {
        RepositoryContent {
            repository: repository.to_owned(),
            tags: [("1".to_owned(), Digest::of(b"manifest"))].into(),
            manifests: [(Digest::of(b"manifest"), 8)].into(),
            blobs: blobs.iter().map(|blob| (Digest::of(blob), blob.len() as u64)).collect(),
        }
    }

    async fn inventory(repositories: &[RepositoryContent]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut writer = InventoryWriter::begin(&mut out, "r.example/team", Timestamp::UNIX_EPOCH)
            .await
            .unwrap();
        for repository in repositories {
            writer.repository(repository).await.unwrap();
        }
        let digest = writer.finish().await.unwrap();
        assert_eq!(digest, Digest::of(&out));
        out
    }

    #[tokio::test]
    async fn an_inventory_tells_where_the_wanted_blobs_are() {
        let text = inventory(&[content("team/a", &[b"1", b"2"]), content("team/b", &[b"2", b"3"])]).await;
        assert_eq!(text.iter().filter(|byte| **byte == b'\n').count(), 4, "one line each");
        let wanted = [&b"2"[..], b"3", b"4", b"manifest"].map(Digest::of).into();
        let holdings = read(&text, &wanted).unwrap();
        assert_eq!(holdings.registry, "r.example/team");
        let expected = [
            (Digest::of(b"2"), "team/a".to_owned()),
            (Digest::of(b"3"), "team/b".to_owned()),
        ];
        // A manifest is no blob: it cannot be mounted as one.
        assert_eq!(holdings.blobs, expected.into());
        let manifest = Digest::of(b"manifest");
        let names = ["team/a", "team/b"].map(|name| [format!("{name}:1"), format!("{name}@{manifest}")]);
        assert_eq!(
            holdings.names,
            [(manifest, names.concat().into_iter().collect())].into()
        );
        let empty = inventory(&[]).await;
        assert!(read(&empty, &wanted).unwrap().blobs.is_empty());
    }

    #[tokio::test]
    async fn what_is_not_an_inventory_is_refused() {
        let text = inventory(&[content("team/a", &[b"1"])]).await;
        let text = String::from_utf8(text).unwrap();
        for (damaged, words) in [
            (String::new(), "EOF"),
            ("[]".to_owned(), "an inventory"),
            ("{}".to_owned(), "missing field `version`"),
            (
                text.replace("\"version\":1", "\"version\":2"),
                "its version is 2 and not 1",
            ),
            (
                text.replace("\"repositories\"", "\"other\""),
                "missing field `repositories`",
            ),
            (text.replace("team/a", "../a"), "is not a repository"),
            (text.replace("sha256:", "md5:"), "is not a digest"),
            (text[..text.len() - 4].to_owned(), "EOF"),
            (format!("{text}x"), "trailing characters"),
        ] {
            let fault = read(damaged.as_bytes(), &HashSet::new()).unwrap_err();
            assert!(fault.is_stalled() && fault.message.contains(words), "{words}: {fault}");
        }
    }
}
