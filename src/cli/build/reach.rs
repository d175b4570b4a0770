//! Whom a package may have asked that is built from a file: any host, with the credentials that docker knows, and the
//! ConfigMaps of the file.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Mutex;

use super::{Build, Target};
use crate::cli::package_file::Given;
use crate::fault::{Fault, Reason};
use crate::fetch::Reach;
use crate::oci::Reference;
use crate::registry::{Endpoint, Registry};

/// How a file's package reaches what it names.
pub(super) struct FileReach<'a> {
    build: &'a Build,
    given: &'a Given,
    target: &'a Target,
    idle: Duration,
    /// The clients by host, one for each.
    registries: Mutex<HashMap<String, Registry>>,
    hosts: Mutex<HashMap<String, Registry>>,
}

impl<'a> FileReach<'a> {
    pub fn new(build: &'a Build, given: &'a Given, target: &'a Target, idle: Duration) -> Self {
        Self {
            build,
            given,
            target,
            idle,
            registries: Mutex::default(),
            hosts: Mutex::default(),
        }
    }
}

#[async_trait]
impl Reach for FileReach<'_> {
    async fn registry(&self, reference: &Reference, what: &str) -> Result<Registry, Fault> {
        let host = reference.registry();
        let mut open = self.registries.lock().await;
        if let Some(registry) = open.get(host) {
            return Ok(registry.clone());
        }
        let plain_http = self.build.is_plain_http(host, self.target);
        let registry = self.build.open(host, plain_http, self.idle).await.map_err(|error| {
            let failed =
                |error: anyhow::Error| Fault::retryable(Reason::AuthenticationFailed, format!("{what}: {error:#}"));
            error.downcast::<Fault>().unwrap_or_else(failed)
        })?;
        open.insert(host.to_owned(), registry.clone());
        Ok(registry)
    }

    async fn host(&self, host: &str, what: &str) -> Result<Registry, Fault> {
        let mut open = self.hosts.lock().await;
        if let Some(registry) = open.get(host) {
            return Ok(registry.clone());
        }
        let endpoint = Endpoint {
            plain_http: self.build.is_plain_http(host, self.target),
            idle: self.idle,
            ..Endpoint::new(host).within(self.build.limits.limits())
        };
        let registry = Registry::new(endpoint).map_err(|error| error.reading(what))?;
        open.insert(host.to_owned(), registry.clone());
        Ok(registry)
    }

    async fn config_map(&self, name: &str) -> Result<BTreeMap<String, String>, Fault> {
        self.given.config_maps.get(name).cloned().ok_or_else(|| {
            Fault::stalled(
                Reason::ConfigMapUnavailable,
                format!("the ConfigMap {name} is not in the file: add it as a further document"),
            )
        })
    }
}
