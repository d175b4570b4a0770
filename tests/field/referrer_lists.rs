//! Listings of referrers that do not say what the manifests say, and signatures that are hard to read.

use futures::FutureExt as _;
use futures::future::BoxFuture;
use jackal_operator::oci::{Digest, Document, media_type, referrers_tag};
use jackal_operator::registry::Repository;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::folder::{Folder, package, said};
use super::{Case, check};
use crate::support::faulty::Seen;
use crate::support::front::{Act, Front};
use crate::support::image::{image, multi_platform, noise, put, referrer};
use crate::support::registry::{TestRegistry, Version};

const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
const PREDICATE: &str = "dev.sigstore.bundle.predicateType";

/// Folder with the keys of `tests/signing`.
fn signer() -> Folder {
    let folder = Folder::new();
    for name in ["cosign.key", "cosign.pub"] {
        let made = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/signing/");
        folder.write(name, std::fs::read(format!("{made}{name}")).unwrap());
    }
    folder
}

/// An image `app:1` in a registry of `version`, signed by the key of `folder`.
async fn signed(folder: &Folder, version: Version) -> (TestRegistry, Document) {
    let registry = TestRegistry::start(version);
    let repository = registry.repository("app");
    let document = image(&repository, "linux/amd64", noise(1, 1000)).await;
    put(&repository, &document, Some("1")).await;
    let name = format!("{}/app:1", registry.host);
    let output = folder.run(&["sign", &name, "--insecure", "--key", "cosign.key"]);
    assert!(output.status.success(), "{}", said(&output));
    (registry, document)
}

/// Changes every entry of the listing of `subject`, which a registry without the API keeps under a tag.
async fn relist(repository: &Repository, subject: &Digest, change: fn(&mut Value)) {
    let tag = referrers_tag(subject);
    let listing = repository.manifest(&tag).await.unwrap().unwrap();
    let mut listing: Value = serde_json::from_slice(&listing.raw).unwrap();
    listing["manifests"].as_array_mut().unwrap().iter_mut().for_each(change);
    let raw = listing.to_string();
    let document = Document::parse(Some(media_type::OCI_INDEX), raw.into()).unwrap();
    repository.put_manifest(&document, &tag).await.unwrap();
}

/// `verify` finds the signature of an image whose listing was changed so.
fn verified(change: fn(&mut Value)) -> BoxFuture<'static, ()> {
    async move {
        let folder = signer();
        let (registry, document) = signed(&folder, Version::V31).await;
        relist(&registry.repository("app"), document.digest(), change).await;
        verifies(&folder, &registry.host);
    }
    .boxed()
}

fn verifies(folder: &Folder, host: &str) {
    let output = folder.run(&["verify", &format!("{host}/app:1"), "--insecure", "--key", "cosign.pub"]);
    assert!(output.status.success(), "{}", said(&output));
}

/// The same where the registry's API lists the signature by its digest and otherwise as `entry` says.
fn verified_by_api(entry: fn() -> Value) -> BoxFuture<'static, ()> {
    verified_by_answer(media_type::OCI_INDEX, entry)
}

/// The same where the answer is called `kind`.
fn verified_by_answer(kind: &'static str, entry: fn() -> Value) -> BoxFuture<'static, ()> {
    async move {
        let folder = signer();
        let (registry, document) = signed(&folder, Version::Olareg).await;
        let listed = registry.repository("app").referrers(document.digest()).await.unwrap();
        let mut entry = entry();
        entry["digest"] = json!(listed[0].digest.as_str());
        let body = json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [entry]}).to_string();
        let front = Front::to(&registry.host, move |seen| match seen.path.contains("/referrers/") {
            true => Act::Answer(200, vec![("Content-Type", kind.to_owned())], body.clone()),
            false => Act::Pass,
        });
        verifies(&folder, &front.host);
    }
    .boxed()
}

