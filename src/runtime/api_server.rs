//! The addresses of the API server, to which objects may not make the operator connect.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Api, Client};

use super::status::with_timeout;
use crate::registry::Restrictions;

/// Its Service, and the EndpointSlice of the same name that the API server maintains.
const SERVICE: &str = "kubernetes";
/// The namespace of both.
const NAMESPACE: &str = "default";
/// How often its addresses are resolved.
const RESOLVE_INTERVAL: Duration = Duration::from_secs(300);
/// How long one name may take to resolve.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Makes `restrictions` refuse the addresses of the API server: those of `host`, where the operator reaches it, and of its
/// Service immediately, those of its endpoints once they were read. All are resolved again periodically until the
/// restrictions are dropped.
pub async fn refuse_api_server(client: &Client, host: Option<String>, restrictions: &Arc<Restrictions>) {
    let service = std::env::var("KUBERNETES_SERVICE_HOST").ok();
    let hosts: Vec<String> = host.into_iter().chain(service).collect();
    restrictions.note_api_server(resolve(&hosts).await);
    let (client, restrictions) = (client.clone(), Arc::downgrade(restrictions));
    tokio::spawn(async move {
        let mut known = HashSet::new();
        loop {
            // Endpoints that cannot be read now keep their last known addresses.
            if let Some(endpoints) = endpoints(&client).await {
                known = endpoints;
            }
            let mut all = resolve(&hosts).await;
            all.extend(&known);
            match restrictions.upgrade() {
                Some(restrictions) if !all.is_empty() => restrictions.note_api_server(all),
                Some(_) => {}
                None => return,
            }
            tokio::time::sleep(RESOLVE_INTERVAL).await;
        }
    });
}

async fn resolve(hosts: &[String]) -> HashSet<IpAddr> {
    let mut found = HashSet::new();
    for host in hosts {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        match tokio::time::timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host((host, 0))).await {
            Ok(Ok(resolved)) => found.extend(resolved.map(|address| address.ip())),
            Ok(Err(_)) | Err(_) => tracing::debug!(host, "cannot resolve the API server's name"),
        }
    }
    found
}

async fn endpoints(client: &Client) -> Option<HashSet<IpAddr>> {
    let api: Api<EndpointSlice> = Api::namespaced(client.clone(), NAMESPACE);
    match with_timeout(api.get_opt(SERVICE)).await {
        Ok(slice) => {
            let endpoints = slice.map(|slice| slice.endpoints).unwrap_or_default();
            let addresses = endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
            Some(addresses.filter_map(|address| address.parse().ok()).collect())
        }
        Err(error) => {
            tracing::debug!(%error, "cannot read the API server's endpoints");
            None
        }
    }
}
