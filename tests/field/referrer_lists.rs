//! Referrer listings that contradict the manifests, and signatures that are difficult to read.

use futures::FutureExt as _;
use futures::future::BoxFuture;
use jackal_operator::oci::{Digest, Document, media_type, referrers_tag};
use jackal_operator::registry::Repository;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::workspace::{Workspace, all_output, package};
use super::{Case, check};
use crate::support::fault_proxy::{Action, FaultProxy};
use crate::support::image::{image, multi_platform, noise, put, referrer};
use crate::support::registry::{TestRegistry, Version};
use crate::support::scripted::RecordedRequest;

const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
const PREDICATE: &str = "dev.sigstore.bundle.predicateType";

/// A workspace with the keys of `tests/signing`.
pub(super) fn workspace_with_keys() -> Workspace {
    let folder = Workspace::new();
    for name in ["cosign.key", "cosign.pub"] {
        let made = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/signing/");
        folder.write(name, std::fs::read(format!("{made}{name}")).unwrap());
    }
    folder
}

/// An image `app:1` in a registry of `version`, signed by the key of `workspace`.
pub(super) async fn signed(folder: &Workspace, version: Version) -> (TestRegistry, Document) {
    let registry = TestRegistry::start(version);
    let repository = registry.repository("app");
    let document = image(&repository, "linux/amd64", noise(1, 1000)).await;
    put(&repository, &document, Some("1")).await;
    let name = format!("{}/app:1", registry.host);
    let output = folder.run(&["sign", &name, "--insecure", "--key", "cosign.key"]);
    assert!(output.status.success(), "{}", all_output(&output));
    (registry, document)
}

/// Changes every entry of the listing of `subject`, which a registry without the API stores under a tag.
async fn change_listing(repository: &Repository, subject: &Digest, change: fn(&mut Value)) {
    let tag = referrers_tag(subject);
    let listing = repository.manifest(&tag).await.unwrap().unwrap();
    let mut listing: Value = serde_json::from_slice(&listing.raw).unwrap();
    listing["manifests"].as_array_mut().unwrap().iter_mut().for_each(change);
    let raw = listing.to_string();
    let document = Document::parse(Some(media_type::OCI_INDEX), raw.into()).unwrap();
    repository.put_manifest(&document, &tag).await.unwrap();
}

/// `verify` finds the signature of an image with a changed listing.
fn signature_is_found(change: fn(&mut Value)) -> BoxFuture<'static, ()> {
    async move {
        let folder = workspace_with_keys();
        let (registry, document) = signed(&folder, Version::V31).await;
        change_listing(&registry.repository("app"), document.digest(), change).await;
        assert_verifies(&folder, &registry.host);
    }
    .boxed()
}

pub(super) fn assert_verifies(folder: &Workspace, host: &str) {
    let output = folder.run(&["verify", &format!("{host}/app:1"), "--insecure", "--key", "cosign.pub"]);
    assert!(output.status.success(), "{}", all_output(&output));
}

/// The same if the registry's API lists the signature by its digest and with the other fields of `entry`.
fn signature_is_found_by_api(entry: fn() -> Value) -> BoxFuture<'static, ()> {
    signature_is_found_by_response(media_type::OCI_INDEX, entry)
}

/// The same if the response has the media type `kind`.
fn signature_is_found_by_response(kind: &'static str, entry: fn() -> Value) -> BoxFuture<'static, ()> {
    async move {
        let folder = workspace_with_keys();
        let (registry, document) = signed(&folder, Version::Olareg).await;
        let listed = registry.repository("app").referrers(document.digest()).await.unwrap();
        let mut entry = entry();
        entry["digest"] = json!(listed[0].digest.as_str());
        let body = json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [entry]}).to_string();
        let proxy = FaultProxy::to(&registry.host, move |request| {
            match request.path.contains("/referrers/") {
                true => Action::Answer(200, vec![("Content-Type", kind.to_owned())], body.clone()),
                false => Action::Pass,
            }
        });
        assert_verifies(&folder, &proxy.host);
    }
    .boxed()
}

