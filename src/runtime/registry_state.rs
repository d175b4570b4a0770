//! The registry in the cluster's state, which Jackal and Zarf write when they initialise a cluster. Only the Secret that the
//! administrator names is read: otherwise anyone who may create a namespace could set the registry of all objects.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use k8s_openapi::api::core::v1::Secret;
use serde::Deserialize;

use super::secrets::entry;
use crate::decode;
use crate::oci::{Naming, split_port};
use crate::registry::Credentials;

/// The Secret with the cluster's state: NAMESPACE/NAME.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateSecret {
    pub(super) namespace: String,
    pub(super) name: String,
    /// The naming of the webhook of the tool that wrote the state.
    naming: Naming,
}

/// Text that is not the name of a Secret with a state.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "`{0}` is not NAMESPACE/NAME, such as zarf/zarf-state or jackal/jackal-state; the name must be zarf-state or jackal-state"
)]
pub struct StateSecretError(String);

impl FromStr for StateSecret {
    type Err = StateSecretError;

    fn from_str(text: &str) -> Result<Self, StateSecretError> {
        let error = || StateSecretError(text.chars().take(160).collect());
        let (namespace, name) = text.split_once('/').ok_or_else(error)?;
        let naming = match name {
            "jackal-state" => Naming::Jackal,
            "zarf-state" => Naming::Zarf,
            _ => return Err(error()),
        };
        let is_label = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if namespace.is_empty() || !namespace.bytes().all(is_label) {
            return Err(error());
        }
        Ok(Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            naming,
        })
    }
}

impl fmt::Display for StateSecret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.namespace, self.name)
    }
}

/// The registry in a cluster's state.
#[derive(Clone, Debug)]
pub(super) struct State {
    /// Host and port as pods write it.
    pub address: String,
    /// Host and port at which the operator reaches it.
    pub endpoint: String,
    /// The path prefix of all repositories.
    pub prefix: Option<String>,
    /// Whether it runs in the cluster, where it serves plain HTTP.
    pub is_internal: bool,
    /// The credentials for pushing.
    pub credentials: Option<Credentials>,
    /// The naming of the webhook.
    pub naming: Naming,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    registry_info: Registry,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Registry {
    address: String,
    #[serde(default)]
    push_username: String,
    #[serde(default)]
    push_password: String,
    /// `nodeport`, `proxy` or `external`; absent in the states of earlier versions.
    #[serde(default)]
    registry_mode: String,
    /// The field of earlier versions.
    #[serde(default)]
    internal_registry: Option<bool>,
}

impl Registry {
    /// Without a mode, Zarf takes a loopback address for the cluster's own registry: it is the NodePort on the nodes.
    fn is_internal(&self) -> bool {
        match (self.registry_mode.as_str(), self.internal_registry) {
            ("", Some(internal)) => internal,
            ("", None) => {
                let (name, _) = split_port(self.address.split('/').next().unwrap_or_default());
                let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
                name == "localhost" || address.is_ok_and(|address| address.is_loopback())
            }
            (mode, _) => !mode.eq_ignore_ascii_case("external"),
        }
    }
}

impl State {
    /// The state in `secret`, whose name is `named`; none if it contains no valid state.
    pub fn read(named: &StateSecret, secret: &Secret) -> Option<Self> {
        let stored: Stored = decode::json(entry(secret, "state")?).ok()?;
        let registry = stored.registry_info;
        let is_internal = registry.is_internal();
        // The address of an external registry may have a path, such as a project.
        let (address, path) = registry.address.split_once('/').unwrap_or((&registry.address, ""));
        let path = path.trim_matches('/');
        if address.is_empty() {
            return None;
        }
        let tool = match named.naming {
            Naming::Zarf => "zarf",
            _ => "jackal",
        };
        let service = || format!("{tool}-docker-registry.{}.svc.cluster.local:5000", named.namespace);
        let named_user = !registry.push_username.is_empty();
        Some(Self {
            address: address.to_owned(),
            endpoint: if is_internal { service() } else { address.to_owned() },
            prefix: (!path.is_empty()).then(|| path.to_owned()),
            is_internal,
            credentials: named_user
                .then(|| Credentials::new(registry.push_username.clone(), registry.push_password.clone())),
            naming: named.naming,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(named: &str, registry: Value) -> Option<State> {
        let state = json!({ "registryInfo": registry }).to_string();
        let secret =
            serde_json::from_value(json!({ "data": { "state": k8s_openapi::ByteString(state.into_bytes()) } }));
        State::read(&named.parse().unwrap(), &secret.unwrap())
    }

    #[test]
    fn an_internal_registry_is_reached_at_its_service() {
        for registry in [
            json!({ "address": "127.0.0.1:31999", "nodePort": 31999 }),
            json!({ "address": "[::1]:31999" }),
            json!({ "address": "10.0.0.1:5000", "registryMode": "proxy" }),
            json!({ "address": "registry.example:5000", "internalRegistry": true }),
        ] {
            let state = read("zarf/zarf-state", registry.clone()).unwrap();
            assert_eq!(
                state.endpoint, "zarf-docker-registry.zarf.svc.cluster.local:5000",
                "{registry}"
            );
            assert!(state.is_internal && state.prefix.is_none());
        }
        let state = read(
            "tools/jackal-state",
            json!({ "address": "127.0.0.1:1", "pushUsername": "u" }),
        )
        .unwrap();
        assert_eq!(state.endpoint, "jackal-docker-registry.tools.svc.cluster.local:5000");
        assert_eq!(
            (state.naming, state.credentials.unwrap().username.as_str()),
            (Naming::Jackal, "u")
        );
    }

    #[test]
    fn an_external_registry_is_reached_at_its_address() {
        for registry in [
            json!({ "address": "gitlab.example.com/project/images" }),
            json!({ "address": "gitlab.example.com/project/images/", "registryMode": "external" }),
            json!({ "address": "gitlab.example.com/project/images", "internalRegistry": false, "nodePort": 31999 }),
        ] {
            let state = read("zarf/zarf-state", registry.clone()).unwrap();
            assert_eq!(
                (state.address.as_str(), state.endpoint.as_str()),
                ("gitlab.example.com", "gitlab.example.com")
            );
            assert_eq!(state.prefix.as_deref(), Some("project/images"), "{registry}");
            assert!(!state.is_internal);
        }
        assert!(read("zarf/zarf-state", json!({ "address": "" })).is_none());
    }

    #[test]
    fn names_of_other_secrets_are_refused() {
        for bad in [
            "",
            "zarf-state",
            "zarf/",
            "/zarf-state",
            "zarf/other",
            "a b/zarf-state",
            "a/b/zarf-state",
        ] {
            assert!(bad.parse::<StateSecret>().is_err(), "{bad}");
        }
        assert_eq!(
            "a/zarf-state".parse::<StateSecret>().unwrap().to_string(),
            "a/zarf-state"
        );
    }
}
