//! What the cluster says of the installation: the ConfigMap `jackal-bootstrap`.

use std::collections::BTreeMap;

use kube::api::DynamicObject;
use serde_json::{Value, json};

use super::Cluster;
use crate::bootstrap::install::{Kind, LABEL, NAMESPACE, Object};
use crate::bootstrap::steps::Step;
use crate::fault::{Fault, Reason};

/// The name of the ConfigMap.
pub const STATE: &str = "jackal-bootstrap";

/// The state of the installation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The digest of what the archive holds.
    pub archive: String,
    /// The version of the operator; may be empty.
    pub version: String,
    /// The step that was begun last.
    pub step: Step,
    /// When the first run with this archive began, in seconds since 1970.
    pub started: u64,
    /// Values for `helm upgrade --install`, as JSON.
    pub values: String,
}

impl State {
    /// The ConfigMap.
    ///
    /// # Errors
    /// Never for the kind that is in the list.
    pub fn object(&self) -> Result<Object, Fault> {
        let content = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": STATE, "namespace": NAMESPACE, "labels": {LABEL: "true"}},
            "data": {
                "archive": self.archive,
                "version": self.version,
                "step": self.step.name(),
                "started": self.started.to_string(),
                "values.yaml": self.values,
            },
        });
        Object::new(content, NAMESPACE)
    }

    /// Reads the ConfigMap.
    fn of(object: &DynamicObject) -> Option<Self> {
        let data: BTreeMap<String, String> = match &object.data["data"] {
            Value::Object(data) => data
                .iter()
                .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
                .collect(),
            _ => return None,
        };
        let text = |key: &str| data.get(key).cloned().unwrap_or_default();
        Some(Self {
            archive: data.get("archive")?.clone(),
            version: text("version"),
            step: Step::named(&text("step"))?,
            started: text("started").parse().unwrap_or(0),
            values: text("values.yaml"),
        })
    }

    /// Whether the installation is complete.
    pub fn is_finished(&self) -> bool {
        self.step == Step::Finished
    }
}

impl Cluster {
    /// The state of the installation; `None` where there is none.
    ///
    /// # Errors
    /// A fault of the API server, or a stalled one, where the ConfigMap is not one of ours.
    pub async fn state(&self) -> Result<Option<State>, Fault> {
        let kind = Kind::of("v1", "ConfigMap").unwrap_or(&crate::bootstrap::install::KINDS[0]);
        let api = self.api(kind, Some(NAMESPACE));
        let found = self
            .call(&format!("reading ConfigMap {NAMESPACE}/{STATE}"), async || {
                api.get_opt(STATE).await
            })
            .await?;
        let Some(object) = found else { return Ok(None) };
        match State::of(&object) {
            Some(state) => Ok(Some(state)),
            None => Err(Fault::stalled(
                Reason::InvalidSpec,
                format!(
                    "the ConfigMap {NAMESPACE}/{STATE} is not the state of a bootstrap; delete it and repeat the command"
                ),
            )),
        }
    }
}
