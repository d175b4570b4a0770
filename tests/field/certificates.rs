//! Registries whose certificates are not signed by an authority of the system.

use std::path::PathBuf;
use std::process::Output;

use futures::FutureExt as _;
use jackal_operator::api::v1alpha1::{JackalImage, JackalPackage};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::json;

use super::workspace::{CommandResult as _, Workspace, package_of, stderr};
use super::{Case, check, on_one_thread};
use crate::support::cluster::{Cluster, condition};
use crate::support::image::{image, noise, put};
use crate::support::objects::{package, registry_at, standalone_image};
use crate::support::process::run;
use crate::support::registry::{Options, TestRegistry, Version};

const NAMED: &str = "subjectAltName=IP:127.0.0.1";

/// Pushes the image `team/app:1` to a registry.
async fn with_image(registry: TestRegistry) -> TestRegistry {
    let repository = registry.repository("team/app");
    let document = image(&repository, "linux/amd64", noise(1, 1000)).await;
    put(&repository, &document, Some("1")).await;
    registry
}

/// A registry with a certificate of an unknown authority.
async fn private_authority() -> TestRegistry {
    let options = Options {
        tls: true,
        ..Options::default()
    };
    with_image(TestRegistry::start_with(Version::V31, options)).await
}

/// A registry with a self-signed certificate.
async fn self_signed() -> TestRegistry {
    with_image(TestRegistry::start_self_signed(Version::V28, &[NAMED])).await
}

async fn build(registry: &TestRegistry, folder: &Workspace, more: &[&str]) -> Output {
    folder.build_image(&format!("{}/team/app:1", registry.host), more)
}

/// Builds with `--ca-file`, whose content is made by `bundle` from the authority's certificate.
async fn build_with_bundle(registry: &TestRegistry, bundle: impl FnOnce(&str) -> Vec<u8>) -> Output {
    let folder = Workspace::new().file("ca.pem", bundle(&registry.authority()));
    build(registry, &folder, &["--ca-file", "ca.pem"]).await
}

