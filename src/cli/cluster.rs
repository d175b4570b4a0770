//! The flags and the client of the commands that run in a cluster.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use ipnet::IpNet;
use kube::Client;
use tokio_util::sync::CancellationToken;

use super::authorities::AuthorityFlags;
use super::limits::LimitFlags;
use crate::api::v1alpha1::{LocalReference, Period, PeriodError, RegistrySpec};
use crate::oci::HostPattern;
use crate::registry::Restrictions;
use crate::runtime::{
    Backoff, Health, Metrics, Policy, RegistryDefaults, RepositoryPolicy, Settings, StateSecret, refuse_api_server,
};
use crate::server::{ListenAddress, Server, ServerHandle};

/// Flags of the controller and the agent.
#[derive(Clone, Debug, Args)]
pub(super) struct ClusterFlags {
    /// The namespace of the operator, of its Leases, and of the Secrets that its flags name. Default: the namespace of the
    /// kubeconfig or of the pod.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// Watch only this namespace. Default: all namespaces.
    #[arg(long, env = "JACKAL_WATCH_NAMESPACE", value_name = "NAMESPACE")]
    watch_namespace: Option<String>,
    /// The registry for objects that name none, as host[:port] in the image names of pods.
    #[arg(long, env = "JACKAL_REGISTRY_ADDRESS", value_name = "HOST")]
    registry_address: Option<String>,
    /// host[:port] at which the operator reaches that registry. Default: its address. Without --registry-address, the
    /// endpoint of the registry in --state-secret; the default is then its Service, or the address of an external
    /// registry.
    #[arg(long, env = "JACKAL_REGISTRY_ENDPOINT", value_name = "HOST")]
    registry_endpoint: Option<String>,
    /// The path prefix of all repositories in that registry.
    #[arg(
        long,
        env = "JACKAL_REGISTRY_PREFIX",
        value_name = "PATH",
        requires = "registry_address"
    )]
    registry_prefix: Option<String>,
    /// A Secret in the operator's namespace with the credentials for that registry.
    #[arg(
        long,
        env = "JACKAL_REGISTRY_SECRET",
        value_name = "NAME",
        requires = "registry_address"
    )]
    registry_secret: Option<String>,
    /// A Secret in the operator's namespace with the certificates for that registry.
    #[arg(
        long,
        env = "JACKAL_REGISTRY_CERT_SECRET",
        value_name = "NAME",
        requires = "registry_address"
    )]
    registry_cert_secret: Option<String>,
    /// Use plain HTTP for that registry.
    #[arg(long, env = "JACKAL_REGISTRY_INSECURE", requires = "registry_address")]
    registry_insecure: bool,
    /// A Secret with the state of Jackal or Zarf, such as zarf/zarf-state. It names the registry for objects that name none,
    /// if --registry-address is not set, and the naming of the cluster's webhook. Default: none.
    #[arg(long, env = "JACKAL_STATE_SECRET", value_name = "NAMESPACE/NAME")]
    state_secret: Option<StateSecret>,
    /// A host for which plain HTTP is allowed: host[:port] or *.domain[:port], either with the port *; repeatable. Plain
    /// HTTP is used for a source that is listed as host[:port], for a destination whose object sets insecure, and for
    /// redirects to the host.
    #[arg(long, env = "JACKAL_INSECURE_REGISTRIES", value_name = "HOST", value_delimiter = ',', value_parser = optional::<HostPattern>)]
    insecure_registry: Vec<Option<HostPattern>>,
    /// A network (CIDR) whose addresses objects may use without restriction; repeatable. Otherwise loopback, link-local,
    /// unspecified and multicast addresses, those of the platform and of the API server are refused, and private addresses
    /// to which a registry with a public address redirects.
    #[arg(long, env = "JACKAL_ALLOWED_NETWORKS", value_name = "CIDR", value_delimiter = ',', value_parser = network)]
    allow_network: Vec<Option<IpNet>>,
    /// A host to which a registry that an object names may redirect uploads: host[:port] or *.domain[:port];
    /// repeatable.
    #[arg(long, env = "JACKAL_UPLOAD_HOSTS", value_name = "HOST", value_delimiter = ',', value_parser = optional::<HostPattern>)]
    upload_host: Vec<Option<HostPattern>>,
    /// Where objects may push in the operator's registry: `namespace`, only under the name of their namespace (after
    /// --registry-prefix, before the object's own prefix), or `any`, anywhere, including repositories of other
    /// namespaces. Set the same value for the agents.
    #[arg(
        long,
        env = "JACKAL_REPOSITORY_POLICY",
        default_value = "namespace",
        value_name = "POLICY"
    )]
    repository_policy: RepositoryPolicy,
    /// A host that objects may name as a source or as a destination of their own: host[:port] or *.domain[:port];
    /// repeatable. Default: any host.
    #[arg(long, env = "JACKAL_SOURCE_HOSTS", value_name = "HOST", value_delimiter = ',', value_parser = optional::<HostPattern>)]
    source_host: Vec<Option<HostPattern>>,
    /// Concurrent transfers from one registry or engine. In total, up to eight times as many run.
    #[arg(long, env = "JACKAL_CONCURRENCY", default_value_t = 4, value_name = "COUNT")]
    concurrency: usize,
    #[command(flatten)]
    authorities: AuthorityFlags,
    #[command(flatten)]
    limits: LimitFlags,
    /// How often sources are checked for changes, unless the object sets it.
    #[arg(long, env = "JACKAL_INTERVAL", default_value = "1h", value_name = "DURATION", value_parser = duration)]
    interval: Duration,
    /// How long a transfer may make no progress before it is aborted and retried, unless the object sets it.
    #[arg(long, env = "JACKAL_STALL_TIMEOUT", default_value = "2m", value_name = "DURATION", value_parser = duration)]
    stall_timeout: Duration,
    /// The longest stall timeout that an object may set.
    #[arg(long, env = "JACKAL_MAX_STALL_TIMEOUT", default_value = "15m", value_name = "DURATION", value_parser = duration)]
    max_stall_timeout: Duration,
    /// The longest delay between retries; it starts at 750 ms and doubles.
    #[arg(long, env = "JACKAL_RETRY_LIMIT", default_value = "2m", value_name = "DURATION", value_parser = duration)]
    retry_limit: Duration,
    /// The address (ADDRESS:PORT, such as `[::]:8080`) on which /healthz, /readyz and /metrics are served over plain HTTP.
    /// Port 0 selects a free port, which is logged. Default: they are not served.
    #[arg(long, env = "JACKAL_LISTEN", value_name = "ADDRESS:PORT")]
    listen: Option<ListenAddress>,
}

