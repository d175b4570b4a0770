//! Where the registry keeps its content.

use std::fmt;
use std::str::FromStr;

use serde_json::{Value, json};

use super::{Object, REGISTRY};
use crate::fault::{Fault, Reason};

/// A size as Kubernetes writes it, such as `20Gi`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Size(String);

impl Size {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The number of bytes.
    pub fn bytes(&self) -> u64 {
        let (number, unit) = split(&self.0);
        let factor = UNITS
            .iter()
            .find(|(known, _)| *known == unit)
            .map_or(1, |(_, factor)| *factor);
        number.parse::<u64>().unwrap_or(0).saturating_mul(factor)
    }
}

/// The units of sizes, with their bytes.
const UNITS: [(&str, u64); 11] = [
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("Pi", 1 << 50),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("P", 1_000_000_000_000_000),
    ("", 1),
];

/// The number and the unit of a size.
fn split(text: &str) -> (&str, &str) {
    let unit = text.trim_start_matches(|letter: char| letter.is_ascii_digit());
    text.split_at(text.len() - unit.len())
}

impl fmt::Display for Size {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = split(text);
        match number.parse::<u64>() {
            Ok(1..) if UNITS.iter().any(|(known, _)| *known == unit) => Ok(Self(text.to_owned())),
            _ => Err(format!("`{text}` is not a size, such as 20Gi")),
        }
    }
}

/// The volume of the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Storage {
    /// A PersistentVolumeClaim.
    Claim {
        /// The storage class; `None` for the default of the cluster.
        class: Option<String>,
        /// The size; `None` for the chart's.
        size: Option<Size>,
    },
    /// An emptyDir, whose content is lost with the pod.
    Ephemeral {
        /// The limit of its size; `None` for the chart's size of a claim.
        size: Option<Size>,
    },
}

/// Sets the storage of the registry, where `object` is it.
///
/// # Errors
/// A stalled fault, where the registry has no volume for its content.
pub(super) fn apply(object: &mut Object, storage: &Storage) -> Result<(), Fault> {
    if object.kind.kind != "StatefulSet" || object.name != REGISTRY {
        return Ok(());
    }
    let refused = Fault::stalled(
        Reason::InvalidSpec,
        format!("{object} has no claim for its content; pack an operator's image of a release"),
    );
    let spec = &mut object.content["spec"];
    let Some([claim]) = spec["volumeClaimTemplates"].as_array_mut().map(Vec::as_mut_slice) else {
        return Err(refused);
    };
    match storage {
        Storage::Claim { class, size } => {
            if let Some(class) = class {
                claim["spec"]["storageClassName"] = Value::from(class.as_str());
            }
            if let Some(size) = size {
                claim["spec"]["resources"]["requests"]["storage"] = Value::from(size.as_str());
            }
        }
        Storage::Ephemeral { size } => {
            let limit = match size {
                Some(size) => Value::from(size.as_str()),
                None => claim["spec"]["resources"]["requests"]["storage"].clone(),
            };
            let volume = json!({"name": claim["metadata"]["name"], "emptyDir": {"sizeLimit": limit}});
            let Some(volumes) = spec["template"]["spec"]["volumes"].as_array_mut() else {
                return Err(refused);
            };
            volumes.push(volume);
            if let Some(spec) = spec.as_object_mut() {
                spec.remove("volumeClaimTemplates");
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_quantities() {
        for good in ["1", "20Gi", "500M", "9k"] {
            assert_eq!(good.parse::<Size>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            "Gi",
            "0",
            "0Gi",
            "-1",
            "1.5Gi",
            "20GB",
            "20 Gi",
            "99999999999999999999",
            "1ä",
        ] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
        let bytes = |text: &str| text.parse::<Size>().unwrap().bytes();
        assert_eq!((bytes("20Gi"), bytes("5k"), bytes("7")), (20 << 30, 5000, 7));
    }
}