/// SBOMs with this listing are found and not made: no syft is available.
fn sboms_are_found(change: fn(&mut Value)) -> BoxFuture<'static, ()> {
    async move {
        let registry = TestRegistry::start(Version::V31);
        let repository = registry.repository("app");
        let document = image(&repository, "linux/amd64", noise(1, 1000)).await;
        put(&repository, &document, Some("1")).await;
        for kind in [
            "application/spdx+json",
            "application/vnd.cyclonedx+json",
            "application/vnd.syft+json",
        ] {
            let content = format!("{{\"an SBOM\": {kind:?}}}");
            let (digest, length) = (Digest::of(content.as_bytes()), content.len());
            let made = referrer(&repository, &document, kind, content).await;
            let mut manifest: Value = serde_json::from_slice(&made.raw).unwrap();
            manifest["annotations"] = json!({
                "dev.jackal.sbom.tool": "syft 1.57.1",
                "dev.jackal.sbom.content": format!("{digest} {length}"),
            });
            let made = Document::parse(Some(media_type::OCI_MANIFEST), manifest.to_string().into()).unwrap();
            repository.attach(&made).await.unwrap();
        }
        change_listing(&repository, document.digest(), change).await;
        let name = format!("{}/app:1", registry.host);
        let output = Workspace::new().run(&["sbom", &name, "--insecure", "--syft", "/bin/false"]);
        assert!(output.status.success(), "{}", all_output(&output));
        assert_eq!(all_output(&output).lines().count(), 3, "{}", all_output(&output));
    }
    .boxed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn incorrect_referrer_listings_do_not_hide_referrers() {
    check(&[
        Case {
            report: "sigstore/cosign#4422",
            input: "a bundle that is listed with the artifactType of its empty config",
            expected: "the manifest takes precedence, and the signature is found",
            run: || signature_is_found(|entry| entry["artifactType"] = json!(EMPTY)),
        },
        Case {
            report: "google/go-containerregistry#2441",
            input: "a signature that is listed with the annotations of an attestation",
            expected: "the manifest takes precedence, and the signature is found",
            run: || signature_is_found(|entry| entry["annotations"] = json!({ PREDICATE: "https://slsa.dev/provenance/v1" })),
        },
        Case {
            report: "sigstore/cosign#4641",
            input: "a bundle that is listed as an SBOM of another size",
            expected: "the manifest takes precedence, and the signature is found",
            run: || {
                signature_is_found_by_api(|| {
                    json!({"mediaType": media_type::OCI_MANIFEST, "artifactType": "application/spdx+json", "size": 7})
                })
            },
        },
        Case {
            report: "sigstore/cosign#4995",
            input: "an entry with only a digest, and null for the other fields",
            expected: "the manifest takes precedence, and the signature is found",
            run: || signature_is_found_by_api(|| json!({"annotations": null, "artifactType": null, "size": null})),
        },
        Case {
            report: "distribution-spec, Listing Referrers",
            input: "an entry with the media type of an image's configuration and an empty artifactType",
            expected: "the manifest takes precedence, and the signature is found",
            run: || {
                signature_is_found_by_api(
                    || json!({"mediaType": media_type::OCI_CONFIG, "artifactType": "", "size": "12", "annotations": {"a": 1}}),
                )
            },
        },
        Case {
            report: "distribution-spec, Listing Referrers",
            input: "a listing with the media type application/json",
            expected: "it is accepted, and the signature is found",
            run: || {
                async {
                    for kind in ["application/json; charset=utf-8", "text/plain", "application/vnd.oci.image.index.v1+JSON"] {
                        signature_is_found_by_response(kind, || json!({"mediaType": media_type::OCI_MANIFEST, "size": 7})).await;
                    }
                }
                .boxed()
            },
        },
        Case {
            report: "oras-project/oras-go#633",
            input: "200 with a login page, or an unrelated error, for the referrers API",
            expected: "the listing under the tag is used, and the signature is found",
            run: || {
                async {
                    for (kind, body) in [
                        ("text/html", "<!DOCTYPE html><title>Sign in</title>"),
                        ("application/json", r#"{"errors": null, "manifests": null}"#),
                        ("application/json", "null"),
                        ("application/json", ""),
                    ] {
                        let folder = workspace_with_keys();
                        let (registry, _) = signed(&folder, Version::V31).await;
                        let proxy = FaultProxy::to(&registry.host, move |request| match request.path.contains("/referrers/") {
                            true => Action::Answer(200, vec![("Content-Type", kind.to_owned())], body.to_owned()),
                            false => Action::Pass,
                        });
                        assert_verifies(&folder, &proxy.host);
                    }
                }
                .boxed()
            },
        },
        Case {
            report: "sigstore/cosign#4641",
            input: "SBOMs that are listed without annotations",
            expected: "they are found, and not made again",
            run: || sboms_are_found(|entry| drop(entry.as_object_mut().unwrap().remove("annotations"))),
        },
        Case {
            report: "sigstore/cosign#4422",
            input: "SBOMs that are listed with the artifactType of their empty config",
            expected: "they are found, and not made again",
            run: || sboms_are_found(|entry| entry["artifactType"] = json!(EMPTY)),
        },
    ])
    .await;
}

fn of_app(host: &str) -> String {
    package("", &[&format!("images: [{{image: '{host}/app:1'}}]")])
}

/// An image with a signature of cosign 2 under its tag, read through a proxy with `rule`, which gets the tag and the
/// signature's digest. The signature is copied, and a repeat has nothing to do.
fn signature_is_copied(
    rule: impl Fn(&RecordedRequest, &str, &str) -> Action + Send + Sync + 'static,
) -> BoxFuture<'static, ()> {
    async move {
        let (source, to) = (TestRegistry::start(Version::V31), TestRegistry::start(Version::V31));
        let repository = source.repository("app");
        let document = image(&repository, "linux/amd64", noise(1, 1000)).await;
        put(&repository, &document, Some("1")).await;
        let signature = image(&repository, "unknown/unknown", noise(2, 300)).await;
        let tag = format!("{}.sig", referrers_tag(document.digest()));
        put(&repository, &signature, Some(&tag)).await;
        let (named, digest) = (tag.clone(), signature.digest().to_string());
        let proxy = FaultProxy::to(&source.host, move |request| rule(request, &named, &digest));
        let folder = Workspace::new();
        let report = folder.text_report(&of_app(&proxy.host), &to.host, &[&proxy.host], &[]);
        let name = report["images"][0]["name"].as_str().unwrap();
        let (_, path) = name.split_once('/').unwrap();
        let (path, _) = path.rsplit_once(':').unwrap();
        let head = to.repository(path).head_manifest(&tag).await.unwrap();
        assert_eq!(
            head.map(|head| head.digest).as_ref(),
            Some(signature.digest()),
            "{report}"
        );
        let again = folder.text_report(&of_app(&proxy.host), &to.host, &[&proxy.host], &[]);
        assert_eq!(again["changed"], false, "{again}");
    }
    .boxed()
}

