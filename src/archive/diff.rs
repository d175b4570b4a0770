//! What differs between two archives. No IO: what is compared was read before.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;

use super::inspect::{Amount, PackageSummary};
use super::sboms::SbomPackages;
use crate::oci::{Digest, Reference};

/// An image of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedImage {
    /// Its name.
    pub name: Reference,
    /// The digest of its manifest or index.
    pub digest: Digest,
}

/// What two archives differ in. `old` is the first, `new` the second.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// The packages that are added, removed or changed.
    pub packages: Vec<PackageChange>,
    /// The images that are added, removed or changed.
    pub images: Vec<ImageChange>,
    /// The layers of images.
    pub layers: Overlap,
    /// All content.
    pub content: Overlap,
    /// What changed in the SBOMs of images that both have.
    pub sboms: Vec<SbomChange>,
}

impl Difference {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        let Self {
            packages,
            images,
            content,
            ..
        } = self;
        packages.is_empty() && images.is_empty() && content.old.count == 0 && content.new.count == 0
    }
}

/// Blobs by which archives have them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Overlap {
    /// Those that only the old one has.
    #[serde(rename = "onlyOld")]
    pub old: Amount,
    /// Those that only the new one has.
    #[serde(rename = "onlyNew")]
    pub new: Amount,
    /// Those that both have.
    pub shared: Amount,
}

/// What happened to something that has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Change {
    /// Only the new archive has it.
    Added,
    /// Only the old archive has it.
    Removed,
    /// Both have it, and it differs.
    Changed,
}

/// A package that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PackageChange {
    /// What happened to it.
    pub change: Change,
    /// Its name.
    pub name: String,
    /// Its architecture.
    pub architecture: String,
    /// Its version in the old archive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old_version: Option<String>,
    /// Its version in the new archive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_version: Option<String>,
    /// Its components that differ.
    pub components: Vec<ComponentChange>,
}

/// A component that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ComponentChange {
    /// What happened to it.
    pub change: Change,
    /// Its name.
    pub name: String,
}

/// An image that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageChange {
    /// What happened to it.
    pub change: Change,
    /// Its name in the old archive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old_name: Option<String>,
    /// Its name in the new archive; another one where its tag changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_name: Option<String>,
    /// Its digest in the old archive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old_digest: Option<Digest>,
    /// Its digest in the new archive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_digest: Option<Digest>,
}

/// What changed in the SBOM of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SbomChange {
    /// The name of the image in the new archive.
    pub image: String,
    /// The platform, where the image has several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// The packages that differ.
    pub packages: Vec<VersionChange>,
}

/// A package of an SBOM that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VersionChange {
    /// What happened to it.
    pub change: Change,
    /// Its type, such as `deb`; empty where the SBOM has none.
    #[serde(rename = "type", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its versions that only the old SBOM has.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub old_versions: Vec<String>,
    /// Its versions that only the new SBOM has.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub new_versions: Vec<String>,
}

/// Compares the packages of two archives by name and architecture.
pub fn packages(old: &[PackageSummary], new: &[PackageSummary]) -> Vec<PackageChange> {
    let key = |package: &PackageSummary| (package.name.clone(), package.architecture.clone());
    let pairs = pairs(
        old.iter().map(|one| (key(one), one)),
        new.iter().map(|one| (key(one), one)),
    );
    let changed = pairs.into_iter().filter_map(|((name, architecture), (old, new))| {
        let version = |package: Option<&PackageSummary>| package.map(|package| package.version.clone());
        let components = match (old, new) {
            (Some(old), Some(new)) => components(old, new),
            _ => Vec::new(),
        };
        let change = match (old, new) {
            (Some(old), Some(new)) if old.digest == new.digest => return None,
            _ => change_of(old.is_some(), new.is_some()),
        };
        Some(PackageChange {
            change,
            name,
            architecture,
            old_version: version(old),
            new_version: version(new),
            components,
        })
    });
    changed.collect()
}

fn components(old: &PackageSummary, new: &PackageSummary) -> Vec<ComponentChange> {
    fn named(package: &PackageSummary) -> impl Iterator<Item = (String, &serde_json::Value)> {
        let components = package.components.iter();
        components.map(|component| (component.name.clone(), &component.definition))
    }
    let pairs = pairs(named(old), named(new)).into_iter();
    let differing = pairs.filter(|(_, (old, new))| old != new);
    differing
        .map(|(name, (old, new))| ComponentChange {
            change: change_of(old.is_some(), new.is_some()),
            name,
        })
        .collect()
}

