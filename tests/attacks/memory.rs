//! Registries that send the largest allowed responses to exhaust the memory and the time of a process that serves other
//! tenants too.

mod listings;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use jackal_operator::oci::{Digest, MANIFEST_LIMIT, media_type};
use serde_json::json;

use super::{Attack, check};
use crate::support::cluster::{Cluster, condition};
use crate::support::fault_proxy::{Action, FaultProxy};
use crate::support::image::{image, noise, put};
use crate::support::objects::{package, registry_at, standalone_image};
use crate::support::operator::Operator;
use crate::support::registry::{TestRegistry, Version};
use crate::support::scripted::{ScriptedServer, reply};
use crate::support::table::on_one_thread;
use crate::support::wait::{SOON, eventually};
use crate::tenancy::EXCLUSIVE;

/// The memory limit of a controller, for any input.
const MEMORY: u64 = 256 << 20;
/// Manifests of the index, each of the maximum size of a registry.
const MANIFESTS: usize = 48;
/// Manifests with signatures, and signatures in each.
const SIGNED: usize = 64;

/// How long each object of the attacker may take.
const LIMIT: Duration = Duration::from_secs(180);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_registries_do_not_exhaust_memory() {
    // These tests need the whole machine, and so do the others that wait for this lock.
    let _guard = EXCLUSIVE.lock().await;
    check(&[
        Attack {
            attacker: "a tenant with its own registry",
            capabilities: "creates objects in its namespace and controls the responses of its registry",
            attempt: "several images whose indexes list manifests of 4 MiB each",
            expected: "each reports that its manifests take too much memory",
            final_state: "the controller stays below 256 MiB and copies the images of others",
            run: || on_one_thread(|| async { attack(wide_indexes().await).await }),
        },
        Attack {
            attacker: "a tenant with its own registry",
            capabilities: "creates objects in its namespace and controls the responses of its registry",
            attempt: "an image whose manifest has 30,000 different layers that do not exist",
            expected: "the object reports what cannot be read",
            final_state: "the comparison of its layers delays no other object",
            run: || on_one_thread(|| async { attack(manifests_with_many_layers().await).await }),
        },
        Attack {
            attacker: "a user who may push to a repository",
            capabilities: "pushes signatures for an image that others verify",
            attempt: "64 manifests with 64 signatures of 4 MiB each, which are declared as short",
            expected: "the object reports that no signature is valid",
            final_state: "the controller stays below 256 MiB and copies the images of others",
            run: || on_one_thread(|| async { attack(oversized_signatures().await).await }),
        },
        Attack {
            attacker: "a tenant with its own chart repository",
            capabilities: "creates objects in its namespace",
            attempt: "an index of 30 MB with the maximum number of empty entries",
            expected: "the object reports that the index cannot be read",
            final_state: "the controller stays below 256 MiB and copies the images of others",
            run: || on_one_thread(|| async { attack(oversized_chart_index().await).await }),
        },
        Attack {
            attacker: "a tenant with its own registry",
            capabilities: "creates objects in its namespace and controls the responses of its registry",
            attempt: "several images that follow a policy, each with five million tags in 16 MB",
            expected: "each reports that there are too many tags",
            final_state: "the controller stays below 256 MiB and copies the images of others",
            run: || on_one_thread(|| async { attack(listings::equal_tags().await).await }),
        },
        Attack {
            attacker: "a tenant with its own registry",
            capabilities: "creates objects in its namespace and controls the responses of its registry",
            attempt: "the tags in thousands of pages, each with a link of 60 KB to the next",
            expected: "each reports that the link is too long",
            final_state: "the controller stays below 256 MiB and copies the images of others",
            run: || on_one_thread(|| async { attack(listings::long_links().await).await }),
        },
        Attack {
            attacker: "a tenant with its own registry",
            capabilities: "creates objects in its namespace and controls the responses of its registry",
            attempt: "several images, each with five million referrers in 16 MB",
            expected: "each reports that there are too many referrers",
            final_state: "the controller stays below 256 MiB and copies the images of others",
            run: || on_one_thread(|| async { attack(listings::empty_referrers().await).await }),
        },
        Attack {
            attacker: "a tenant with its own registry",
            capabilities: "creates and deletes objects in its namespace",
            attempt: "deletes an image from a repository in which dozens of tags name indexes of 4 MiB",
            expected: "the image is deleted, or kept with the reason",
            final_state: "the controller stays below 256 MiB, and the object is deleted",
            run: || on_one_thread(deletion_from_large_repository),
        },
    ])
    .await;
}

