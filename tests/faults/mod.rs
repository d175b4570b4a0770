//! Faults between the operator and registries, and their results: one table. A proxy before a real registry applies the
//! row's fault while a real controller copies one image for an object of a real API server. At the end of every row the
//! whole destination is read again and hashed, and no open upload is left in it.

mod rows;
mod rules;
mod stored;

use futures::StreamExt as _;
use futures::future::join_all;
use jackal_operator::api::v1alpha1::JackalImage;
use jackal_operator::oci::{Descriptor, Digest, Document, Manifest, media_type};
use serde_json::{Value, json};

use crate::support::cluster::{Cluster, condition};
use crate::support::fault_proxy::FaultProxy;
use crate::support::image::{noise, put, stream};
use crate::support::registry::TestRegistry;
use crate::support::wait::{SOON, eventually};

/// The registry's address in pods. Nothing listens there.
const ADDRESS: &str = "127.0.0.1:31999";

/// The result that a user sees.
pub enum Outcome {
    /// The image becomes Ready, and nothing else is reported.
    Nothing,
    /// A condition and one event with this reason, whose message contains these words; nothing is stored under the tag.
    /// The image becomes Ready automatically once the fault is gone.
    Fault(&'static str, Vec<&'static str>),
    /// The same, for longer than a test takes.
    Waits(&'static str, Vec<&'static str>),
}

/// One fault.
pub struct Row {
    /// The name of the object and of the repository.
    pub name: &'static str,
    /// The proxy before the source or the destination.
    pub proxy: FaultProxy,
    /// Whether it is before the source.
    pub source: bool,
    /// The registry that the image is copied to.
    pub destination: std::sync::Arc<TestRegistry>,
    /// Bytes of the image's layer.
    pub layer: usize,
    /// Further fields of the object's spec.
    pub spec: Value,
    pub outcome: Outcome,
    /// What else holds at the end.
    pub holds: Box<dyn Fn(&FaultProxy)>,
    /// Whether the row counts started uploads. How much of an upload is kept for resuming depends on the number of
    /// uploads in the process, so rows that would otherwise be restarted run with few others.
    pub counts: bool,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registry_and_network_faults_are_recovered_or_reported() {
    let cluster = Cluster::new().await;
    let registries = rows::Registries::start();
    let rows = rows::rows(&registries);
    let mut sources = vec![registries.source.host.clone()];
    sources.extend(rows.iter().filter(|row| row.source).map(|row| row.proxy.host.clone()));
    let controller = cluster.controller(&[
        "--concurrency",
        "8",
        "--lease-duration",
        "30s",
        "--insecure-registry",
        &sources.join(","),
        "--upload-host",
        "127.0.0.1:*",
    ]);
    let images = join_all(rows.iter().map(|row| push(&registries.source, row))).await;
    let ended = |(row, image)| {
        let (cluster, registries) = (&cluster, &registries);
        async move {
            let uploads = std::time::Instant::now();
            apply(cluster, &registries.source, row);
            check_row(cluster, row, image).await;
            println!("{}: {:?}", row.name, uploads.elapsed());
        }
    };
    // Two of them have four concurrent uploads, each of which may keep a whole layer of 3 MiB.
    let (counted, others): (Vec<_>, Vec<_>) = rows.iter().zip(&images).partition(|(row, _)| row.counts);
    let counted = futures::stream::iter(counted.into_iter().map(&ended));
    counted.buffer_unordered(2).collect::<Vec<()>>().await;
    join_all(others.into_iter().map(&ended)).await;
    drop(controller);
}

/// Pushes the row's image to its source.
async fn push(source: &TestRegistry, row: &Row) -> Document {
    let repository = source.repository(&format!("faults/{}", row.name));
    let seed = row
        .name
        .bytes()
        .fold(7_u64, |seed, byte| seed.wrapping_mul(31) + u64::from(byte));
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":[]}},"author":"{}"}}"#,
        row.name
    );
    let mut described = Vec::new();
    for (kind, content) in [
        (media_type::OCI_CONFIG, config.into()),
        (media_type::OCI_LAYER, noise(seed, row.layer)),
    ] {
        let (digest, length) = (Digest::of(&content), content.len() as u64);
        let stored = repository.upload(Some(&digest), Some(length), stream(content)).await;
        stored.unwrap();
        described.push(Descriptor::new(kind, digest, length));
    }
    let layer = described.pop().unwrap();
    let document = Document::of_manifest(Manifest::new(described.pop().unwrap(), vec![layer])).unwrap();
    put(&repository, &document, Some("1")).await;
    document
}

fn apply(cluster: &Cluster, source: &TestRegistry, row: &Row) {
    let (from, to) = match row.source {
        true => (&row.proxy.host, &row.destination.host),
        false => (&source.host, &row.proxy.host),
    };
    let mut spec = json!({
        "image": format!("{from}/faults/{}:1", row.name),
        "naming": "Plain",
        "registry": { "address": ADDRESS, "endpoint": to, "insecure": true },
    });
    spec.as_object_mut()
        .unwrap()
        .extend(row.spec.as_object().unwrap().clone());
    let object = json!({
        "apiVersion": "jackal.dev/v1alpha1", "kind": "JackalImage", "metadata": { "name": row.name }, "spec": spec,
    });
    cluster.apply(&object.to_string());
}

async fn check_row(cluster: &Cluster, row: &Row, image: &Document) {
    let repository = format!("faults/{}", row.name);
    let to = row.destination.repository(&repository);
    if let Outcome::Fault(reason, words) | Outcome::Waits(reason, words) = &row.outcome {
        let what = format!("{reason}: {words:?}");
        let ready_image = cluster
            .image_where(row.name, &what, |image| fails(image, reason, words))
            .await;
        assert_eq!(to.head_manifest("1").await.unwrap(), None, "{}", row.name);
        eventually(SOON, &format!("{} is told by an event", row.name), async || {
            let events = cluster.events(row.name).await;
            match &events[..] {
                [one] if one.starts_with(&format!("{reason}: ")) && words.iter().all(|word| one.contains(word)) => {
                    Ok(())
                }
                _ => Err(format!("{events:?} of {ready_image:?}")),
            }
        })
        .await;
        row.proxy.disable();
    }
    if let Outcome::Waits(..) = row.outcome {
        assert_eq!(
            stored::tags(&row.destination, &repository).await,
            [""; 0],
            "{}",
            row.name
        );
    } else {
        let ready = cluster.image_ready(row.name).await.status.unwrap();
        assert_eq!(ready.digest.as_deref(), Some(image.digest().as_str()), "{}", row.name);
        let events = cluster.events(row.name).await;
        let warnings = events.iter().filter(|event| !event.starts_with("Succeeded: ")).count();
        let expected = usize::from(!matches!(row.outcome, Outcome::Nothing));
        assert_eq!(warnings, expected, "{}: {events:?}", row.name);
        stored::verify_everything(&row.destination, &repository, image).await;
    }
    (row.holds)(&row.proxy);
    eventually(SOON, &format!("{} leaves no upload", row.name), async || {
        match row.destination.unfinished(&repository) {
            0 => Ok(()),
            _ => Err(format!("{:?}", row.destination.uploads(&repository))),
        }
    })
    .await;
}

fn fails(image: &JackalImage, reason: &str, words: &[&str]) -> Option<()> {
    let ready = condition(&image.status.as_ref()?.conditions, "Ready")?;
    let holds =
        ready.status == "False" && ready.reason == reason && words.iter().all(|word| ready.message.contains(word));
    holds.then_some(())
}
