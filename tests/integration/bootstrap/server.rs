//! An API server of its own: bootstrap has fixed names, and its removal deletes all packages of the cluster.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jackal_operator::bootstrap::cluster::Cluster;
use jackal_operator::bootstrap::install::KINDS;
use k8s_openapi::api::core::v1::{Namespace, PersistentVolumeClaim};
use kube::ResourceExt as _;
use kube::api::{Api, ApiResource, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard, OnceCell};

use crate::docker::engines::stack_instance;
use crate::support::install_tls;
use crate::support::wait::{SOON, eventually};

/// The API server, while one test uses it.
pub struct ApiServer {
    pub client: Client,
    kubeconfig: PathBuf,
    _lock: MutexGuard<'static, ()>,
}

impl ApiServer {
    /// The server, with one node and without an installation.
    pub async fn exclusive() -> Self {
        static LOCK: Mutex<()> = Mutex::const_new(());
        static KUBECONFIG: OnceCell<PathBuf> = OnceCell::const_new();
        install_tls();
        let lock = LOCK.lock().await;
        let start = async || PathBuf::from(stack_instance("apiserver", "bootstrap"));
        let kubeconfig = KUBECONFIG.get_or_init(start).await.clone();
        let read = Kubeconfig::read_from(&kubeconfig).unwrap();
        let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await;
        let server = Self {
            client: Client::try_from(config.unwrap()).unwrap(),
            kubeconfig,
            _lock: lock,
        };
        server.make_node().await;
        server
    }

    pub fn kubeconfig(&self) -> &str {
        self.kubeconfig.to_str().unwrap()
    }

    pub fn cluster(&self) -> Cluster {
        Cluster::new(self.client.clone())
    }

    async fn make_node(&self) {
        let node = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": "node1"},
            "status": {
                "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": null, "lastTransitionTime": null, "reason": "a", "message": "b"}],
                "nodeInfo": {"operatingSystem": "linux", "architecture": "amd64", "bootID": "", "containerRuntimeVersion": "containerd://2.1.0",
                    "kernelVersion": "6.1.0", "kubeProxyVersion": "", "kubeletVersion": "v1.33.0", "machineID": "", "osImage": "", "systemUUID": ""},
            },
        });
        let api: Api<k8s_openapi::api::core::v1::Node> = Api::all(self.client.clone());
        let params = PatchParams::apply("test").force();
        api.patch("node1", &params, &Patch::Apply(&node)).await.unwrap();
        api.patch_status("node1", &params, &Patch::Apply(&node)).await.unwrap();
    }

    /// All objects with the label of bootstrap: kind, namespace, name.
    pub async fn installed(&self) -> Vec<String> {
        let cluster = self.cluster();
        let mut found = Vec::new();
        for kind in &KINDS {
            for object in cluster.installed(kind).await.unwrap() {
                let namespace = object.metadata.namespace.unwrap_or_default();
                found.push(format!(
                    "{} {namespace}/{}",
                    kind.kind,
                    object.metadata.name.unwrap_or_default()
                ));
            }
        }
        found
    }

    /// Creates an object in its namespace.
    pub async fn create(&self, api_version: &str, plural: &str, object: &Value) {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let resource = ApiResource {
            group: group.to_owned(),
            version: version.to_owned(),
            api_version: api_version.to_owned(),
            kind: object["kind"].as_str().unwrap().to_owned(),
            plural: plural.to_owned(),
        };
        let namespace = object["metadata"]["namespace"].as_str().unwrap();
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &resource);
        let object: DynamicObject = serde_json::from_value(object.clone()).unwrap();
        // A new definition is not served at once.
        eventually(SOON, "the object is created", async || {
            let created = api.create(&PostParams::default(), &object).await;
            created.map(|_| ()).map_err(|error| error.to_string())
        })
        .await;
    }

    /// Releases claims and the namespace that are being deleted, as the controllers of a cluster do.
    pub async fn act_as_controllers(&self) {
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), "jackal-system");
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
        loop {
            for claim in claims.list(&ListParams::default()).await.unwrap() {
                if claim.metadata.deletion_timestamp.is_some() {
                    let _ = claims.patch(&claim.name_any(), &PatchParams::default(), &free).await;
                }
            }
            if let Some(mut namespace) = namespaces.get_opt("jackal-system").await.unwrap()
                && namespace.metadata.deletion_timestamp.is_some()
            {
                namespace.spec.get_or_insert_default().finalizers = None;
                let params = PostParams::default();
                let _ = namespaces
                    .replace_subresource("finalize", "jackal-system", &params, &namespace)
                    .await;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// A kubeconfig of an account that may only read.
    pub async fn reader(&self, path: &Path) -> String {
        let role = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "test-reader"},
            "rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list"]}],
        });
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "test-reader"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "test-reader"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "reader"}],
        });
        for (kind, object) in [("ClusterRole", role), ("ClusterRoleBinding", binding)] {
            let kind = KINDS.iter().find(|known| known.kind == kind).unwrap();
            let resource = ApiResource {
                group: kind.group().to_owned(),
                version: kind.version().to_owned(),
                api_version: kind.api_version.to_owned(),
                kind: kind.kind.to_owned(),
                plural: kind.plural.to_owned(),
            };
            let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &resource);
            let params = PatchParams::apply("test").force();
            api.patch("test-reader", &params, &Patch::Apply(&object)).await.unwrap();
        }
        let text = std::fs::read_to_string(&self.kubeconfig).unwrap();
        let mut config: Value = serde_saphyr::from_str(&text).unwrap();
        config["users"][0]["user"]["as"] = json!("reader");
        std::fs::write(path, config.to_string()).unwrap();
        path.to_str().unwrap().to_owned()
    }
}
