//! The objects that `bootstrap` applies. No IO.
//!
//! They come from the operator's image in the archive, where `scripts/image` puts the chart as helm renders it, one file for each way
//! to expose the registry. [`objects`] completes them: the names of the images, the storage of the registry, Secrets with passwords
//! and certificates ([`Secrets`]), and the labels by which `--undo` and `helm upgrade --install` know them.
//!
//! The Secrets have the names, keys and annotations that the chart gives them, so that a later `helm upgrade --install` keeps the
//! passwords and the certificate.

mod certificate;
mod image;
mod kind;
mod manifests;
mod object;
mod secrets;
mod storage;

use serde::Serialize;
use serde_json::{Value, json};

pub use self::certificate::{Certificate, RENEW_DAYS};
pub use self::image::InstalledImage;
pub use self::kind::{KINDS, Kind, Stage};
pub use self::manifests::MANIFESTS_LIMIT;
pub use self::object::Object;
pub use self::secrets::{Existing, PULL_SECRET, Secrets};
pub use self::storage::{Size, Storage};
use crate::fault::{Fault, Reason};
use crate::oci::Digest;

/// The namespace of the installation.
pub const NAMESPACE: &str = "jackal-system";
/// The name of helm's release.
pub const RELEASE: &str = "jackal-operator";
/// The StatefulSet of the registry, its Service and its Secret.
pub const REGISTRY: &str = "jackal-operator-registry";
/// Where nodes pull.
pub const ADDRESS: &str = "127.0.0.1:31999";
/// The port of [`ADDRESS`].
pub const NODE_PORT: u16 = 31999;
/// The label of every object of the installation. Its value says nothing.
pub const LABEL: &str = "jackal.dev/bootstrap";

/// How the registry is reached on every node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Expose {
    /// By a Service of type NodePort.
    NodePort,
    /// By a proxy of the operator on every node.
    NodeProxy,
}

impl Expose {
    /// The file of the operator's image with the objects.
    pub fn manifests(self) -> &'static str {
        match self {
            Self::NodePort => "install/nodeport.yaml",
            Self::NodeProxy => "install/nodeproxy.yaml",
        }
    }

    /// The value of the chart.
    pub fn value(self) -> &'static str {
        match self {
            Self::NodePort => "NodePort",
            Self::NodeProxy => "NodeProxy",
        }
    }
}

/// What completes the objects.
#[derive(Clone, Debug)]
pub struct Options {
    /// The operator's image.
    pub operator: InstalledImage,
    /// The registry's image.
    pub registry: InstalledImage,
    /// Where the registry keeps its content.
    pub storage: Storage,
}

/// The objects in `manifests`, completed, in the order in which they are applied.
///
/// # Errors
/// A stalled fault that names the object that cannot be used.
pub fn objects(manifests: &[u8], options: &Options, secrets: &Secrets) -> Result<Vec<Object>, Fault> {
    let mut objects = manifests::parse(manifests)?;
    let privileged = objects.iter().any(is_privileged);
    let labels = manifests::registry_labels(&objects)?;
    for object in &mut objects {
        image::replace(object, options)?;
        storage::apply(object, &options.storage)?;
        set_checksum(object, secrets);
    }
    objects.insert(0, namespace(privileged));
    objects.extend(secrets.objects(&labels));
    let mut known = std::collections::HashSet::new();
    for object in &mut objects {
        mark(object);
        if !known.insert(object.to_string()) {
            let message = format!("the installation has {object} twice; pack an operator's image of a release");
            return Err(Fault::stalled(Reason::InvalidSpec, message));
        }
    }
    objects.sort_by_key(Object::stage);
    Ok(objects)
}

/// The namespace of the installation.
fn namespace(privileged: bool) -> Object {
    let mut content = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    if privileged {
        // Pod Security refuses pods with the network of the node otherwise.
        content["metadata"]["labels"] = json!({"pod-security.kubernetes.io/enforce": "privileged"});
    }
    Object {
        kind: &KINDS[0],
        namespace: None,
        name: NAMESPACE.to_owned(),
        content,
    }
}

/// Whether the pods of `object` need the level `privileged` of Pod Security.
fn is_privileged(object: &Object) -> bool {
    let Some(pods) = object.pod_spec() else { return false };
    let volumes = pods["volumes"].as_array().into_iter().flatten();
    pods["hostNetwork"] == true
        || pods["hostPID"] == true
        || volumes.into_iter().any(|volume| volume.get("hostPath").is_some())
}

/// Sets the labels and annotations by which the objects of the installation are known, to us and to helm.
fn mark(object: &mut Object) {
    object.set_metadata("labels", [(LABEL, "true")]);
    // A namespace of helm's own is not part of a release.
    if object.kind.kind == "Namespace" {
        return;
    }
    object.set_metadata("labels", [("app.kubernetes.io/managed-by", "Helm")]);
    let release = [
        ("meta.helm.sh/release-name", RELEASE),
        ("meta.helm.sh/release-namespace", NAMESPACE),
    ];
    object.set_metadata("annotations", release);
}

/// Makes the registry's pods restart with another certificate, as the chart does.
fn set_checksum(object: &mut Object, secrets: &Secrets) {
    if object.kind.kind != "StatefulSet" || object.name != REGISTRY {
        return;
    }
    let checksum = Digest::of(secrets.certificate().certificate.as_bytes())
        .hex()
        .to_owned();
    let annotations = &mut object.content["spec"]["template"]["metadata"]["annotations"];
    if !annotations.is_object() {
        *annotations = json!({});
    }
    annotations["checksum/tls"] = Value::from(checksum);
}

/// The values with which helm's chart makes the same objects, for `helm upgrade --install`.
pub fn helm_values(options: &Options, expose: Expose) -> Value {
    let mut persistence = json!({"enabled": matches!(options.storage, Storage::Claim { .. })});
    let (Storage::Claim { size, .. } | Storage::Ephemeral { size }) = &options.storage;
    if let Some(size) = size {
        persistence["size"] = Value::from(size.as_str());
    }
    if let Storage::Claim { class: Some(class), .. } = &options.storage {
        persistence["storageClass"] = Value::from(class.as_str());
    }
    let mut values = json!({
        "image": {"repository": options.operator.repository(), "digest": options.operator.digest.as_str()},
        "imagePullSecrets": [{"name": secrets::PULL_SECRET}],
        "registry": {"deploy": {
            "enabled": true,
            "image": options.registry.to_string(),
            "tls": {"issuer": "chart"},
            "persistence": persistence,
        }},
    });
    if expose == Expose::NodeProxy {
        values["registry"]["expose"] = Value::from(expose.value());
    }
    values
}

#[cfg(test)]
mod tests;