/// A certificate in another form.
fn converted(pem: &str, arguments: &[&str]) -> Vec<u8> {
    let folder = Workspace::new().file("in.pem", pem);
    let path = |name: &str| folder.path(name).to_str().expect("text").to_owned();
    let (from, to) = (path("in.pem"), path("out"));
    run(
        PathBuf::from("openssl"),
        &[&["x509", "-in", &from, "-out", &to], arguments].concat(),
    );
    std::fs::read(to).expect("a file")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn build_trusts_a_private_authority_from_a_file() {
    check(&[
        Case {
            report: "distribution/distribution-library-image#35",
            input: "a source registry with a private authority",
            expected: "build names --ca-file, and nothing specific to a cluster",
            run: || {
                async {
                    let registry = private_authority().await;
                    let ended = build(&registry, &Workspace::new(), &[]).await;
                    ended.failed(
                        1,
                        &["certificate signed by unknown authority; set the CA certificate in --ca-file"],
                    );
                    assert!(!stderr(&ended).contains("certSecretRef"), "{ended:?}");
                    build_with_bundle(&registry, |ca| ca.into()).await.succeeded();
                }
                .boxed()
            },
        },
        Case {
            report: "goharbor/harbor#10380",
            input: "a destination with a private authority, given by JACKAL_CA_FILE",
            expected: "it is trusted",
            run: || {
                async {
                    let registry = private_authority().await;
                    let folder = Workspace::new()
                        .file("ca.pem", registry.authority())
                        .set("JACKAL_CA_FILE", "~/ca.pem");
                    folder.write("shop.yaml", package_of(&[format!("{}/team/app:1", registry.host)]));
                    let ended = folder.run(&["build", "shop.yaml", "--to", &registry.host]);
                    ended.succeeded();
                }
                .boxed()
            },
        },
        Case {
            report: "rustls/webpki#205",
            input: "a self-signed certificate with CA:TRUE, given as its own authority",
            expected: "it is trusted, as by curl and crane",
            run: || async { build_with_bundle(&self_signed().await, |ca| ca.into()).await.succeeded() }.boxed(),
        },
        Case {
            report: "seanmonstar/reqwest#2041",
            input: "the same in SSL_CERT_FILE",
            expected: "it is trusted",
            run: || {
                async {
                    let registry = self_signed().await;
                    let folder = Workspace::new()
                        .file("ca.pem", registry.authority())
                        .set("SSL_CERT_FILE", "~/ca.pem");
                    build(&registry, &folder, &[]).await.succeeded();
                }
                .boxed()
            },
        },
        Case {
            report: "lightningnetwork/lnd#5450",
            input: "a self-signed certificate with CA:TRUE, while another one was given",
            expected: "it is not trusted; build says which file to give",
            run: || {
                async {
                    let (registry, other) = (self_signed().await, self_signed().await);
                    let ended = build_with_bundle(&registry, |_| other.authority().into()).await;
                    ended.failed(
                        1,
                        &["certificate signed by unknown authority", "as the CA certificate in --ca-file"],
                    );
                }
                .boxed()
            },
        },
        Case {
            report: "RFC 9525 section 6.3",
            input: "self-signed certificates for another name, and with only a common name",
            expected: "they are not trusted, although they were given",
            run: || {
                async {
                    for extensions in [&["subjectAltName=DNS:registry.example.com"][..], &[]] {
                        let registry = TestRegistry::start_self_signed(Version::V28, extensions);
                        let ended = build_with_bundle(&registry, |ca| ca.into()).await;
                        ended.failed(1, &["the registry's certificate is for another name"]);
                    }
                }
                .boxed()
            },
        },
        Case {
            report: "RFC 5280 section 4.2.1.12",
            input: "a self-signed certificate that is for clients only",
            expected: "it is not trusted as a server certificate",
            run: || {
                async {
                    let extensions = [NAMED, "extendedKeyUsage=clientAuth"];
                    let registry = TestRegistry::start_self_signed(Version::V28, &extensions);
                    build_with_bundle(&registry, |ca| ca.into())
                        .await
                        .failed(1, &["certificate is not usable"]);
                }
                .boxed()
            },
        },
        Case {
            report: "RFC 7468 section 5.2",
            input: "a bundle with text between the certificates, CRLF, and OpenSSL's TRUSTED CERTIFICATE",
            expected: "all certificates are read",
            run: || {
                async {
                    let (registry, other) = (private_authority().await, self_signed().await);
                    let trusted = |ca: &str| converted(ca, &["-addtrust", "serverAuth", "-trustout"]);
                    let bundle = |ca: &str| {
                        let trusted = String::from_utf8(trusted(ca)).expect("text");
                        let bundle = format!("# ours\n\n{}\nsubject=CN = é\n{trusted}", other.authority());
                        bundle.replace('\n', "\r\n").into_bytes()
                    };
                    build_with_bundle(&registry, bundle).await.succeeded();
                }
                .boxed()
            },
        },
        Case {
            report: "fluxcd/source-controller#510",
            input: "a file with Secrets for a source and for the destination",
            expected: "both are trusted; a Secret that is missing in the file is named, and --ca-file",
            run: || {
                async {
                    let (source, to) = (private_authority().await, self_signed().await);
                    let object = standalone_image(
                        "app",
                        &format!("{}/team/app:1", source.host),
                        &format!(
                            "registry: {{certSecretRef: {{name: to}}}}\n  sourceRegistries: [{{host: '{}', certSecretRef: {{name: from}}}}]",
                            source.host
                        ),
                    );
                    let (from_ca, to_ca) = (secret("from", source.authority()), secret("to", to.authority()));
                    let folder = Workspace::new().file("all.yaml", format!("{object}---\n{from_ca}\n---\n{to_ca}\n"));
                    folder.run(&["build", "all.yaml", "--to", &to.host]).succeeded();
                    let folder = Workspace::new().file("all.yaml", format!("{object}---\n{from_ca}\n"));
                    let ended = folder.run(&["build", "all.yaml", "--to", &to.host]);
                    ended.failed(1, &["the Secret to of registry.certSecretRef is not in the file", "--ca-file"]);
                    assert!(!stderr(&ended).contains("the Secret from"), "{ended:?}");
                    let der = secret("from", converted(&source.authority(), &["-outform", "DER"]));
                    let folder = Workspace::new().file("all.yaml", format!("{object}---\n{der}\n---\n{to_ca}\n"));
                    let ended = folder.run(&["build", "all.yaml", "--to", &to.host]);
                    ended.failed(2, &["the Secret from of sourceRegistries[]", "ca.crt is DER, not PEM"]);
                }
                .boxed()
            },
        },
        Case {
            report: "RFC 7468 section 2",
            input: "a bundle with a damaged certificate, DER, and no certificate",
            expected: "an error that names the file, the certificate, and what to do",
            run: || {
                async {
                    let registry = private_authority().await;
                    let damaged = |ca: &str| format!("{ca}{}{ca}", ca.replacen("MII", "M", 1)).into_bytes();
                    let ended = build_with_bundle(&registry, damaged).await;
                    ended.failed(
                        2,
                        &["--ca-file: ca.pem has a certificate that cannot be read, number 2 of 3 (line"],
                    );
                    let ended = build_with_bundle(&registry, |ca| converted(ca, &["-outform", "DER"])).await;
                    ended.failed(
                        2,
                        &["--ca-file: ca.pem is DER, not PEM; convert it by `openssl x509 -inform der`"],
                    );
                    let ended = build_with_bundle(&registry, |_| Vec::new()).await;
                    ended.failed(2, &["--ca-file: ca.pem is empty"]);
                    let ended = build(&registry, &Workspace::new(), &["--ca-file", "absent.pem"]).await;
                    ended.failed(2, &["--ca-file: absent.pem cannot be read: No such file"]);
                }
                .boxed()
            },
        },
    ])
    .await;
}

/// A Secret with a certificate authority.
fn secret(name: &str, authority: impl Into<Vec<u8>>) -> String {
    use base64::Engine as _;
    let data = base64::engine::general_purpose::STANDARD.encode(authority.into());
    json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name }, "data": { "ca.crt": data } })
        .to_string()
}

