//! Charts in registries (Helm, "Use OCI-based registries"), also if the tag names an index of images and charts.

use async_trait::async_trait;
use futures::{StreamExt as _, TryStreamExt as _};

use super::ContentAccess;
use crate::api::v1alpha1::ChartSpec;
use crate::budget::{IMAGES, Reservation, json_memory};
use crate::fault::{Fault, Reason};
use crate::oci::{Descriptor, Digest, Document, Index, Reference};
use crate::package::EntrySource;
use crate::registry::Repository;
use crate::source::ByteStream;

/// The media types of a chart's archive; Helm before 3.7 wrote the second.
const CONTENT: [&str; 2] = [
    "application/vnd.cncf.helm.chart.content.v1.tar+gzip",
    "application/tar+gzip",
];
/// The media type of a chart's configuration, which an index may give as the artifact type of an entry.
const CONFIG: &str = "application/vnd.cncf.helm.config.v1+json";
/// The annotations by `helm push` with the name and version of a chart.
const TITLE: &str = "org.opencontainers.image.title";
const VERSION: &str = "org.opencontainers.image.version";
/// The most entries of an index that are read to find a chart.
const ENTRIES: usize = 64;
/// The depth to which indexes may be nested.
const DEPTH: usize = 2;
/// The number of charts that a message lists if none can be selected.
const NAMED: usize = 4;

/// A chart in a registry.
pub(super) struct OciChart {
    repository: Repository,
    /// The digest of its manifest.
    pub digest: Digest,
    /// Its archive.
    layer: Descriptor,
    /// Its name in messages.
    name: String,
}

/// Finds the chart of `spec` at `reference`. It is read by its tag, and its digest is computed, because the digest that a
/// registry reports for a tag may not exist.
pub(super) async fn find(
    spec: &ChartSpec,
    reference: &Reference,
    access: &dyn ContentAccess,
) -> Result<OciChart, Fault> {
    let registry = access.registry(reference, "its url").await?;
    let lookup = Lookup {
        repository: registry.repository(reference.repository()),
        name: reference.to_string(),
        spec,
        memory: IMAGES.reserve(),
    };
    lookup.chart(lookup.root(reference).await?).await
}

/// The search for one chart.
struct Lookup<'s> {
    repository: Repository,
    name: String,
    spec: &'s ChartSpec,
    /// The memory that the manifests take.
    memory: Reservation,
}

impl Lookup<'_> {
    async fn root(&self, reference: &Reference) -> Result<Document, Fault> {
        self.document(reference.identifier()).await?.ok_or_else(|| {
            Fault::retryable(
                Reason::SourceNotFound,
                format!(
                    "{} does not exist; check the chart's url and version, or push it there",
                    self.name
                ),
            )
        })
    }

    async fn document(&self, identifier: &str) -> Result<Option<Document>, Fault> {
        let document = self.repository.manifest(identifier).await;
        let document = document.map_err(|error| error.into_read_fault(&self.name))?;
        let added = self
            .memory
            .add(document.as_ref().map_or(0, |document| json_memory(&document.raw)));
        added.map_err(|exhausted| exhausted.fault(Reason::SourceFailed, &self.name))?;
        Ok(document)
    }

    async fn chart(&self, root: Document) -> Result<OciChart, Fault> {
        let document = match root.index() {
            None => root,
            Some(index) => self.find_in_index(index).await?,
        };
        let layer = content_of(&document)
            .cloned()
            .ok_or_else(|| no_chart(&self.name, "it has no layer of the type that `helm push` gives a chart"))?;
        Ok(OciChart {
            repository: self.repository.clone(),
            digest: document.digest().clone(),
            layer,
            name: self.name.clone(),
        })
    }

    /// Finds the manifest of the chart in an index, which may also list images.
    async fn find_in_index(&self, index: &Index) -> Result<Document, Fault> {
        let (mut charts, mut best, mut read) = (Vec::new(), ChartMatch::Unlikely, 0);
        let mut level: Vec<Descriptor> = candidates(index);
        for _ in 0..DEPTH {
            let mut deeper = Vec::new();
            for entry in std::mem::take(&mut level) {
                // Entries are sorted by likelihood; less likely ones are read only if no chart was found.
                let likelihood = ChartMatch::of(&entry);
                if likelihood > best && !charts.is_empty() || read >= ENTRIES {
                    break;
                }
                (best, read) = (likelihood, read + 1);
                let document = self.document(entry.digest.as_str()).await?;
                let document = document.ok_or_else(|| {
                    let what = format!(
                        "the index of {} lists {}, which does not exist; push it again",
                        self.name, entry.digest
                    );
                    Fault::retryable(Reason::SourceNotFound, what)
                })?;
                match document.index() {
                    Some(index) => deeper.extend(candidates(index)),
                    None if content_of(&document).is_some() => charts.push(document),
                    None => {}
                }
            }
            level = deeper;
        }
        select(charts, &self.spec.name, &self.spec.version).map_err(|why| no_chart(&self.name, &why))
    }
}

/// The likelihood that an entry of an index is a chart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum ChartMatch {
    /// The index says so.
    Declared,
    /// It has no platform.
    Likely,
    /// It has a platform, as images have.
    Unlikely,
}

