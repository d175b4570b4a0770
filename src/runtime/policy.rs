//! What the administrator allows objects: the repositories that they may write, the hosts that they may name, and the
//! images that nodes provide to namespaces. No IO.

use std::fmt;
use std::str::FromStr;

use clap::ValueEnum;

use crate::api::v1alpha1::{JackalImageSpec, SourceKind};
use crate::fault::{Fault, Reason};
use crate::oci::{HostPattern, Reference, fits, normalised_host};

/// Where objects of a namespace may push in the operator's registry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum RepositoryPolicy {
    /// Anywhere, including repositories that other namespaces use.
    Any,
    /// Under the name of their namespace.
    #[default]
    Namespace,
}

/// What objects may do, as configured by flags.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Where they may push in the operator's registry.
    pub repositories: RepositoryPolicy,
    /// The hosts that they may name as a source, or as a destination of their own. If empty, any host is allowed.
    pub hosts: Vec<HostPattern>,
}

impl Policy {
    /// The repositories that `namespace` may use in the operator's registry, under the operator's `prefix`; none if it may
    /// use all of them.
    pub fn repository_scope(&self, prefix: Option<&str>, namespace: &str) -> Option<RepositoryScope> {
        (self.repositories == RepositoryPolicy::Namespace)
            .then(|| RepositoryScope(join(prefix.unwrap_or_default(), namespace)))
    }

    /// Checks that an object may name `host` (host[:port]). `what` names the object's field in the message.
    ///
    /// Only the host that an object names is checked. Redirects to storage and the realms of token services are followed
    /// within [`Restrictions`](crate::registry::Restrictions): to other public hosts, and to private hosts that are listed.
    pub fn check_host(&self, host: &str, what: &str) -> Result<(), Fault> {
        if self.hosts.is_empty() || self.hosts.iter().any(|pattern| pattern.admits(host)) {
            return Ok(());
        }
        let known: Vec<String> = self.hosts.iter().map(HostPattern::to_string).collect();
        Err(Fault::stalled(
            Reason::PolicyDenied,
            format!(
                "{what} names the host {host}, which is not allowed; allowed hosts: {}. Name one of these, or ask the administrator to add the host to --source-host",
                known.join(", ")
            ),
        ))
    }
}

/// The repositories of the operator's registry that one namespace may use: those under a path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RepositoryScope(String);

impl RepositoryScope {
    /// The prefix of an object whose own prefix is `own`.
    pub fn prefix(&self, own: Option<&str>) -> String {
        join(&self.0, own.unwrap_or_default())
    }

    /// Checks that `repository`, a full path in the registry, is within the scope. `what` names the object's field in the
    /// message.
    pub fn check(&self, repository: &str, what: &str) -> Result<(), Fault> {
        let is_inside = repository
            .strip_prefix(&self.0)
            .is_some_and(|rest| rest.starts_with('/'));
        if is_inside {
            return Ok(());
        }
        Err(Fault::stalled(
            Reason::PolicyDenied,
            format!(
                "{what} is `{repository}` in the operator's registry, where this namespace may only use repositories under `{}/` (--repository-policy namespace): name an image of another registry, or one of this namespace",
                self.0
            ),
        ))
    }
}

impl fmt::Display for RepositoryScope {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

fn join(above: &str, below: &str) -> String {
    match (above.trim_matches('/'), below.trim_matches('/')) {
        ("", below) => below.to_owned(),
        (above, "") => above.to_owned(),
        (above, below) => format!("{above}/{below}"),
    }
}

/// Text that is not a valid rule of `--admit`.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "`{0}` is not NAMESPACE=IMAGE, such as `team-a=registry.example.com/team-a/*` or `*=docker.io/library/*`; images are named in full, without tag"
)]
pub struct AdmitRuleError(String);

/// Which images a node provides to which namespaces; everything else is refused.
#[derive(Clone, Debug, Default)]
pub struct AdmitRules(pub Vec<AdmitRule>);

