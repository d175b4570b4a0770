use super::*;
use crate::oci::{Index, Manifest, media_type};
use crate::transfer::LayoutDestination;

fn blob(content: &str, kind: &str) -> Descriptor {
    Descriptor::new(kind, Digest::of(content.as_bytes()), content.len() as u64)
}

fn manifest(name: &str, layer: &str) -> Document {
    Document::of_manifest(Manifest::new(
        blob(name, media_type::OCI_CONFIG),
        vec![blob(name, layer)],
    ))
    .unwrap()
}

fn entry_of(document: &Document, platform: &str) -> Descriptor {
    Descriptor {
        platform: Some(platform.parse().unwrap()),
        ..document.descriptor.clone()
    }
}

fn destination() -> Arc<dyn Destination> {
    Arc::new(LayoutDestination::new("/nowhere", "team/web"))
}

/// The platform images of an image; the last document is its root.
fn subjects(reference: &str, documents: Vec<Document>) -> Vec<PlatformImage> {
    let image = ArtifactImage {
        reference: reference.parse().unwrap(),
        repository: "team/web".to_owned(),
        root: documents.last().unwrap().digest().clone(),
        documents,
        foreign: std::collections::BTreeSet::new(),
    };
    subjects_of(&image, &destination())
}

/// The same with SBOMs.
fn complete(mut subjects: Vec<PlatformImage>) -> PackageSboms {
    for subject in &mut subjects {
        let content = |format: Format| {
            let name = format!("{format:?} of {}", subject.manifest.digest());
            (format, blob(&name, format.media_type()))
        };
        subject.sboms = Some(Sboms {
            tool: "syft 1.57.1".to_owned(),
            contents: Format::ALL.into_iter().map(content).collect(),
        });
    }
    PackageSboms {
        subjects,
        _memory: crate::budget::PACKAGES.reserve(),
    }
}

fn paths(sboms: &PackageSboms) -> Vec<String> {
    let archive = sboms.archive().unwrap();
    archive.entries.into_iter().map(|entry| entry.path).collect()
}

#[test]
fn files_have_the_names_that_zarf_gives_them() {
    let alone = subjects("nginx:1.23", vec![manifest("a", media_type::OCI_LAYER)]);
    assert_eq!(
        paths(&complete(alone)),
        [
            "docker.io_library_nginx_1.23.json",
            "sbom-viewer-docker.io_library_nginx_1.23.html"
        ]
    );
}

#[test]
fn each_platform_of_an_index_has_an_sbom_and_attestations_have_none() {
    let (amd, arm) = (
        manifest("amd", media_type::OCI_LAYER),
        manifest("arm", media_type::OCI_LAYER),
    );
    let attestation = manifest("attestation", "application/vnd.in-toto+json");
    let mut attests = entry_of(&attestation, "unknown/unknown");
    let kind = (
        "vnd.docker.reference.type".to_owned(),
        "attestation-manifest".to_owned(),
    );
    attests.annotations.extend([kind]);
    let index = Document::of_index(Index::new(vec![
        entry_of(&amd, "linux/amd64"),
        entry_of(&arm, "linux/arm64/v8"),
        attests,
    ]))
    .unwrap();
    let subjects = subjects("r.test/x:1", vec![amd, arm, attestation, index]);
    let mut named: Vec<String> = subjects.iter().map(PlatformImage::identifier).collect();
    named.sort();
    assert_eq!(named, ["r.test/x:1-linux-amd64", "r.test/x:1-linux-arm64-v8"]);
}

#[test]
fn a_chart_has_no_sbom() {
    let chart = Document::of_manifest(Manifest::new(
        blob("{}", "application/vnd.cncf.helm.config.v1+json"),
        vec![blob("chart", "application/vnd.cncf.helm.chart.content.v1.tar+gzip")],
    ))
    .unwrap();
    let sboms = PackageSboms {
        subjects: subjects("r.test/chart:1", vec![chart]),
        _memory: crate::budget::PACKAGES.reserve(),
    };
    assert!(sboms.is_complete() && sboms.archive().is_none());
}

#[test]
fn names_that_collide_in_zarf_remain_distinct() {
    let both = [
        subjects("r.test/a_b:1", vec![manifest("one", media_type::OCI_LAYER)]),
        subjects("r.test/a/b:1", vec![manifest("two", media_type::OCI_LAYER)]),
    ];
    let sboms = complete(both.into_iter().flatten().collect());
    let names = paths(&sboms);
    assert_eq!(
        (
            names.len(),
            names.iter().collect::<std::collections::BTreeSet<_>>().len()
        ),
        (4, 4)
    );
}

#[test]
fn the_tar_is_determined_by_the_images() {
    let one = || subjects("r.test/a:1", vec![manifest("one", media_type::OCI_LAYER)]);
    let two = || subjects("r.test/b:1", vec![manifest("two", media_type::OCI_LAYER)]);
    let inputs = |subjects: [Vec<PlatformImage>; 2]| {
        let sboms = complete(subjects.into_iter().flatten().collect());
        sboms.archive().unwrap().inputs()
    };
    assert_eq!(inputs([one(), two()]), inputs([two(), one()]));
    let other = subjects("r.test/b:1", vec![manifest("three", media_type::OCI_LAYER)]);
    assert_ne!(inputs([one(), two()]), inputs([one(), other]));
}

#[test]
fn an_incomplete_set_of_sboms_gives_no_tar() {
    let mut sboms = complete(subjects("r.test/a:1", vec![manifest("one", media_type::OCI_LAYER)]));
    assert!(sboms.archive().is_some());
    sboms
        .subjects
        .extend(subjects("r.test/b:1", vec![manifest("two", media_type::OCI_LAYER)]));
    assert!(!sboms.is_complete() && sboms.archive().is_none());
}

#[test]
fn the_page_has_one_placeholder_and_no_external_resources() {
    assert_eq!(PAGE.matches(PLACEHOLDER).count(), 1);

    assert!(!PAGE.contains("http://") && !PAGE.contains("https://"));
}
