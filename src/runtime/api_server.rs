//! The addresses of the API server, which objects may not have the operator reach.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Api, Client};

use super::status::with_timeout;
use crate::registry::Restrictions;

/// Its Service, and the EndpointSlice of the same name that the API server itself keeps.
const SERVICE: &str = "kubernetes";
/// The namespace of both.
const NAMESPACE: &str = "default";
/// How often its addresses are looked up.
const EVERY: Duration = Duration::from_secs(300);
/// How long one name may take to resolve.
const LIMIT: Duration = Duration::from_secs(5);

/// Has `restrictions` refuse the addresses of the API server: of `host`, by which the operator reaches it, and of its
/// Service from now on, and of its endpoints as soon as it says them. All are looked up again as long as anybody has the
/// restrictions.
pub async fn refuse_api_server(client: &Client, host: Option<String>, restrictions: &Arc<Restrictions>) {
    let service = std::env::var("KUBERNETES_SERVICE_HOST").ok();
    let hosts: Vec<String> = host.into_iter().chain(service).collect();
    restrictions.note_api_server(by_name(&hosts).await);
    let (client, restrictions) = (client.clone(), Arc::downgrade(restrictions));
    tokio::spawn(async move {
        let mut known = HashSet::new();
        loop {
            // What cannot be looked up now is what it was.
            if let Some(endpoints) = endpoints(&client).await {
                known = endpoints;
            }
            let mut all = by_name(&hosts).await;
            all.extend(&known);
            match restrictions.upgrade() {
                Some(restrictions) if !all.is_empty() => restrictions.note_api_server(all),
                Some(_) => {}
                None => return,
            }
            tokio::time::sleep(EVERY).await;
        }
    });
}

async fn by_name(hosts: &[String]) -> HashSet<IpAddr> {
    let mut found = HashSet::new();
    for host in hosts {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        match tokio::time::timeout(LIMIT, tokio::net::lookup_host((host, 0))).await {
            Ok(Ok(resolved)) => found.extend(resolved.map(|address| address.ip())),
            Ok(Err(_)) | Err(_) => tracing::debug!(host, "the API server's name does not resolve"),
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
            tracing::debug!(%error, "the API server's endpoints cannot be read");
            None
        }
    }
}