impl ClusterFlags {
    /// The client of the cluster, and the settings.
    pub async fn open(&self) -> anyhow::Result<(Client, Settings)> {
        let config = kube::Config::infer()
            .await
            .context("no cluster configuration: run in a pod, set KUBECONFIG, or create ~/.kube/config")?;
        let namespace = self
            .namespace
            .clone()
            .unwrap_or_else(|| config.default_namespace.clone());
        let api_server = config.cluster_url.host().map(str::to_owned);
        let client = Client::try_from(config).context("cannot create the client of the cluster")?;
        let listed = |patterns: &[Option<HostPattern>]| patterns.iter().flatten().cloned().collect::<Vec<_>>();
        let restrictions = Arc::new(Restrictions::new(
            self.allow_network.iter().flatten().copied().collect(),
            listed(&self.insecure_registry),
            listed(&self.upload_host),
            listed(&self.source_host),
        ));
        refuse_api_server(&client, api_server, &restrictions).await;
        let reference = |name: &Option<String>| name.clone().map(|name| LocalReference { name });
        let registry = RegistrySpec {
            address: self.registry_address.clone(),
            endpoint: self.registry_endpoint.clone(),
            repository_prefix: self.registry_prefix.clone(),
            secret_ref: reference(&self.registry_secret),
            cert_secret_ref: reference(&self.registry_cert_secret),
            insecure: self.registry_insecure.then_some(true),
        };
        let settings = Settings {
            defaults: RegistryDefaults {
                registry,
                namespace,
                state: self.state_secret.clone(),
                restrictions,
                authorities: self.authorities.read().await?,
                limits: self.limits.limits(),
                policy: Policy {
                    repositories: self.repository_policy,
                    hosts: listed(&self.source_host),
                },
            },
            namespace: self.watch_namespace.clone(),
            concurrency: self.concurrency.max(1),
            backoff: Backoff {
                first: Duration::from_millis(750),
                limit: self.retry_limit,
            },
            interval: self.interval,
            idle: self.stall_timeout,
            longest_idle: self.max_stall_timeout.max(self.stall_timeout),
            garbage_delay: Duration::from_secs(600),
            owner: None,
            syft: None,
            metrics: Metrics::default(),
            health: Health::default(),
        };
        Ok((client, settings))
    }

    /// Serves metrics and health over HTTP until [`ServerHandle::end`]; nothing without the flag.
    pub async fn serve(&self, settings: &Settings, stop: &CancellationToken) -> anyhow::Result<ServerHandle> {
        let Some(address) = &self.listen else {
            return Ok(ServerHandle::default());
        };
        let server = Server::bind(address).await?;
        Ok(server.start(settings.metrics.clone(), settings.health.clone(), stop.clone()))
    }
}

/// Parses a duration such as `90s` or `1h30m`.
pub(super) fn duration(text: &str) -> Result<Duration, PeriodError> {
    text.parse::<Period>().map(Into::into)
}

/// Parses an item of a list; an empty item is none.
pub(super) fn optional<T: std::str::FromStr>(text: &str) -> Result<Option<T>, T::Err> {
    match text.trim() {
        "" => Ok(None),
        text => text.parse().map(Some),
    }
}

/// Parses a network or a single address; an empty text is none.
fn network(text: &str) -> Result<Option<IpNet>, String> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    let read = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    read.map(Some)
        .map_err(|_| format!("`{text}` is not a CIDR, such as 127.0.0.0/8 or fd00:1::/64"))
}

/// The host name; in a pod, the name of the pod.
pub(super) fn hostname() -> String {
    gethostname::gethostname().to_string_lossy().to_lowercase()
}