impl ChartMatch {
    fn of(entry: &Descriptor) -> Self {
        match (entry.artifact_type.as_deref(), &entry.platform) {
            (Some(CONFIG), _) => Self::Declared,
            (_, None) => Self::Likely,
            (_, Some(_)) => Self::Unlikely,
        }
    }
}

/// The entries of an index that may be charts, the likely ones first.
fn candidates(index: &Index) -> Vec<Descriptor> {
    let entries = index.manifests.iter();
    let mut entries: Vec<Descriptor> = entries.filter(|entry| entry.may_be_image()).cloned().collect();
    entries.sort_by_key(ChartMatch::of);
    entries
}

/// The chart `name` among `charts`, in `version` if there are several.
fn select(mut charts: Vec<Document>, name: &str, version: &str) -> Result<Document, String> {
    let has = |document: &Document, key: &str, value: &str| {
        let manifest = document.manifest();
        manifest.is_some_and(|manifest| manifest.annotations.get(key).is_some_and(|found| found == value))
    };
    for (key, value) in [(TITLE, name), (VERSION, version)] {
        if charts.len() > 1 && charts.iter().any(|document| has(document, key, value)) {
            charts.retain(|document| has(document, key, value));
        }
    }
    if charts.len() > 1 {
        let named: Vec<String> = charts.iter().take(NAMED).map(|one| one.digest().to_string()).collect();
        return Err(format!(
            "its index lists {} charts ({}), and not exactly one of them is {name} {version}",
            charts.len(),
            named.join(", ")
        ));
    }
    let none = || "its index lists no chart in the format of `helm push`".to_owned();
    charts.pop().ok_or_else(none)
}

/// The fault of content that is not a chart; `name` names it.
pub(super) fn no_chart(name: &str, why: &str) -> Fault {
    Fault::retryable(
        Reason::SourceFailed,
        format!("{name} is not a Helm chart: {why}; push the chart as `helm package` makes it, or correct url"),
    )
}

/// The layer with a chart's archive.
fn content_of(document: &Document) -> Option<&Descriptor> {
    let layers = &document.manifest()?.layers;
    let of = |kind: &str| layers.iter().find(|layer| layer.media_type == kind);
    CONTENT.into_iter().find_map(of)
}

#[async_trait]
impl EntrySource for OciChart {
    async fn open(&self) -> Result<(u64, ByteStream<'static>), Fault> {
        let name = self.name.clone();
        let download = self.repository.blob(&self.layer.digest, Some(self.layer.size));
        let stream = download
            .into_stream()
            .map_err(move |error| error.into_read_fault(&name));
        Ok((self.layer.size, stream.boxed()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Manifest, media_type};

    fn chart(title: &str, version: &str) -> Document {
        let layer = Descriptor::new(CONTENT[0], Digest::of(title.as_bytes()), 1);
        let mut manifest = Manifest::new(Descriptor::new(CONFIG, Digest::of(b"{}"), 2), vec![layer]);
        manifest.annotations = [(TITLE, title), (VERSION, version)]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        Document::of_manifest(manifest).unwrap()
    }

    #[test]
    fn a_chart_is_selected_by_its_name() {
        let (alpha, beta, newer) = (chart("alpha", "1.0.0"), chart("beta", "1.0.0"), chart("alpha", "2.0.0"));
        let choose = |charts: &[&Document]| {
            let charts = charts.iter().map(|&one| one.clone()).collect();
            select(charts, "alpha", "2.0.0").map(|selected| selected.digest().clone())
        };
        assert_eq!(
            choose(&[&beta]).as_ref(),
            Ok(beta.digest()),
            "a single chart may have another name"
        );
        assert_eq!(choose(&[&beta, &alpha]).as_ref(), Ok(alpha.digest()));
        assert_eq!(choose(&[&alpha, &beta, &newer]).as_ref(), Ok(newer.digest()));
        assert!(choose(&[]).is_err());
        let both = choose(&[&beta, &chart("gamma", "1.0.0")]).unwrap_err();
        assert!(both.contains(beta.digest().as_str()), "{both}");
    }

    #[test]
    fn declared_charts_are_read_first() {
        let entry = |name: &str| Descriptor::new(media_type::OCI_MANIFEST, Digest::of(name.as_bytes()), 1);
        let (mut image, plain, mut called) = (entry("image"), entry("plain"), entry("called"));
        image.platform = Some("linux/amd64".parse().unwrap());
        called.artifact_type = Some(CONFIG.to_owned());
        let mut blob = entry("blob");
        blob.media_type = "application/x".to_owned();
        let index = Index::new(vec![image.clone(), blob, plain.clone(), called.clone()]);
        assert_eq!(candidates(&index), [called, plain, image]);
    }

    #[test]
    fn the_archive_is_the_layer_of_its_type() {
        let manifest = |kind: &str| {
            let layer = |kind: &str| Descriptor::new(kind, Digest::of(kind.as_bytes()), 1);
            let layers = vec![layer("application/vnd.cncf.helm.chart.provenance.v1.prov"), layer(kind)];
            Document::of_manifest(Manifest::new(layer("c"), layers)).unwrap()
        };
        let chart = manifest(CONTENT[0]);
        assert_eq!(content_of(&chart).unwrap().media_type, CONTENT[0]);
        assert!(content_of(&manifest("application/vnd.oci.image.layer.v1.tar+gzip")).is_none());
    }
}
