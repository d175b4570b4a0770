//! Hosts and digests of references in other forms.

use futures::FutureExt as _;
use jackal_operator::oci::{Hasher, Location, Naming, Reference};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

use super::workspace::{Workspace, package_of, stderr};
use super::{Case, check};
use crate::support::image::{image, noise, put};
use crate::support::registry::{TestRegistry, Version};

/// A proxy for a registry over IPv6: its host, and a handle that stops it when dropped.
async fn over_ipv6(to: &str) -> (String, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("[::1]:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let to = to.to_owned();
    let task = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((mut client, _)) = listener.accept().await {
            let to = to.clone();
            connections.spawn(async move {
                if let Ok(mut server) = TcpStream::connect(to).await {
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                }
            });
        }
    });
    (host, AbortOnDropHandle::new(task))
}

/// A registry with `app:1`.
async fn with_an_image() -> TestRegistry {
    let registry = TestRegistry::start(Version::V31);
    let app = image(&registry.repository("app"), "linux/amd64", noise(1, 100)).await;
    put(&registry.repository("app"), &app, Some("1")).await;
    registry
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_and_digests_in_unusual_forms_are_accepted_or_rejected() {
    check(&[
        Case {
            report: "distribution/distribution#3665",
            input: "an image of a registry at an IPv6 address, built into another registry at one",
            expected: "it is built",
            run: || async { ipv6_addresses().await }.boxed(),
        },
        Case {
            report: "regclient/regclient#956",
            input: "an IPv6 address without a port, in another form, and with a zone",
            expected: "the first two reference the same registry, the third is rejected",
            run: || async { forms_of_ipv6_addresses() }.boxed(),
        },
        Case {
            report: "RFC 4343 section 3",
            input: "an upper-case host in an image, in --to, in --insecure-registry and in config.json",
            expected: "it is the same registry",
            run: || async { upper_case_hosts().await }.boxed(),
        },
        Case {
            report: "distribution/reference, Grammar",
            input: "ports out of range, letters that are not ASCII, addresses with a scheme",
            expected: "build rejects them before it sends a request, and says why",
            run: || async { invalid_references() }.boxed(),
        },
        Case {
            report: "oras-project/oras-go#949",
            input: "an image with a SHA-512 digest, for which a registry may return another digest",
            expected: "HEAD and GET use its digest, and a package reports that it supports only SHA-256",
            run: || async { a_digest_of_another_algorithm().await }.boxed(),
        },
        Case {
            report: "opencontainers/image-spec#292",
            input: "an image with an upper-case digest",
            expected: "it is built under the lower-case digest",
            run: || async { an_upper_case_digest().await }.boxed(),
        },
    ])
    .await;
}

async fn ipv6_addresses() {
    let (from, to) = (with_an_image().await, TestRegistry::start(Version::V28));
    let ((source, _reads), (target, _writes)) = (over_ipv6(&from.host).await, over_ipv6(&to.host).await);
    let yaml = package_of(&[format!("{{image: '{source}/app:1'}}")]);
    let report = Workspace::new().text_report(&yaml, &target, &[&source], &[]);
    assert!(report.to_string().contains(&format!("{target}/")), "{report}");
    to.crane("digest", "app:1");
    to.crane("digest", "shop:1.4.0");
    // An image of the destination keeps its name.
    let yaml = package_of(&[format!("{{image: '{target}/app:1'}}")]);
    Workspace::new().text_report(&yaml, &target, &[&target], &[]);
}

fn forms_of_ipv6_addresses() {
    let read = |text: &str| text.parse::<Reference>();
    assert_eq!(read("[0:0:0:0:0:0:0:1]/a/b:1").unwrap(), read("[::1]/a/b:1").unwrap());
    assert_eq!(read("[2001:DB8::1]:5000/app").unwrap().registry(), "[2001:db8::1]:5000");
    assert!(read("[fe80::1%eth0]/app").is_err());
    let image = read("[::1]:5000/app:1").unwrap();
    let location = Location::new(&image, "registry.local:5000", "", Naming::Plain, false).unwrap();
    assert_eq!(location.to_string(), "registry.local:5000/app:1");
}

async fn upper_case_hosts() {
    let registry = with_an_image().await;
    let host = registry.host.replace("127.0.0.1", "LocalHost");
    let yaml = package_of(&[format!("{{image: '{host}/app:1'}}")]);
    // The image is already in the destination, so it keeps its name.
    let report = Workspace::new().text_report(&yaml, &host.to_uppercase(), &[], &[]);
    let whole = report.to_string();
    assert!(!whole.contains("app:1-"), "{whole}");
    let other = TestRegistry::start(Version::V31);
    Workspace::new().text_report(&yaml, &other.host, &[&host.to_uppercase()], &[]);
    let name = |text: &str| text.parse::<Reference>().unwrap();
    assert_eq!(name("Registry.Example/app:1"), name("registry.example/app:1"));
    assert!("registry.example/App:1".parse::<Reference>().is_err());
}

fn invalid_references() {
    for (image, why) in [
        ("127.0.0.1:65536/app:1", "65536 is not a valid port"),
        ("127.0.0.1:0/app:1", "0 is not a valid port"),
        ("127.0.0.1:1/app:größe", "invalid tag format"),
        ("docker://127.0.0.1:1/app:1", "remove docker://"),
    ] {
        let output = Workspace::new().build_text(&package_of(&[format!("'{image}'")]), "oci:out", &[], &[]);
        let message = stderr(&output);
        assert!(!output.status.success() && message.contains(why), "{image}: {message}");
    }
}

async fn a_digest_of_another_algorithm() {
    let (from, to) = (
        TestRegistry::start(Version::Olareg),
        TestRegistry::start(Version::Olareg),
    );
    let repository = from.repository("app");
    let mut app = image(&repository, "linux/amd64", noise(1, 100)).await;
    let mut hasher = Hasher::like(&format!("sha512:{}", "0".repeat(128)).parse().unwrap());
    hasher.update(&app.raw);
    let long = hasher.finish();
    app.descriptor.digest = long.clone();
    put(&repository, &app, None).await;
    let head = repository.head_manifest(long.as_str()).await.unwrap().unwrap();
    let read = repository.manifest(long.as_str()).await.unwrap().unwrap();
    assert_eq!((&head.digest, read.digest()), (&long, &long));
    let yaml = package_of(&[format!("'{}/app@{long}'", from.host)]);
    let output = Workspace::new().build_text(&yaml, &to.host, &[&from.host], &[]);
    assert!(
        stderr(&output).contains("a package supports only sha256"),
        "{}",
        stderr(&output)
    );
}

async fn an_upper_case_digest() {
    let (from, to) = (with_an_image().await, TestRegistry::start(Version::V28));
    let digest = from.crane("digest", "app:1").trim().to_owned();
    let hex = digest.trim_start_matches("sha256:").to_uppercase();
    let yaml = package_of(&[format!("{{image: '{}/app@sha256:{hex}'}}", from.host)]);
    Workspace::new().text_report(&yaml, &to.host, &[&from.host], &[]);
    assert_eq!(to.crane("digest", &format!("app@{digest}")).trim(), digest);
}