/// The objects of an attacker, and the server that they name.
struct Hostile {
    server: ScriptedServer,
    /// Name, YAML, and words that the object's condition must contain at the end.
    objects: Vec<(String, String, &'static str)>,
}

/// Applies the hostile objects and then a legitimate one, which must become ready meanwhile.
async fn attack(hostile: Hostile) {
    let cluster = Cluster::new().await;
    let registry = TestRegistry::start(Version::V31);
    let repository = registry.repository("good");
    put(
        &repository,
        &image(&repository, "linux/amd64", noise(1, 10_000)).await,
        Some("1"),
    )
    .await;
    let hosts = format!("{},{}", hostile.server.host, registry.host);
    let controller = cluster.controller(&["--insecure-registry", &hosts]);
    for (_, object, _) in &hostile.objects {
        cluster.apply(&object.replace("DESTINATION", &registry.host));
    }
    let good = format!("{}/good:1", registry.host);
    cluster.apply(&package(
        "good",
        "1.0.0",
        &[&format!("'{good}'")],
        &registry_at(&registry.host),
    ));
    let started = Instant::now();
    eventually(LIMIT, "the package of others is ready", async || {
        let message = ready_condition(&cluster, "good").await;
        message.starts_with("Succeeded: ").then_some(()).ok_or(message)
    })
    .await;
    println!("others were ready after {:?}", started.elapsed());
    for (name, _, words) in &hostile.objects {
        let message = eventually(LIMIT, &format!("{name} says {words:?}"), async || {
            let message = ready_condition(&cluster, name).await;
            message.contains(words).then(|| message.clone()).ok_or(message)
        })
        .await;
        println!("{name}: {message}");
    }
    assert_memory_limit(&controller);
}

fn assert_memory_limit(controller: &Operator) {
    let peak = controller.peak_memory();
    println!("at most {} MiB", peak >> 20);
    assert!(peak < MEMORY, "the controller had {} MiB", peak >> 20);
}

/// Reason and message of the Ready condition of an image or a package.
async fn ready_condition(cluster: &Cluster, name: &str) -> String {
    let images = cluster.images().await;
    let image = images
        .into_iter()
        .find(|image| image.metadata.name.as_deref() == Some(name));
    let conditions = match image {
        Some(image) => image.status.map(|status| status.conditions),
        None => cluster.package(name).await.status.map(|status| status.conditions),
    };
    let ready = conditions.as_deref().and_then(|all| condition(all, "Ready").cloned());
    ready
        .map(|ready| format!("{}: {}", ready.reason, ready.message))
        .unwrap_or_default()
}

/// A text of exactly `length` bytes: `PAD` in `text` is replaced by padding.
fn padded(text: &str, length: usize) -> Bytes {
    let pad = length - text.len() + "PAD".len();
    text.replace("PAD", &"x".repeat(pad)).into()
}

/// A manifest of the maximum size, unique for each `number`.
fn long_manifest(number: usize) -> Bytes {
    let digest = Digest::of(b"{}");
    let text = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","config":{{"mediaType":"{}","digest":"{digest}","size":2}},"layers":[],"annotations":{{"number":"{number}","pad":"PAD"}}}}"#,
        media_type::OCI_MANIFEST,
        media_type::OCI_CONFIG,
    );
    padded(&text, MANIFEST_LIMIT)
}

fn index_of(manifests: &[(Digest, usize)]) -> Bytes {
    let entries: Vec<_> = manifests
        .iter()
        .map(|(digest, size)| {
            json!({"mediaType": media_type::OCI_MANIFEST, "digest": digest, "size": size,
                "platform": {"os": "linux", "architecture": "amd64"}})
        })
        .collect();
    let index = json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": entries});
    index.to_string().into()
}

fn manifest_reply(content: Bytes, kind: &str) -> axum::response::Response<axum::body::Body> {
    reply(200, &[("content-type", kind)], content)
}