/// `NAMESPACE=IMAGE`: images whose name matches are provided to namespaces whose name matches. `*` matches any characters,
/// including `/`. An image is matched by its full name without tag and digest, such as `docker.io/library/nginx`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdmitRule {
    namespace: String,
    image: String,
}

impl FromStr for AdmitRule {
    type Err = AdmitRuleError;

    fn from_str(text: &str) -> Result<Self, AdmitRuleError> {
        let error = || AdmitRuleError(text.chars().take(160).collect());
        let (namespace, image) = text.split_once('=').ok_or_else(error)?;
        let named = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-*".contains(&byte);
        let called = |byte: u8| named(byte) || byte.is_ascii_uppercase() || b"._/:[]".contains(&byte);
        // A pattern without a registry would match no image, because images are matched by their full names.
        let whole = image == "*" || image.contains('/') && !image.starts_with('/');
        if namespace.is_empty() || !namespace.bytes().all(named) || !whole || !image.bytes().all(called) {
            return Err(error());
        }
        Ok(Self {
            namespace: namespace.to_owned(),
            // Normalised as in references.
            image: match image.split_once('/') {
                Some((host, path)) => format!("{}/{path}", normalised_host(host)),
                None => image.to_owned(),
            },
        })
    }
}

impl AdmitRules {
    /// Checks that the node `node` provides the image that `spec` names to `namespace`.
    ///
    /// An engine finds a digest without a tag under every name, and `sha256:…` as an image ID. The name then says nothing, so
    /// only namespaces that may use every image may use it.
    pub fn check(
        &self,
        node: &str,
        namespace: &str,
        spec: &JackalImageSpec,
        reference: &Reference,
    ) -> Result<(), Fault> {
        if !spec.source.is_engine() {
            return Ok(());
        }
        let name = reference.name();
        let by_id = spec.source == SourceKind::Docker && reference.repository() == "library/sha256";
        let nameless = reference.tag().is_none() || by_id;
        let admits = |admission: &AdmitRule| {
            fits(&admission.namespace, namespace)
                && (admission.image == "*" || !nameless && fits(&admission.image, &name))
        };
        if self.0.iter().any(admits) {
            return Ok(());
        }
        let advice = match nameless {
            true => "name the image with its tag, because a digest without a tag is found under every name".to_owned(),
            false => format!("ask the administrator to start the agent with --admit {namespace}={name}"),
        };
        Err(Fault::stalled(
            Reason::PolicyDenied,
            format!("the agent on {node} does not provide {name} to the namespace {namespace} (--admit): {advice}"),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(repositories: RepositoryPolicy, hosts: &[&str]) -> Policy {
        Policy {
            repositories,
            hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn a_namespace_is_confined_to_its_name_with_any_prefix() {
        let open = policy(RepositoryPolicy::Any, &[]);
        assert_eq!(open.repository_scope(Some("base"), "a"), None);
        let scoped = policy(RepositoryPolicy::Namespace, &[]);
        for (default, own, prefix) in [
            (None, None, "a"),
            (Some("base"), None, "base/a"),
            (None, Some("b"), "a/b"),
            (Some("base/x"), Some("b/c"), "base/x/a/b/c"),
        ] {
            let scope = scoped.repository_scope(default, "a").unwrap();
            assert_eq!(scope.prefix(own), prefix);
            assert!(scope.check(&format!("{prefix}/app"), "x").is_ok());
        }
        let scope = scoped.repository_scope(Some("base"), "a").unwrap();
        for outside in [
            "app",
            "base/app",
            "base/b/app",
            "base/ab/app",
            "a/app",
            "base/a",
            "x/base/a/app",
        ] {
            let fault = scope.check(outside, "the image").unwrap_err();
            assert_eq!(fault.reason, Reason::PolicyDenied, "{outside}");
            assert!(
                fault.message.contains("`base/a/` (--repository-policy namespace)"),
                "{fault}"
            );
        }
    }

    #[test]
    fn only_listed_hosts_are_allowed() {
        assert!(
            policy(RepositoryPolicy::Any, &[])
                .check_host("169.254.169.254", "x")
                .is_ok()
        );
        let some = policy(
            RepositoryPolicy::Any,
            &["ghcr.io", "*.Example.com", "*.b.org:5000", "[::1]:5000"],
        );
        let may = |host: &str| some.check_host(host, "the image").is_ok();
        for host in [
            "ghcr.io",
            "GHCR.io:443",
            "a.example.com",
            "x.y.example.com",
            "r.b.org:5000",
            "[::1]:5000",
        ] {
            assert!(may(host), "{host}");
        }
        for host in [
            "ghcr.io:5000",
            "ghcr.io.evil",
            "example.com",
            ".example.com",
            "evilexample.com",
            "a.example.com:80",
            "r.b.org",
            "169.254.169.254",
            "[::1]",
        ] {
            assert!(!may(host), "{host}");
        }
        let fault = some.check_host("evil", "the image evil/x").unwrap_err();
        assert!(
            fault.message.contains("allowed hosts: ghcr.io, *.example.com,"),
            "{fault}"
        );
    }

    fn may(admissions: &[&str], namespace: &str, image: &str, source: &str) -> bool {
        let admissions = AdmitRules(admissions.iter().map(|text| text.parse().unwrap()).collect());
        let spec: JackalImageSpec =
            serde_json::from_value(serde_json::json!({ "image": image, "source": source })).unwrap();
        let checked = admissions.check("n1", namespace, &spec, &image.parse().unwrap());
        if let Err(fault) = &checked {
            assert_eq!(fault.reason, Reason::PolicyDenied);
            assert!(
                fault.message.contains("--admit") && fault.message.contains(namespace),
                "{fault}"
            );
        }
        checked.is_ok()
    }

    #[test]
    fn a_node_provides_what_its_rules_admit_and_nothing_without_rules() {
        let rules = ["a=r.example.com/a/*", "*=docker.io/library/*", "ci-*=*"];
        for (namespace, image, expected) in [
            ("a", "r.example.com/a/app:1", true),
            ("a", "r.example.com/a/b/app:1", true),
            ("a", "r.example.com/ab/app:1", false),
            ("b", "r.example.com/a/app:1", false),
            ("b", "nginx:1", true),
            ("b", "org/nginx:1", false),
            ("ci-x", "r.example.com/a/app:1", true),
            ("ci", "r.example.com/a/app:1", false),
        ] {
            assert_eq!(may(&rules, namespace, image, "Docker"), expected, "{namespace} {image}");
            assert!(!may(&[], namespace, image, "Containerd"));
            assert!(may(&["*=*"], namespace, image, "Containerd"));
            assert!(may(&[], namespace, image, "Registry"));
        }
    }

    #[test]
    fn a_digest_without_a_tag_matches_no_pattern() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let rules = ["a=r.example.com/a/*", "*=docker.io/library/*", "ci=*"];
        for source in ["Docker", "Containerd"] {
            let alone = format!("r.example.com/a/app@{digest}");
            assert!(!may(&rules, "a", &alone, source));
            assert!(may(&rules, "ci", &alone, source));
            assert!(may(&rules, "a", &format!("r.example.com/a/app:1@{digest}"), source));
        }
        // An engine takes this name for an image ID.
        assert!(!may(&rules, "a", &digest, "Docker"));
        assert!(!may(&rules, "a", "sha256:abcd", "Docker"));
    }

    #[test]
    fn invalid_rules_are_refused() {
        for bad in ["", "a", "=x/y", "a=", "a=nginx", "A=x/y", "a=x/y z", "a=/x", "a b=*"] {
            assert!(bad.parse::<AdmitRule>().is_err(), "{bad}");
        }
    }
}