/// SBOMs that are listed so are found, and not made: there is nothing that could.
fn found_sboms(change: fn(&mut Value)) -> BoxFuture<'static, ()> {
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
        relist(&repository, document.digest(), change).await;
        let name = format!("{}/app:1", registry.host);
        let output = Folder::new().run(&["sbom", &name, "--insecure", "--syft", "/bin/false"]);
        assert!(output.status.success(), "{}", said(&output));
        assert_eq!(said(&output).lines().count(), 3, "{}", said(&output));
    }
    .boxed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listing_is_a_hint() {
    check(&[
        Case {
            report: "sigstore/cosign#4422",
            input: "a bundle that is listed with the artifactType of its empty config",
            expected: "the manifest counts, and the signature is found",
            run: || verified(|entry| entry["artifactType"] = json!(EMPTY)),
        },
        Case {
            report: "google/go-containerregistry#2441",
            input: "a signature that is listed with the annotations of an attestation",
            expected: "the manifest counts, and the signature is found",
            run: || verified(|entry| entry["annotations"] = json!({ PREDICATE: "https://slsa.dev/provenance/v1" })),
        },
        Case {
            report: "sigstore/cosign#4641",
            input: "a bundle that is listed as an SBOM of another size",
            expected: "the manifest counts, and the signature is found",
            run: || {
                verified_by_api(|| {
                    json!({"mediaType": media_type::OCI_MANIFEST, "artifactType": "application/spdx+json", "size": 7})
                })
            },
        },
        Case {
            report: "sigstore/cosign#4995",
            input: "an entry with nothing but a digest, and null for the rest",
            expected: "the manifest counts, and the signature is found",
            run: || verified_by_api(|| json!({"annotations": null, "artifactType": null, "size": null})),
        },
        Case {
            report: "distribution-spec, Listing Referrers",
            input: "an entry with the media type of an image's configuration and an empty artifactType",
            expected: "the manifest counts, and the signature is found",
            run: || {
                verified_by_api(
                    || json!({"mediaType": media_type::OCI_CONFIG, "artifactType": "", "size": "12", "annotations": {"a": 1}}),
                )
            },
        },
        Case {
            report: "distribution-spec, Listing Referrers",
            input: "a listing that is called application/json",
            expected: "it is one, and the signature is found",
            run: || {
                async {
                    for kind in ["application/json; charset=utf-8", "text/plain", "application/vnd.oci.image.index.v1+JSON"] {
                        verified_by_answer(kind, || json!({"mediaType": media_type::OCI_MANIFEST, "size": 7})).await;
                    }
                }
                .boxed()
            },
        },
        Case {
            report: "oras-project/oras-go#633",
            input: "200 and a page to log in, or an error of another kind, where referrers are asked for",
            expected: "the listing under the tag counts, and the signature is found",
            run: || {
                async {
                    for (kind, body) in [
                        ("text/html", "<!DOCTYPE html><title>Sign in</title>"),
                        ("application/json", r#"{"errors": null, "manifests": null}"#),
                        ("application/json", "null"),
                        ("application/json", ""),
                    ] {
                        let folder = signer();
                        let (registry, _) = signed(&folder, Version::V31).await;
                        let front = Front::to(&registry.host, move |seen| match seen.path.contains("/referrers/") {
                            true => Act::Answer(200, vec![("Content-Type", kind.to_owned())], body.to_owned()),
                            false => Act::Pass,
                        });
                        verifies(&folder, &front.host);
                    }
                }
                .boxed()
            },
        },
        Case {
            report: "sigstore/cosign#4641",
            input: "SBOMs that are listed without annotations",
            expected: "they are found, and not made again",
            run: || found_sboms(|entry| drop(entry.as_object_mut().unwrap().remove("annotations"))),
        },
        Case {
            report: "sigstore/cosign#4422",
            input: "SBOMs that are listed with the artifactType of their empty config",
            expected: "they are found, and not made again",
            run: || found_sboms(|entry| entry["artifactType"] = json!(EMPTY)),
        },
    ])
    .await;
}

fn of_app(host: &str) -> String {
    package("", &[&format!("images: [{{image: '{host}/app:1'}}]")])
}

/// An image with a signature of cosign 2 under its tag, read behind what `rule` makes of requests, given that tag and the
/// signature's digest. The signature comes along, and a repeat has nothing to do.
fn signature_comes(rule: impl Fn(&Seen, &str, &str) -> Act + Send + Sync + 'static) -> BoxFuture<'static, ()> {
    async move {
        let (source, to) = (TestRegistry::start(Version::V31), TestRegistry::start(Version::V31));
        let repository = source.repository("app");
        let document = image(&repository, "linux/amd64", noise(1, 1000)).await;
        put(&repository, &document, Some("1")).await;
        let signature = image(&repository, "unknown/unknown", noise(2, 300)).await;
        let tag = format!("{}.sig", referrers_tag(document.digest()));
        put(&repository, &signature, Some(&tag)).await;
        let (named, digest) = (tag.clone(), signature.digest().to_string());
        let front = Front::to(&source.host, move |seen| rule(seen, &named, &digest));
        let folder = Folder::new();
        let report = folder.report(&of_app(&front.host), &to.host, &[&front.host], &[]);
        let name = report["images"][0]["name"].as_str().unwrap();
        let (_, path) = name.split_once('/').unwrap();
        let (path, _) = path.rsplit_once(':').unwrap();
        let head = to.repository(path).head_manifest(&tag).await.unwrap();
        assert_eq!(
            head.map(|head| head.digest).as_ref(),
            Some(signature.digest()),
            "{report}"
        );
        let again = folder.report(&of_app(&front.host), &to.host, &[&front.host], &[]);
        assert_eq!(again["changed"], false, "{again}");
    }
    .boxed()
}

/// An image with a referrer whose manifest its registry has not. It is listed `listed` times, and then no more.
fn lists_what_is_gone(listed: usize, comes: bool) -> BoxFuture<'static, ()> {
    async move {
        let (source, to) = (TestRegistry::start(Version::Olareg), TestRegistry::start(Version::V31));
        let repository = source.repository("app");
        let document = image(&repository, "linux/amd64", noise(1, 1000)).await;
        put(&repository, &document, Some("1")).await;
        let gone = Digest::of(b"gone");
        let of_image = document.digest().to_string();
        let body = |entries: Value| {
            let index = json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": entries});
            Act::Answer(200, vec![("Content-Type", media_type::OCI_INDEX.to_owned())], index.to_string())
        };
        let entry = json!([{"mediaType": media_type::OCI_MANIFEST, "digest": gone.as_str(), "size": 12, "artifactType": BUNDLE}]);
        let asked = AtomicUsize::new(0);
        let front = Front::to(&source.host, move |seen| match seen.path.contains(&format!("/referrers/{of_image}")) {
            true if asked.fetch_add(1, Ordering::Relaxed) < listed => body(entry.clone()),
            true => body(json!([])),
            false => Act::Pass,
        });
        let output = Folder::new().build(&of_app(&front.host), &to.host, &[&front.host], &[]);
        assert_eq!(output.status.success(), comes, "{}", said(&output));
        if !comes {
            for part in [gone.as_str(), "referrers: Ignore"] {
                assert!(said(&output).contains(part), "{}", said(&output));
            }
            let ignoring = package("  referrers: Ignore\n", &[&format!("images: [{{image: '{}/app:1'}}]", front.host)]);
            Folder::new().report(&ignoring, &to.host, &[&front.host], &[]);
        }
    }
    .boxed()
}

/// An image and the tag of its signature of cosign 2, which it has where `signed`, read behind what `rule` makes of
/// requests, given that tag. Gives the tag, what came of it, and the registry that it was brought to.
async fn built_behind(
    signed: bool,
    more: &str,
    rule: impl Fn(&Seen, &str) -> Act + Send + Sync + 'static,
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
    let front = Front::to(&source.host, move |seen| rule(seen, &named));
    let text = package(more, &[&format!("images: [{{image: '{}/app:1'}}]", front.host)]);
    let output = Folder::new().build(&text, &to.host, &[&front.host], &[]);
    (tag, output, to)
}

/// What a registry does that refuses what it does not have, and the list of tags too where it lists none.
fn refuses(seen: &Seen, lists: bool) -> Act {
    match !lists && seen.path.contains("/tags/list") {
        true => Act::Answer(403, Vec::new(), String::new()),
        false => Act::Status(404, 403),
    }
}

async fn refusals_of_what_is_missing() {
    for (signed, lists) in [(false, true), (false, false), (true, true), (true, false)] {
        let (tag, output, to) = built_behind(signed, "", move |seen, _| refuses(seen, lists)).await;
        assert!(output.status.success(), "{}", said(&output));
        let standing = to.repository("app").head_manifest(&tag).await.unwrap();
        assert_eq!(standing.is_some(), signed);
    }
    let key = std::fs::read_to_string(signer().path("cosign.pub")).unwrap();
    let verify = format!("  verify: [{{publicKeys: [{{inline: {}}}]}}]\n", json!(key));
    let (_, output, _) = built_behind(false, &verify, |seen, _| refuses(seen, true)).await;
    assert!(
        said(&output).contains("is not signed as verify requires"),
        "{}",
        said(&output)
    );
}

async fn refusals_of_what_is_there() {
    for lists in [true, false] {
        let (tag, output, _) = built_behind(true, "", move |seen, tag| {
            let refused = seen.path.ends_with(tag) || !lists && seen.path.contains("/tags/list");
            match refused {
                true => Act::Answer(403, Vec::new(), String::new()),
                false => Act::Pass,
            }
        })
        .await;
        assert!(!output.status.success(), "{}", said(&output));
        for part in [&tag, "403", "referrers: Ignore"] {
            assert!(said(&output).contains(part), "{}", said(&output));
        }
    }
}

/// A signature of a signature of a signature, and so on, none of which is lost.
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
    let report = Folder::new().report(&of_app(&source.host), &to.host, &[&source.host], &[]);
    for pair in chain.windows(2) {
        let listed = to.repository("app").referrers(pair[0].digest()).await.unwrap();
        let listed: Vec<_> = listed.iter().map(|entry| &entry.digest).collect();
        assert_eq!(listed, [pair[1].digest()], "{report}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_signature_is_lost() {
    check(&[
        Case {
            report: "sigstore/cosign#2973, carvel-dev/imgpkg#548",
            input: "403 for tags that do not exist, with and without a list of tags",
            expected: "an image without signatures comes, and one with a signature comes with it",
            run: || refusals_of_what_is_missing().boxed(),
        },
        Case {
            report: "sigstore/cosign#2973",
            input: "403 for a signature that is listed, or where other missing tags are answered by 404",
            expected: "the image fails, with the tag and what to do",
            run: || refusals_of_what_is_there().boxed(),
        },
        Case {
            report: "oras-project/oras#2148",
            input: "referrers that refer to each other six deep",
            expected: "all of them come along",
            run: || referrers_of_referrers().boxed(),
        },
        Case {
            report: "artifact-keeper/artifact-keeper#1681",
            input: "HEAD names the digest of cosign's tag, and GET by that digest is answered 404",
            expected: "what the tag has comes along",
            run: || {
                async {
                    let absent = |absent: bool| match absent {
                        true => Act::Answer(404, Vec::new(), String::new()),
                        false => Act::Pass,
                    };
                    // As in pulp/pulp_container#2417, where it is the other way round.
                    signature_comes(move |seen, tag, _| absent(seen.method == "GET" && seen.path.ends_with(tag))).await;
                    let by_digest = |digest: &str| format!("/manifests/{digest}");
                    signature_comes(move |seen, _, digest| absent(seen.path.ends_with(&by_digest(digest)))).await;
                }
                .boxed()
            },
        },
        Case {
            report: "google/go-containerregistry#56",
            input: "HEAD names another digest than the content has",
            expected: "what the tag has comes along under its own digest, once",
            run: || {
                signature_comes(|seen, tag, _| match seen.method == "HEAD" && seen.path.ends_with(tag) {
                    true => Act::Header(
                        "docker-content-digest",
                        Box::new(|_| format!("sha256:{}", "0".repeat(64))),
                    ),
                    false => Act::Pass,
                })
            },
        },
        Case {
            report: "oras-project/oras#2148",
            input: "a listing of a signature that the registry does not have",
            expected: "the image fails, with the digest and what to do; one that is not listed any more is left",
            run: || {
                async {
                    lists_what_is_gone(usize::MAX, false).await;
                    lists_what_is_gone(1, true).await;
                }
                .boxed()
            },
        },
        Case {
            report: "moby/moby#41607",
            input: "a signed index of which a platform is chosen, and which is not to be had by its digest",
            expected: "what the tag has is verified and brought",
            run: || {
                async {
                    let folder = signer();
                    let (source, to) = (TestRegistry::start(Version::V31), TestRegistry::start(Version::V31));
                    let (index, images) = multi_platform(&source.repository("app"), "1").await;
                    let output = folder.run(&[
                        "sign",
                        &format!("{}/app:1", source.host),
                        "--insecure",
                        "--key",
                        "cosign.key",
                    ]);
                    assert!(output.status.success(), "{}", said(&output));
                    let refused = format!("/manifests/{}", index.digest());
                    let front = Front::to(&source.host, move |seen| match seen.path.ends_with(&refused) {
                        true => Act::Answer(404, Vec::new(), String::new()),
                        false => Act::Pass,
                    });
                    let key = std::fs::read_to_string(folder.path("cosign.pub")).unwrap();
                    let verify = format!("  verify: [{{publicKeys: [{{inline: {}}}]}}]\n", json!(key));
                    let image = format!("images: [{{image: '{}/app:1', platforms: [linux/arm64]}}]", front.host);
                    let report = folder.report(&package(&verify, &[&image]), &to.host, &[&front.host], &[]);
                    assert_eq!(report["images"][0]["digest"], images[1].digest().as_str());
                }
                .boxed()
            },
        },
    ])
    .await;
}