/// Eight images, each an index of manifests of 4 MiB.
async fn wide_indexes() -> Hostile {
    let manifests: Vec<(Digest, usize)> = (0..MANIFESTS)
        .map(|number| (Digest::of(&long_manifest(number)), number))
        .collect();
    let index = index_of(
        &manifests
            .iter()
            .map(|(digest, _)| (digest.clone(), MANIFEST_LIMIT))
            .collect::<Vec<_>>(),
    );
    let numbers: HashMap<String, usize> = manifests
        .into_iter()
        .map(|(digest, number)| (digest.to_string(), number))
        .collect();
    let server = ScriptedServer::start(move |request| match request.path.rsplit('/').next() {
        Some("1") => manifest_reply(index.clone(), media_type::OCI_INDEX),
        Some(name) => match numbers.get(name) {
            Some(&number) => manifest_reply(long_manifest(number), media_type::OCI_MANIFEST),
            None => reply(404, &[], ""),
        },
        None => reply(404, &[], ""),
    })
    .await;
    let objects = (0..8)
        .map(|number| {
            let name = format!("wide-{number}");
            let more = registry_at("DESTINATION");
            let object = standalone_image(&name, &format!("{}/wide-{number}:1", server.host), &more);
            (name, object, "memory")
        })
        .collect();
    Hostile { server, objects }
}

/// Images whose manifest has very many layers.
async fn manifests_with_many_layers() -> Hostile {
    let mut layers = String::new();
    for number in 0..30_000_u32 {
        let digest = Digest::of(&number.to_be_bytes());
        let comma = if number > 0 { "," } else { "" };
        write!(layers, r#"{comma}{{"digest":"{digest}","size":1}}"#).unwrap();
    }
    let manifest: Bytes = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","config":{{"mediaType":"{}","digest":"{}","size":2}},"layers":[{layers}]}}"#,
        media_type::OCI_MANIFEST,
        media_type::OCI_CONFIG,
        Digest::of(b"{}"),
    )
    .into();
    assert!(manifest.len() <= MANIFEST_LIMIT);
    let server = ScriptedServer::start(move |request| match request.path.contains("/manifests/") {
        true => manifest_reply(manifest.clone(), media_type::OCI_MANIFEST),
        false => reply(404, &[], ""),
    })
    .await;
    let objects = (0..4)
        .map(|number| {
            let name = format!("long-{number}");
            let object = standalone_image(
                &name,
                &format!("{}/long-{number}:1", server.host),
                &registry_at("DESTINATION"),
            );
            (name, object, "cannot read")
        })
        .collect();
    Hostile { server, objects }
}

