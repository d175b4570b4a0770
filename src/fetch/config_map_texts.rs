//! The texts of manifests and values, from the spec and from ConfigMaps.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::Mutex;

use super::ContentAccess;
use crate::api::v1alpha1::{ChartSpec, ConfigMapReference, ManifestSpec};
use crate::decode;
use crate::fault::{Fault, Reason};
use crate::package::component::manifests_of;
use crate::package::yaml;

/// The most bytes that a package may take from ConfigMaps. They are in memory until it is published.
const LIMIT: usize = 64 * 1024 * 1024;
/// The default entry of a ConfigMap with values.
const VALUES: &str = "values.yaml";

/// Reads the texts of one package, each ConfigMap once.
pub(super) struct ConfigMapTexts<'a> {
    access: &'a dyn ContentAccess,
    read: Mutex<BTreeMap<String, Arc<BTreeMap<String, String>>>>,
    bytes: AtomicUsize,
}

impl<'a> ConfigMapTexts<'a> {
    pub fn new(access: &'a dyn ContentAccess) -> Self {
        Self {
            access,
            read: Mutex::default(),
            bytes: AtomicUsize::new(0),
        }
    }

    /// The texts of a group of manifests, each of which was validated.
    pub async fn manifests(&self, spec: &ManifestSpec) -> Result<Vec<Bytes>, Fault> {
        let Some(reference) = &spec.config_map_ref else {
            // It was validated with the rest of the spec.
            return Ok(vec![spec.inline.clone().unwrap_or_default().into()]);
        };
        let entries = self.entries(reference).await?;
        entries
            .into_iter()
            .map(|(key, text)| match manifests_of(&text) {
                Ok(_) => self.counted(text),
                Err(why) => Err(unavailable(format!(
                    "entry {key} of the ConfigMap {} {why}; correct it as `kubectl apply` would take it",
                    reference.name
                ))),
            })
            .collect()
    }

    /// The values of a chart: those from ConfigMaps, then its own.
    pub async fn values(&self, spec: &ChartSpec) -> Result<Vec<Bytes>, Fault> {
        let mut values = Vec::with_capacity(spec.values_from.len() + 1);
        for source in &spec.values_from {
            let reference = ConfigMapReference {
                key: source.config_map_ref.key.clone().or_else(|| Some(VALUES.to_owned())),
                ..source.config_map_ref.clone()
            };
            for (key, text) in self.entries(&reference).await? {
                if let Err(why) = values_of(&text) {
                    return Err(unavailable(format!(
                        "entry {key} of the ConfigMap {} {why}; write it as a chart's values.yaml",
                        reference.name
                    )));
                }
                values.push(self.counted(text)?);
            }
        }
        if let Some(own) = spec.values.as_ref().filter(|own| !own.is_empty()) {
            let text = yaml(own).map_err(|error| {
                Fault::stalled(
                    Reason::InvalidSpec,
                    format!("its values cannot be written as YAML: {error}"),
                )
            })?;
            values.push(text.into());
        }
        Ok(values)
    }

    async fn entries(&self, reference: &ConfigMapReference) -> Result<Vec<(String, String)>, Fault> {
        let name = &reference.name;
        let mut read = self.read.lock().await;
        let data = match read.get(name) {
            Some(data) => Arc::clone(data),
            None => {
                let data = Arc::new(self.access.config_map(name).await?);
                read.insert(name.clone(), Arc::clone(&data));
                data
            }
        };
        match &reference.key {
            Some(key) => match data.get(key) {
                Some(text) => Ok(vec![(key.clone(), text.clone())]),
                None => Err(unavailable(format!(
                    "the ConfigMap {name} has no entry {key} in its data; add it, or correct key"
                ))),
            },
            None if data.is_empty() => Err(unavailable(format!(
                "the data of the ConfigMap {name} is empty; add manifests"
            ))),
            None => Ok(data.iter().map(|(key, text)| (key.clone(), text.clone())).collect()),
        }
    }

    fn counted(&self, text: String) -> Result<Bytes, Fault> {
        if self.bytes.fetch_add(text.len(), Ordering::Relaxed) + text.len() > LIMIT {
            return Err(Fault::stalled(
                Reason::InvalidSpec,
                format!("the package takes more than {LIMIT} bytes from ConfigMaps; split it into two packages"),
            ));
        }
        Ok(text.into())
    }
}

/// The fields of a text with values. The error completes a sentence about the text, such as `is not YAML: …`.
pub(super) fn values_of(text: &str) -> Result<serde_json::Map<String, Value>, String> {
    match decode::yaml::<Value>(text) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(Value::Null) => Ok(serde_json::Map::new()),
        Ok(_) => Err("is YAML without fields".to_owned()),
        Err(error) => {
            let why = error.to_string();
            Err(format!("is not YAML: {}", why.lines().next().unwrap_or_default()))
        }
    }
}

fn unavailable(message: String) -> Fault {
    Fault::retryable(Reason::ConfigMapUnavailable, message)
}