/// What two lists have under the same keys.
fn pairs<K: Ord, V>(
    old: impl Iterator<Item = (K, V)>,
    new: impl Iterator<Item = (K, V)>,
) -> BTreeMap<K, (Option<V>, Option<V>)> {
    let mut pairs: BTreeMap<K, (Option<V>, Option<V>)> = BTreeMap::new();
    for (key, value) in old {
        pairs.entry(key).or_insert((None, None)).0 = Some(value);
    }
    for (key, value) in new {
        pairs.entry(key).or_insert((None, None)).1 = Some(value);
    }
    pairs
}

fn change_of(old: bool, new: bool) -> Change {
    match (old, new) {
        (true, false) => Change::Removed,
        (false, true) => Change::Added,
        _ => Change::Changed,
    }
}

/// Compares images by their names. Of a repository that has one other image in each archive, these two are one image whose tag
/// changed.
pub fn images(old: &[ListedImage], new: &[ListedImage]) -> Vec<ImageChange> {
    let by_name = |image: &'_ ListedImage| image.name.to_string();
    let all = pairs(
        old.iter().map(|one| (by_name(one), one)),
        new.iter().map(|one| (by_name(one), one)),
    );
    let mut changed = Vec::new();
    let mut alone: BTreeMap<String, (Vec<&ListedImage>, Vec<&ListedImage>)> = BTreeMap::new();
    for pair in all.into_values() {
        match pair {
            (Some(old), Some(new)) if old.digest == new.digest => {}
            (Some(old), Some(new)) => changed.push((Some(old), Some(new))),
            (Some(old), None) => alone.entry(old.name.name()).or_default().0.push(old),
            (None, Some(new)) => alone.entry(new.name.name()).or_default().1.push(new),
            (None, None) => {}
        }
    }
    for (olds, news) in alone.into_values() {
        match (olds.as_slice(), news.as_slice()) {
            ([old], [new]) => changed.push((Some(*old), Some(*new))),
            (olds, news) => {
                changed.extend(olds.iter().map(|old| (Some(*old), None)));
                changed.extend(news.iter().map(|new| (None, Some(*new))));
            }
        }
    }
    let mut changes: Vec<ImageChange> = changed
        .into_iter()
        .map(|(old, new)| ImageChange {
            change: change_of(old.is_some(), new.is_some()),
            old_name: old.map(by_name),
            new_name: new.map(by_name),
            old_digest: old.map(|old| old.digest.clone()),
            new_digest: new.map(|new| new.digest.clone()),
        })
        .collect();
    changes.sort_by(|one, other| {
        let key = |change: &ImageChange| (change.new_name.clone().or(change.old_name.clone()), change.change);
        key(one).cmp(&key(other))
    });
    changes
}

/// Compares which blobs there are, by their digests.
pub fn overlap(old: &HashMap<Digest, u64>, new: &HashMap<Digest, u64>) -> Overlap {
    let mut overlap = Overlap::default();
    for (digest, size) in old {
        match new.contains_key(digest) {
            true => overlap.shared.add(*size),
            false => overlap.old.add(*size),
        }
    }
    let only_new = new.iter().filter(|(digest, _)| !old.contains_key(*digest));
    only_new.for_each(|(_, size)| overlap.new.add(*size));
    overlap
}