/// An image with a referrer whose manifest is missing in its registry. It is listed `listed` times, and then removed
/// from the listing.
fn missing_referrer_is_listed(listed: usize, comes: bool) -> BoxFuture<'static, ()> {
    async move {
        let (source, to) = (TestRegistry::start(Version::Olareg), TestRegistry::start(Version::V31));
        let repository = source.repository("app");
        let document = image(&repository, "linux/amd64", noise(1, 1000)).await;
        put(&repository, &document, Some("1")).await;
        let gone = Digest::of(b"gone");
        let of_image = document.digest().to_string();
        let body = |entries: Value| {
            let index = json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": entries});
            Action::Answer(200, vec![("Content-Type", media_type::OCI_INDEX.to_owned())], index.to_string())
        };
        let entry = json!([{"mediaType": media_type::OCI_MANIFEST, "digest": gone.as_str(), "size": 12, "artifactType": BUNDLE}]);
        let asked = AtomicUsize::new(0);
        let proxy = FaultProxy::to(&source.host, move |request| match request.path.contains(&format!("/referrers/{of_image}")) {
            true if asked.fetch_add(1, Ordering::Relaxed) < listed => body(entry.clone()),
            true => body(json!([])),
            false => Action::Pass,
        });
        let output = Workspace::new().build_text(&of_app(&proxy.host), &to.host, &[&proxy.host], &[]);
        assert_eq!(output.status.success(), comes, "{}", all_output(&output));
        if !comes {
            for part in [gone.as_str(), "referrers: Ignore"] {
                assert!(all_output(&output).contains(part), "{}", all_output(&output));
            }
            let ignoring = package("  referrers: Ignore\n", &[&format!("images: [{{image: '{}/app:1'}}]", proxy.host)]);
            Workspace::new().text_report(&ignoring, &to.host, &[&proxy.host], &[]);
        }
    }
    .boxed()
}

