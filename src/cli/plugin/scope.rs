//! Which objects a command means: the cluster and the namespace.

use clap::Args;
use kube::{Api, Client};

use super::super::kubeconfig::KubeconfigFlags;
use crate::api::v1alpha1::JackalPackage;

/// The flags that name the cluster and the namespace.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct ScopeFlags {
    #[command(flatten)]
    cluster: KubeconfigFlags,
    /// The namespace. Default: that of the context.
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
}

/// A cluster and a namespace in it.
pub(super) struct Scope {
    pub client: Client,
    pub namespace: String,
}

impl ScopeFlags {
    /// Opens the cluster. Nothing is requested.
    pub async fn open(&self) -> anyhow::Result<Scope> {
        let (client, _) = self.cluster.open().await?;
        let own = client.default_namespace().to_owned();
        let namespace = self.namespace.clone().unwrap_or(own);
        Ok(Scope { client, namespace })
    }
}

impl Scope {
    /// The packages of the namespace.
    pub fn packages(&self) -> Api<JackalPackage> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }
}
