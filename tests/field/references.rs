//! Hosts and digests of references in other forms.

use futures::FutureExt as _;
use jackal_operator::oci::{Hasher, Location, Naming, Reference};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

use super::folder::{Folder, package_of, stderr};
use super::{Case, check};
use crate::support::image::{image, noise, put};
use crate::support::registry::{TestRegistry, Version};

/// A way to a registry over IPv6: its host, and what ends it when it is dropped.
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
async fn hosts() {
    check(&[
        Case {
            report: "distribution/distribution#3665",
            input: "an image of a registry at an IPv6 address, built into another at one",
            expected: "it is built",
            run: || async { ipv6_addresses().await }.boxed(),
        },
        Case {
            report: "regclient/regclient#956",
            input: "an IPv6 address without a port, in another form, and with a zone",
            expected: "the first two are references of one registry, the third is refused",
            run: || async { forms_of_ipv6_addresses() }.boxed(),
        },
        Case {
            report: "RFC 4343 section 3",
            input: "a host in upper case in an image, in --to, in --insecure-registry and in config.json",
            expected: "it is the same registry",
            run: || async { upper_case_hosts().await }.boxed(),
        },
        Case {
            report: "distribution/reference, Grammar",
            input: "ports beyond the last, letters that are no ASCII, addresses with a scheme",
            expected: "build refuses them before it asks anybody, and says why",
            run: || async { what_is_no_reference() }.boxed(),
        },
        Case {
            report: "oras-project/oras-go#949",
            input: "an image named by its SHA-512, which a registry may answer by another digest",
            expected: "HEAD and GET know it by its name, and a package says that it takes SHA-256 only",
            run: || async { a_digest_of_another_algorithm().await }.boxed(),
        },
        Case {
            report: "opencontainers/image-spec#292",
            input: "an image named by a digest in upper case",
            expected: "it is built under the digest in lower case",
            run: || async { an_upper_case_digest().await }.boxed(),
        },
    ])
    .await;
}

async fn ipv6_addresses() {
    let (from, to) = (with_an_image().await, TestRegistry::start(Version::V28));
    let ((source, _reads), (target, _writes)) = (over_ipv6(&from.host).await, over_ipv6(&to.host).await);
    let yaml = package_of(&[format!("{{image: '{source}/app:1'}}")]);
    let report = Folder::new().report(&yaml, &target, &[&source], &[]);
    assert!(report.to_string().contains(&format!("{target}/")), "{report}");
    to.crane("digest", "app:1");
    to.crane("digest", "shop:1.4.0");
    // An image that is there stays where it is.
    let yaml = package_of(&[format!("{{image: '{target}/app:1'}}")]);
    Folder::new().report(&yaml, &target, &[&target], &[]);
}

fn forms_of_ipv6_addresses() {
    let read = |text: &str| text.parse::<Reference>();
    assert_eq!(read("[0:0:0:0:0:0:0:1]/a/b:1").unwrap(), read("[::1]/a/b:1").unwrap());
    assert_eq!(read("[2001:DB8::1]:5000/app").unwrap().registry(), "[2001:db8::1]:5000");
    assert!(read("[fe80::1%eth0]/app").is_err());
    let image = read("[::1]:5000/app:1").unwrap();
    let location = Location::of(&image, "registry.local:5000", "", Naming::Plain, false).unwrap();
    assert_eq!(location.to_string(), "registry.local:5000/app:1");
}

async fn upper_case_hosts() {
    let registry = with_an_image().await;
    let host = registry.host.replace("127.0.0.1", "LocalHost");
    let yaml = package_of(&[format!("{{image: '{host}/app:1'}}")]);
    // The image is at home, so it stays under its name.
    let report = Folder::new().report(&yaml, &host.to_uppercase(), &[], &[]);
    let whole = report.to_string();
    assert!(!whole.contains("app:1-"), "{whole}");
    let other = TestRegistry::start(Version::V31);
    Folder::new().report(&yaml, &other.host, &[&host.to_uppercase()], &[]);
    let name = |text: &str| text.parse::<Reference>().unwrap();
    assert_eq!(name("Registry.Example/app:1"), name("registry.example/app:1"));
    assert!("registry.example/App:1".parse::<Reference>().is_err());
}

fn what_is_no_reference() {
    for (image, why) in [
        ("127.0.0.1:65536/app:1", "65536 is no port"),
        ("127.0.0.1:0/app:1", "0 is no port"),
        ("127.0.0.1:1/app:größe", "invalid tag format"),
        ("docker://127.0.0.1:1/app:1", "remove docker://"),
    ] {
        let output = Folder::new().build(&package_of(&[format!("'{image}'")]), "oci:out", &[], &[]);
        let said = stderr(&output);
        assert!(!output.status.success() && said.contains(why), "{image}: {said}");
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
    let output = Folder::new().build(&yaml, &to.host, &[&from.host], &[]);
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
    Folder::new().report(&yaml, &to.host, &[&from.host], &[]);
    assert_eq!(to.crane("digest", &format!("app@{digest}")).trim(), digest);
}