/// An image and the tag of its cosign 2 signature, which exists if `signed`, read through a proxy with `rule`, which
/// gets the tag. Returns the tag, the result, and the destination registry.
async fn built_behind(
    signed: bool,
    more: &str,
    rule: impl Fn(&RecordedRequest, &str) -> Action + Send + Sync + 'static,
) -> (String, std::process::Output, TestRegistry) {
    let (source, to) = (TestRegistry::start(Version::V31), TestRegistry::start(Version::V31));
    let repository = source.repository("app");
    let document = image(&repository, "linux/amd64", noise(1, 1000)).await;
    put(&repository, &document, Some("1")).await;
    let tag = format!("{}.sig", referrers_tag(document.digest()));
    if signed {
        let signature = image(&repository, "unknown/unknown", noise(2, 300)).await;
        put(&repository, &signature, Some(&tag)).await;
    }
    let named = tag.clone();
    let proxy = FaultProxy::to(&source.host, move |request| rule(request, &named));
    let text = package(more, &[&format!("images: [{{image: '{}/app:1'}}]", proxy.host)]);
    let output = Workspace::new().build_text(&text, &to.host, &[&proxy.host], &[]);
    (tag, output, to)
}

/// The rule of a registry that answers 403 for missing content, and for the list of tags if it has none.
fn forbid_missing(request: &RecordedRequest, lists: bool) -> Action {
    match !lists && request.path.contains("/tags/list") {
        true => Action::Answer(403, Vec::new(), String::new()),
        false => Action::Status(404, 403),
    }
}

async fn missing_tags_are_forbidden() {
    for (signed, lists) in [(false, true), (false, false), (true, true), (true, false)] {
        let (tag, output, to) = built_behind(signed, "", move |request, _| forbid_missing(request, lists)).await;
        assert!(output.status.success(), "{}", all_output(&output));
        let existing = to.repository("app").head_manifest(&tag).await.unwrap();
        assert_eq!(existing.is_some(), signed);
    }
    let key = std::fs::read_to_string(workspace_with_keys().path("cosign.pub")).unwrap();
    let verify = format!("  verify: [{{publicKeys: [{{inline: {}}}]}}]\n", json!(key));
    let (_, output, _) = built_behind(false, &verify, |request, _| forbid_missing(request, true)).await;
    assert!(
        all_output(&output).contains("is not signed as verify requires"),
        "{}",
        all_output(&output)
    );
}

async fn existing_signatures_are_forbidden() {
    for lists in [true, false] {
        let (tag, output, _) = built_behind(true, "", move |request, tag| {
            let refused = request.path.ends_with(tag) || !lists && request.path.contains("/tags/list");
            match refused {
                true => Action::Answer(403, Vec::new(), String::new()),
                false => Action::Pass,
            }
        })
        .await;
        assert!(!output.status.success(), "{}", all_output(&output));
        for part in [&tag, "403", "referrers: Ignore"] {
            assert!(all_output(&output).contains(part), "{}", all_output(&output));
        }
    }
}