/// Compares the packages of two SBOMs. One is changed where both have it in different versions.
pub fn versions(old: &SbomPackages, new: &SbomPackages) -> Vec<VersionChange> {
    let pairs = pairs(old.iter(), new.iter()).into_iter();
    let none = BTreeSet::new();
    let changed = pairs.filter(|(_, (old, new))| old != new);
    changed
        .map(|((kind, name), (old, new))| {
            let versions = |these: Option<&BTreeSet<String>>, others: Option<&BTreeSet<String>>| {
                let these = these.unwrap_or(&none).difference(others.unwrap_or(&none));
                these.cloned().collect()
            };
            VersionChange {
                change: change_of(old.is_some(), new.is_some()),
                kind: kind.clone(),
                name: name.clone(),
                old_versions: versions(old, new),
                new_versions: versions(new, old),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::inspect::{ComponentSummary, SignatureState};

    fn image(name: &str, content: &str) -> ListedImage {
        ListedImage {
            name: name.parse().unwrap(),
            digest: Digest::of(content.as_bytes()),
        }
    }

    fn shown(changes: &[ImageChange]) -> Vec<String> {
        let part = |name: &Option<String>| name.clone().unwrap_or_default().replace("docker.io/library/", "");
        let changes = changes.iter();
        changes
            .map(|change| {
                format!(
                    "{:?} {} {}",
                    change.change,
                    part(&change.old_name),
                    part(&change.new_name)
                )
            })
            .collect()
    }

    #[test]
    fn images_are_compared_by_name_then_by_repository() {
        let old = [
            image("same:1", "a"),
            image("moved:1", "b"),
            image("tag:1", "c"),
            image("gone:1", "d"),
        ];
        let new = [
            image("same:1", "a"),
            image("moved:1", "B"),
            image("tag:2", "C"),
            image("new:1", "d"),
        ];
        let expected = [
            "Removed gone:1 ",
            "Changed moved:1 moved:1",
            "Added  new:1",
            "Changed tag:1 tag:2",
        ];
        assert_eq!(shown(&images(&old, &new)), expected);
        assert!(images(&old, &old).is_empty());
        // Two tags became two others: which became which is unknown.
        let several = images(
            &[image("x:1", "a"), image("x:2", "b")],
            &[image("x:3", "a"), image("x:4", "b")],
        );
        assert_eq!(
            shown(&several),
            ["Removed x:1 ", "Removed x:2 ", "Added  x:3", "Added  x:4"]
        );
    }

    #[test]
    fn content_is_counted_by_archive() {
        let blobs = |blobs: &[(&str, u64)]| -> HashMap<Digest, u64> {
            let blobs = blobs.iter();
            blobs.map(|(text, size)| (Digest::of(text.as_bytes()), *size)).collect()
        };
        let found = overlap(&blobs(&[("a", 1), ("b", 2)]), &blobs(&[("b", 2), ("c", 4), ("d", 8)]));
        assert_eq!(found.old, Amount { count: 1, size: 1 });
        assert_eq!(found.shared, Amount { count: 1, size: 2 });
        assert_eq!(found.new, Amount { count: 2, size: 12 });
    }

    #[test]
    fn packages_of_sboms_are_added_removed_and_changed() {
        let sbom = |packages: &[(&str, &[&str])]| -> SbomPackages {
            let packages = packages.iter();
            let versions = |versions: &[&str]| versions.iter().map(|&version| version.to_owned()).collect();
            packages
                .map(|(name, all)| (("deb".to_owned(), (*name).to_owned()), versions(all)))
                .collect()
        };
        let old = sbom(&[("gone", &["1"]), ("same", &["1"]), ("up", &["1", "2"])]);
        let new = sbom(&[("new", &["3"]), ("same", &["1"]), ("up", &["2", "3"])]);
        let changes: Vec<String> = versions(&old, &new)
            .iter()
            .map(|change| {
                format!(
                    "{:?} {} {:?} {:?}",
                    change.change, change.name, change.old_versions, change.new_versions
                )
            })
            .collect();
        let expected = [
            r#"Removed gone ["1"] []"#,
            r#"Added new [] ["3"]"#,
            r#"Changed up ["1"] ["3"]"#,
        ];
        assert_eq!(changes, expected);
    }

    #[test]
    fn packages_are_compared_with_their_components() {
        let package = |version: &str, components: &[(&str, u32)]| PackageSummary {
            name: "shop".to_owned(),
            version: version.to_owned(),
            architecture: "amd64".to_owned(),
            digest: Digest::of(format!("{version} {components:?}").as_bytes()),
            components: components
                .iter()
                .map(|(name, definition)| ComponentSummary {
                    name: (*name).to_owned(),
                    required: false,
                    images: Vec::new(),
                    definition: (*definition).into(),
                })
                .collect(),
            signature: SignatureState::Unsigned,
            files: Amount::default(),
        };
        let old = package("1", &[("a", 1), ("b", 1), ("c", 1)]);
        let new = package("2", &[("b", 2), ("c", 1), ("d", 1)]);
        assert!(packages(std::slice::from_ref(&old), std::slice::from_ref(&old)).is_empty());
        let changes = packages(std::slice::from_ref(&old), std::slice::from_ref(&new));
        assert_eq!((changes[0].change, changes.len()), (Change::Changed, 1));
        assert_eq!(changes[0].old_version.as_deref(), Some("1"));
        let components = changes[0].components.iter();
        let components: Vec<_> = components.map(|one| (one.change, one.name.as_str())).collect();
        let expected = [(Change::Removed, "a"), (Change::Changed, "b"), (Change::Added, "d")];
        assert_eq!(components, expected);
        let mut other = new;
        other.architecture = "arm64".to_owned();
        let changes = packages(&[old], &[other]);
        assert_eq!(changes[0].change, Change::Removed);
        assert_eq!(changes[1].change, Change::Added);
    }
}
