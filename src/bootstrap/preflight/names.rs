//! Names and ports that an installation takes in a cluster.

/// The namespace of the operator and of its registry.
pub(in crate::bootstrap) const NAMESPACE: &str = "jackal-system";
/// The namespace of the temporary registry, which is deleted at the end.
pub(in crate::bootstrap) const SEED_NAMESPACE: &str = "jackal-seed";
/// The name of the Helm release.
pub(in crate::bootstrap) const RELEASE: &str = "jackal-operator";
/// The port of the registry on each node.
pub(in crate::bootstrap) const NODE_PORT: u16 = 31999;
/// The port at which the temporary registry receives files, on each node's loopback.
pub(in crate::bootstrap) const SEED_PORT: u16 = 31998;
/// The host in the names of images that pods use.
pub(in crate::bootstrap) const ADDRESS: &str = "127.0.0.1:31999";