/// A signature of a signature of a signature, and so on: all are copied.
async fn referrers_of_referrers() {
    let (source, to) = (TestRegistry::start(Version::Olareg), TestRegistry::start(Version::V31));
    let repository = source.repository("app");
    let document = image(&repository, "linux/amd64", noise(1, 1000)).await;
    put(&repository, &document, Some("1")).await;
    let mut chain = vec![document];
    for depth in 0..6 {
        let subject = chain.last().unwrap();
        let made = referrer(&repository, subject, BUNDLE, format!("{{\"depth\": {depth}}}")).await;
        repository.attach(&made).await.unwrap();
        chain.push(made);
    }
    let report = Workspace::new().text_report(&of_app(&source.host), &to.host, &[&source.host], &[]);
    for pair in chain.windows(2) {
        let listed = to.repository("app").referrers(pair[0].digest()).await.unwrap();
        let listed: Vec<_> = listed.iter().map(|entry| &entry.digest).collect();
        assert_eq!(listed, [pair[1].digest()], "{report}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signatures_are_copied_or_the_failure_is_reported() {
    check(&[
        Case {
            report: "sigstore/cosign#2973, carvel-dev/imgpkg#548",
            input: "403 for tags that do not exist, with and without a list of tags",
            expected: "an image without signatures is copied, and one with a signature is copied with it",
            run: || missing_tags_are_forbidden().boxed(),
        },
        Case {
            report: "sigstore/cosign#2973",
            input: "403 for a listed signature, or where other missing tags are answered with 404",
            expected: "the image fails, with the tag and advice",
            run: || existing_signatures_are_forbidden().boxed(),
        },
        Case {
            report: "oras-project/oras#2148",
            input: "referrers of referrers, six levels deep",
            expected: "all of them are copied",
            run: || referrers_of_referrers().boxed(),
        },
        Case {
            report: "artifact-keeper/artifact-keeper#1681",
            input: "HEAD returns the digest of cosign's tag, and GET by that digest is answered with 404",
            expected: "the content of the tag is copied",
            run: || {
                async {
                    let absent = |absent: bool| match absent {
                        true => Action::Answer(404, Vec::new(), String::new()),
                        false => Action::Pass,
                    };
                    // As in pulp/pulp_container#2417, with the roles reversed.
                    signature_is_copied(move |request, tag, _| {
                        absent(request.method == "GET" && request.path.ends_with(tag))
                    })
                    .await;
                    let by_digest = |digest: &str| format!("/manifests/{digest}");
                    signature_is_copied(move |request, _, digest| absent(request.path.ends_with(&by_digest(digest))))
                        .await;
                }
                .boxed()
            },
        },
        Case {
            report: "google/go-containerregistry#56",
            input: "HEAD returns another digest than that of the content",
            expected: "the content of the tag is copied under its own digest, once",
            run: || {
                signature_is_copied(
                    |request, tag, _| match request.method == "HEAD" && request.path.ends_with(tag) {
                        true => Action::Header(
                            "docker-content-digest",
                            Box::new(|_| format!("sha256:{}", "0".repeat(64))),
                        ),
                        false => Action::Pass,
                    },
                )
            },
        },
        Case {
            report: "oras-project/oras#2148",
            input: "a listed signature that the registry does not have",
            expected: "the image fails, with the digest and advice; one that is no longer listed is skipped",
            run: || {
                async {
                    missing_referrer_is_listed(usize::MAX, false).await;
                    missing_referrer_is_listed(1, true).await;
                }
                .boxed()
            },
        },
        Case {
            report: "moby/moby#41607",
            input: "a signed index of which a platform is selected, and which cannot be read by its digest",
            expected: "the content of the tag is verified and copied",
            run: || {
                async {
                    let folder = workspace_with_keys();
                    let (source, to) = (TestRegistry::start(Version::V31), TestRegistry::start(Version::V31));
                    let (index, images) = multi_platform(&source.repository("app"), "1").await;
                    let output = folder.run(&[
                        "sign",
                        &format!("{}/app:1", source.host),
                        "--insecure",
                        "--key",
                        "cosign.key",
                    ]);
                    assert!(output.status.success(), "{}", all_output(&output));
                    let refused = format!("/manifests/{}", index.digest());
                    let proxy = FaultProxy::to(&source.host, move |request| match request.path.ends_with(&refused) {
                        true => Action::Answer(404, Vec::new(), String::new()),
                        false => Action::Pass,
                    });
                    let key = std::fs::read_to_string(folder.path("cosign.pub")).unwrap();
                    let verify = format!("  verify: [{{publicKeys: [{{inline: {}}}]}}]\n", json!(key));
                    let image = format!("images: [{{image: '{}/app:1', platforms: [linux/arm64]}}]", proxy.host);
                    let report = folder.text_report(&package(&verify, &[&image]), &to.host, &[&proxy.host], &[]);
                    assert_eq!(report["images"][0]["digest"], images[1].digest().as_str());
                }
                .boxed()
            },
        },
    ])
    .await;
}