/// Images with more signatures than can be read.
async fn oversized_signatures() -> Hostile {
    let manifest: Bytes = json!({"schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "layers": [],
        "config": {"mediaType": media_type::OCI_CONFIG, "digest": Digest::of(b"{}"), "size": 2}})
    .to_string()
    .into();
    let subject = Digest::of(&manifest);
    let bundle = "application/vnd.dev.sigstore.bundle.v0.3+json";
    let blob = move |number: usize| {
        padded(
            &format!(r#"{{"number":{number},"mediaType":"{bundle}","x":"PAD"}}"#),
            4 << 20,
        )
    };
    let blobs: HashMap<String, usize> = (0..SIGNED)
        .map(|number| (Digest::of(&blob(number)).to_string(), number))
        .collect();
    let layers: Vec<_> = blobs
        .keys()
        .map(|digest| json!({"mediaType": bundle, "digest": digest, "size": 100}))
        .collect();
    let referrer = move |number: usize| -> Bytes {
        json!({"schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "artifactType": bundle, "layers": layers,
            "config": {"mediaType": media_type::OCI_EMPTY, "digest": Digest::of(b"{}"), "size": 2},
            "subject": {"mediaType": media_type::OCI_MANIFEST, "digest": subject, "size": 1},
            "annotations": {"number": number.to_string()}})
        .to_string()
        .into()
    };
    let referrers: Arc<HashMap<String, Bytes>> = Arc::new(
        (0..SIGNED)
            .map(&referrer)
            .map(|content| (Digest::of(&content).to_string(), content))
            .collect(),
    );
    let listed: Vec<_> = referrers
        .iter()
        .map(|(digest, content)| {
            json!({"mediaType": media_type::OCI_MANIFEST, "digest": digest, "size": content.len(), "artifactType": bundle})
        })
        .collect();
    let listing: Bytes = json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": listed})
        .to_string()
        .into();
    let server = ScriptedServer::start(move |request| {
        let name = request.path.rsplit('/').next().unwrap_or_default();
        match (
            request.path.contains("/referrers/"),
            referrers.get(name),
            blobs.get(name),
        ) {
            (true, ..) => manifest_reply(listing.clone(), media_type::OCI_INDEX),
            (_, Some(content), _) => manifest_reply(content.clone(), media_type::OCI_MANIFEST),
            (_, _, Some(&number)) => reply(200, &[], blob(number)),
            _ if request.path.ends_with(".sig") => reply(404, &[], ""),
            _ => manifest_reply(manifest.clone(), media_type::OCI_MANIFEST),
        }
    })
    .await;
    let key = json!(include_str!("../signing/cosign.pub"));
    let objects = (0..4)
        .map(|number| {
            let name = format!("signed-{number}");
            let more = format!(
                "{}\n  verify: [{{publicKeys: [{{inline: {key}}}]}}]",
                registry_at("DESTINATION")
            );
            let object = standalone_image(&name, &format!("{}/signed-{number}:1", server.host), &more);
            (name, object, "is not signed as verify requires")
        })
        .collect();
    Hostile { server, objects }
}

/// Packages with a chart whose repository index has the maximum number of entries.
async fn oversized_chart_index() -> Hostile {
    let mut index = String::from("apiVersion: v1\nentries:\n  web:\n");
    while index.len() < 30_000_000 {
        index.push_str("  -\n");
    }
    let index = Bytes::from(index);
    let server = ScriptedServer::start(move |request| match request.path.ends_with("/index.yaml") {
        true => reply(200, &[], index.clone()),
        false => reply(404, &[], ""),
    })
    .await;
    let objects = (0..3)
        .map(|number| {
            let name = format!("chart-{number}");
            let object = format!(
                "apiVersion: jackal.dev/v1alpha1
kind: JackalPackage
metadata: {{name: {name}}}
spec:
  version: 1.0.0
  components:
  - name: main
    charts: [{{name: web, version: 1.0.0, namespace: web, url: 'http://{}/{name}'}}]
  {}
",
                server.host,
                registry_at("DESTINATION")
            );
            (name, object, "is not the index of a chart repository")
        })
        .collect();
    Hostile { server, objects }
}

/// An image is deleted from a repository with many tags that name long indexes.
async fn deletion_from_large_repository() {
    const TAGS: usize = 60;
    let cluster = Cluster::new().await;
    let (source, registry) = (TestRegistry::start(Version::V31), TestRegistry::start(Version::V31));
    let repository = source.repository("good");
    put(
        &repository,
        &image(&repository, "linux/amd64", noise(1, 10_000)).await,
        Some("1"),
    )
    .await;
    let entries: Vec<(Digest, usize)> = (0..20_000_u32)
        .map(|number| (Digest::of(&number.to_be_bytes()), 1))
        .collect();
    let index = String::from_utf8(index_of(&entries).to_vec()).unwrap();
    let digest = Digest::of(index.as_bytes()).to_string();
    let tags: Vec<String> = (0..TAGS)
        .map(|number| format!("t{number}"))
        .chain(["1".to_owned()])
        .collect();
    let listing = json!({"name": "gone/good", "tags": tags}).to_string();
    let proxy = FaultProxy::to(&registry.host, move |request| {
        let headers = |kind: &str| {
            vec![
                ("content-type", kind.to_owned()),
                ("docker-content-digest", digest.clone()),
            ]
        };
        match request.path.rsplit('/').next().unwrap_or_default() {
            list if list.starts_with("list") => Action::Answer(
                200,
                vec![("content-type", "application/json".to_owned())],
                listing.clone(),
            ),
            tag if tag.starts_with('t') && request.path.contains("/manifests/") => {
                Action::Answer(200, headers(media_type::OCI_INDEX), index.clone())
            }
            _ => Action::Pass,
        }
    });
    let controller = cluster.controller(&["--insecure-registry", &format!("{},{}", source.host, proxy.host)]);
    let more = format!("deletionPolicy: Delete\n  {}", registry_at(&proxy.host));
    cluster.apply(&standalone_image("gone", &format!("{}/good:1", source.host), &more));
    eventually(LIMIT, "the image is ready", async || {
        let message = ready_condition(&cluster, "gone").await;
        message.starts_with("Succeeded: ").then_some(()).ok_or(message)
    })
    .await;
    cluster.kubectl(&["delete", "jkimg", "gone", "--wait=false"]);
    eventually(LIMIT.max(SOON), "the object is gone", async || {
        match cluster.images().await.len() {
            0 => Ok(()),
            count => Err(format!("{count} left; {} requests", proxy.requests().len())),
        }
    })
    .await;
    assert!(
        proxy.count("GET", "/manifests/t59") > 0,
        "the survey looked at the tags"
    );
    assert_memory_limit(&controller);
}
