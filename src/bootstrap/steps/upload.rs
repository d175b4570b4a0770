//! Uploads the archive to the registry through the API server.

use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt as _;
use secrecy::ExposeSecret as _;

use crate::archive::{self, Archive, Loaded, LoadedImages, Retries};
use crate::bootstrap::cluster::{Cluster, ready_pod};
use crate::bootstrap::install::{ADDRESS, NAMESPACE, RELEASE, Secrets};
use crate::bootstrap::port_forward::PortForward;
use crate::fault::{Fault, Reason};
use crate::oci::Naming;
use crate::registry::{Credentials, Endpoint, Registry, Trust};
use crate::transfer::{Destination, Progress, RegistryDestination};

/// The labels of the registry's pods.
pub(super) fn registry_selector() -> String {
    format!("app.kubernetes.io/instance={RELEASE},app.kubernetes.io/component=registry")
}

/// The port of the registry in its pod that takes uploads.
const PORT: u16 = 5000;
/// How long a broken connection is tried again before another pod is looked for.
const RETRIES: Duration = Duration::from_secs(60);
/// How often a pod of the registry is looked for.
const PODS: u32 = 5;
/// How long a pod may take to be ready again.
const READY: Duration = Duration::from_secs(180);

/// What was uploaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uploaded {
    /// Names of packages, with their digests.
    pub packages: Vec<String>,
    /// Names of images, as pods use them.
    pub images: Vec<String>,
    /// Bytes that were sent.
    pub sent: u64,
}

/// Uploads the packages and images of `archive`. What the registry has is not sent. When the registry's pod ends, its successor
/// takes the rest.
///
/// # Errors
/// A fault that names the file or the image.
pub(super) async fn upload(
    cluster: &Cluster,
    archive: &Arc<Archive>,
    secrets: &Secrets,
    progress: &Progress,
) -> Result<Uploaded, Fault> {
    let selector = registry_selector();
    let mut attempt = 0;
    loop {
        attempt += 1;
        let pod = cluster.wait(READY, async || {
            let pods = cluster.pods(&selector).await?;
            Ok(ready_pod(&pods)
                .map(|pod| pod.name_any())
                .ok_or_else(|| "no pod of the registry is ready".to_owned()))
        });
        let pod = pod.await?;
        let forward = PortForward::start(cluster.client().clone(), NAMESPACE, &pod, PORT).await?;
        match upload_to(&forward, archive, secrets, progress).await {
            Err(fault) if !fault.is_stalled() && attempt < PODS => {
                tracing::debug!(message = fault.message, "the upload is repeated");
            }
            Err(fault) => {
                let why = forward.failure().map(|why| format!(" ({why})")).unwrap_or_default();
                let message = format!("{}{why}", fault.message);
                return Err(Fault { message, ..fault });
            }
            Ok(uploaded) => return Ok(uploaded),
        }
    }
}

async fn upload_to(
    forward: &PortForward,
    archive: &Arc<Archive>,
    secrets: &Secrets,
    progress: &Progress,
) -> Result<Uploaded, Fault> {
    let (user, password) = secrets.push_login();
    let endpoint = Endpoint {
        credentials: Some(Credentials::new(user, password.expose_secret().to_owned())),
        trust: Trust {
            authorities: Some(secrets.certificate().trusted.clone().into_bytes()),
            ..Trust::default()
        },
        ..Endpoint::new(forward.address().to_string())
    };
    let registry = Registry::new(endpoint)
        .map_err(|error| Fault::stalled(Reason::InternalError, format!("the client of the registry: {error}")))?;
    let open = move |repository: &str| -> Arc<dyn Destination> {
        Arc::new(RegistryDestination::new(registry.repository(repository)))
    };
    let retries = Retries::new(RETRIES);
    let target = archive::Target {
        address: ADDRESS,
        prefix: "",
        naming: Naming::Plain,
        open: &open,
        retries: &retries,
    };
    if archive.packages().is_empty() {
        let LoadedImages { images, sent } = archive::load_images(archive, &target, progress).await?;
        let images = images.iter().flat_map(|image| image.location.names()).collect();
        return Ok(Uploaded {
            packages: Vec::new(),
            images,
            sent,
        });
    }
    let loaded = archive::load(archive, &target, progress).await?;
    let package = |loaded: &Loaded| format!("{ADDRESS}/{}:{}@{}", loaded.repository, loaded.tag, loaded.digest);
    Ok(Uploaded {
        packages: loaded.iter().map(package).collect(),
        images: loaded
            .iter()
            .flat_map(|package| &package.images)
            .flat_map(|image| image.location.names())
            .collect(),
        sent: loaded.iter().fold(0, |sum, package| package.sent.saturating_add(sum)),
    })
}
