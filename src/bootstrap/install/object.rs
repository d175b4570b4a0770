//! One object of an installation.

use std::fmt;

use serde_json::{Map, Value};

use super::kind::{Kind, Stage};
use crate::fault::{Fault, Reason};

/// The most characters of an external text in a message.
const SHOWN: usize = 100;

/// An object to apply.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// Its kind.
    pub kind: &'static Kind,
    /// Its namespace; `None` for an object without one.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// The whole object.
    pub content: Value,
}

impl fmt::Display for Object {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} ", self.kind.kind)?;
        match &self.namespace {
            Some(namespace) => write!(formatter, "{namespace}/{}", self.name),
            None => formatter.write_str(&self.name),
        }
    }
}

impl Object {
    /// The object `content`. One of a namespaced kind that names no namespace is in `namespace`.
    ///
    /// # Errors
    /// A stalled fault that names the object, where its kind is not one of [`super::KINDS`] or it has no usable name.
    pub fn new(mut content: Value, namespace: &str) -> Result<Self, Fault> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (version, kind) = (text(&content["apiVersion"]), text(&content["kind"]));
        let name = text(&content["metadata"]["name"]);
        let shown: String = format!("{kind} {name} ({version})").chars().take(SHOWN).collect();
        let refused = |what: &str| {
            let message =
                format!("the installation has the object {shown:?}, {what}; pack an operator's image of a release");
            Fault::stalled(Reason::InvalidSpec, message)
        };
        let kind = Kind::of(&version, &kind).ok_or_else(|| refused("whose kind bootstrap does not install"))?;
        if !is_name(&name) {
            return Err(refused("which has no usable name"));
        }
        let own = text(&content["metadata"]["namespace"]);
        let namespace = match (kind.namespaced, own.is_empty()) {
            (false, true) => None,
            (false, false) => return Err(refused("which cannot be in a namespace")),
            (true, true) => Some(namespace.to_owned()),
            (true, false) if is_name(&own) => Some(own),
            (true, false) => return Err(refused("which has no usable namespace")),
        };
        if let Some(namespace) = &namespace {
            content["metadata"]["namespace"] = Value::from(namespace.as_str());
        }
        Ok(Self {
            kind,
            namespace,
            name,
            content,
        })
    }

    /// When it is applied.
    pub fn stage(&self) -> Stage {
        match self.is_node_port() {
            true => Stage::NodePort,
            false => self.kind.stage,
        }
    }

    /// Whether it is a Service with a port on every node.
    pub fn is_node_port(&self) -> bool {
        self.kind.kind == "Service" && self.content["spec"]["type"] == "NodePort"
    }

    /// Sets entries of its labels or annotations (`field`).
    pub(super) fn set_metadata<'a>(&mut self, field: &str, entries: impl IntoIterator<Item = (&'a str, &'a str)>) {
        let known = &mut self.content["metadata"][field];
        if !known.is_object() {
            *known = Value::Object(Map::new());
        }
        for (key, value) in entries {
            known[key] = Value::from(value);
        }
    }

    /// The specification of its pods, if it makes pods.
    pub fn pod_spec(&self) -> Option<&Value> {
        let template = match self.kind.kind {
            "CronJob" => &self.content["spec"]["jobTemplate"]["spec"]["template"],
            "DaemonSet" | "StatefulSet" | "Deployment" | "Job" => &self.content["spec"]["template"],
            _ => return None,
        };
        Some(&template["spec"])
    }
}

/// Whether `name` can be the name of an object: a path segment (RFC 1123 subdomains, and the colons of RBAC).
fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.:".contains(&byte);
    let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    name.len() <= 253 && name.bytes().all(plain) && ends(bytes.first()) && ends(bytes.last())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn objects_have_a_known_kind_and_a_name() {
        let object =
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"type": "NodePort"}});
        let service = Object::new(object.clone(), "system").unwrap();
        assert_eq!(service.to_string(), "Service system/a");
        assert_eq!(service.content["metadata"]["namespace"], "system");
        assert_eq!(service.stage(), Stage::NodePort);
        let with = |pointer: &str, value: Value| {
            let mut object = object.clone();
            *object.pointer_mut(pointer).unwrap() = value;
            Object::new(object, "system").unwrap_err().message
        };
        assert!(with("/kind", json!("Pod")).contains("\"Pod a (v1)\", whose kind"));
        for name in [
            json!(""),
            json!(1),
            json!("../a"),
            json!("a/b"),
            json!("A"),
            json!("-a"),
            json!("a".repeat(254)),
        ] {
            assert!(with("/metadata/name", name).contains("which has no usable name"));
        }
        assert!(with("/metadata", json!({"name": "a", "namespace": "a/b"})).contains("no usable namespace"));
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a", "namespace": "b"}});
        assert!(
            Object::new(namespace, "system")
                .unwrap_err()
                .message
                .contains("cannot be in a namespace")
        );
    }
}