fn ready(conditions: &[Condition], status: &str) -> Option<String> {
    let ready = condition(conditions, "Ready").filter(|ready| ready.status == status)?;
    Some(ready.message.clone())
}

/// The message of an image's Ready condition, once its status is `status`.
async fn image_message(cluster: &Cluster, name: &str, status: &str) -> String {
    let says = |image: &JackalImage| ready(&image.status.as_ref()?.conditions, status).map(|_| ());
    let image = cluster.image_where(name, status, says).await;
    ready(&image.status.expect("a status").conditions, status).expect("it says")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_operator_trusts_a_private_authority_from_a_secret_or_a_file() {
    check(&[
        Case {
            report: "fluxcd/source-controller#510",
            input: "a source registry with a private authority, given to one of two objects",
            expected: "that one is copied; the other's message names sourceRegistries[].certSecretRef",
            run: || {
                on_one_thread(|| async {
                    let (source, to, cluster) = (
                        private_authority().await,
                        TestRegistry::start(Version::V28),
                        Cluster::new().await,
                    );
                    let image = format!("{}/team/app:1", source.host);
                    cluster.apply(&secret("ca", source.authority()));
                    let host = &source.host;
                    let trusting = format!("sourceRegistries: [{{host: '{host}', certSecretRef: {{name: ca}}}}]");
                    let at = registry_at(&to.host);
                    cluster.apply(&standalone_image(
                        "trusting",
                        &image,
                        &format!("{at}\n  {trusting}\n  plainTag: false"),
                    ));
                    cluster.apply(&standalone_image("strange", &image, &at));
                    let _controller = cluster.controller(&[]);
                    image_message(&cluster, "trusting", "True").await;
                    let message = image_message(&cluster, "strange", "False").await;
                    let expected =
                        "certificate signed by unknown authority; set the CA certificate in sourceRegistries[].certSecretRef";
                    assert!(message.contains(expected), "{message}");
                    for flag in ["--", "registry.certSecretRef"] {
                        assert!(!message.contains(flag), "{message}");
                    }
                })
            },
        },
        Case {
            report: "quay/container-security-operator#55",
            input: "a package from a self-signed source, whose Secret contains DER at first",
            expected: "the message says how to convert it; afterwards the package's images and artifact exist",
            run: || {
                on_one_thread(|| async {
                    let (source, to) = (self_signed().await, TestRegistry::start(Version::V28));
                    let cluster = Cluster::new().await;
                    cluster.apply(&secret("ca", converted(&source.authority(), &["-outform", "DER"])));
                    let image = format!("{{image: '{}/team/app:1'}}", source.host);
                    let host = &source.host;
                    let more = format!(
                        "{}\n  sourceRegistries: [{{host: '{host}', certSecretRef: {{name: ca}}}}]",
                        registry_at(&to.host)
                    );
                    cluster.apply(&package("shop", "1.0.0", &[&image], &more));
                    let _controller = cluster.controller(&[]);
                    let says = |package: &JackalPackage| {
                        let message = ready(&package.status.as_ref()?.conditions, "False")?;
                        message.contains("ca.crt is DER, not PEM").then_some(())
                    };
                    cluster.package_where("shop", "told of DER", says).await;
                    cluster.apply(&secret("ca", source.authority()));
                    let is_ready =
                        |package: &JackalPackage| ready(&package.status.as_ref()?.conditions, "True").map(|_| ());
                    cluster.package_where("shop", "ready", is_ready).await;
                })
            },
        },
        Case {
            report: "kubernetes-sigs/kubebuilder#1928",
            input: "a CA file for the whole operator",
            expected: "sources and destinations are trusted by it",
            run: || {
                on_one_thread(|| async {
                    let (source, to, cluster) = (private_authority().await, self_signed().await, Cluster::new().await);
                    let bundle = format!("{}{}", source.authority(), to.authority());
                    let folder = Workspace::new().file("ca.pem", bundle);
                    let file = folder.path("ca.pem");
                    let at = format!("registry: {{address: '{}'}}", to.host);
                    cluster.apply(&standalone_image("app", &format!("{}/team/app:1", source.host), &at));
                    let variables = [("JACKAL_CA_FILE", file.to_str().expect("text"))];
                    let _controller = cluster.controller_with(&[], &variables);
                    image_message(&cluster, "app", "True").await;
                })
            },
        },
        Case {
            report: "google/go-containerregistry#766",
            input: "a source host with a scheme",
            expected: "the API server rejects it and states the expected form",
            run: || {
                on_one_thread(|| async {
                    let cluster = Cluster::new().await;
                    let more = "sourceRegistries: [{host: 'https://r.example.com', certSecretRef: {name: ca}}]";
                    let refused = cluster
                        .try_apply(&standalone_image("app", "r.example.com/a:1", more))
                        .unwrap_err();
                    assert!(refused.contains("host[:port] without a scheme or path"), "{refused}");
                })
            },
        },
    ])
    .await;
}
