//! Counts the writes to the objects of a namespace.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use futures::StreamExt;
use jackal_operator::api::v1alpha1::{JackalImage, JackalPackage};
use kube::core::{NamespaceResourceScope, PartialObjectMeta};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio_util::task::AbortOnDropHandle;

use crate::support::cluster::Cluster;
use crate::support::wait::{SOON, eventually};

#[derive(Clone, Debug, Default)]
struct LastVersion {
    version: String,
    writes: usize,
}

type Objects = Arc<Mutex<HashMap<String, LastVersion>>>;

/// A watch on both kinds in one namespace: the API server sends every write of an object, and nothing for a
/// write that changes nothing.
pub struct WriteCounter {
    objects: Objects,
    _watches: [AbortOnDropHandle<()>; 2],
}

impl WriteCounter {
    /// Starts counting.
    pub fn of(cluster: &Cluster) -> Self {
        let objects = Objects::default();
        Self {
            _watches: [
                watch::<JackalPackage>(cluster, &objects),
                watch::<JackalImage>(cluster, &objects),
            ],
            objects,
        }
    }

    /// The writes so far to `object`, up to its current version.
    pub async fn count(&self, object: &impl ResourceExt) -> usize {
        let uid = object.uid().unwrap();
        let version = object.resource_version().unwrap();
        eventually(SOON, "the watch shows the object", async || {
            let known = self.objects.lock().unwrap().get(&uid).cloned().unwrap_or_default();
            match number(&known.version) >= number(&version) {
                true => Ok(known.writes),
                false => Err(format!("{known:?}, and it stands at {version}")),
            }
        })
        .await
    }
}

/// Resource versions increase (documented since Kubernetes 1.35, always true with etcd).
fn number(version: &str) -> u64 {
    version.parse().unwrap_or_default()
}

fn watch<K>(cluster: &Cluster, objects: &Objects) -> AbortOnDropHandle<()>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let api: Api<PartialObjectMeta<K>> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let objects = Arc::clone(objects);
    AbortOnDropHandle::new(tokio::spawn(async move {
        let changes = watcher(api, watcher::Config::default()).touched_objects();
        let mut changes = std::pin::pin!(changes);
        while let Some(change) = changes.next().await {
            let Ok(object) = change else { continue };
            let mut objects = objects.lock().unwrap();
            let known = objects.entry(object.uid().unwrap()).or_default();
            let version = object.resource_version().unwrap();
            if known.version != version {
                known.version = version;
                known.writes += 1;
            }
        }
    }))
}
