//! What the user asks for. No IO.

use kube::api::DynamicObject;

use crate::bootstrap::install::{Expose, Size, Storage};
use crate::fault::{Fault, Reason};

/// How to install.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How nodes reach the registry; `None` for what fits the cluster.
    pub expose: Option<Expose>,
    /// What fits the cluster.
    pub recommended: Expose,
    /// Where the registry stores its content.
    pub storage: StorageFlags,
    /// Whether to continue with this archive where another one is not finished.
    pub replace: bool,
    /// Whether an earlier version may replace a later one.
    pub downgrade: bool,
    /// Whether the images are imported into the containerd of each node instead of being served there.
    pub import: bool,
    /// Whether seeds are used although a registry serves already.
    pub always_seed: bool,
}

/// The storage that the user asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StorageFlags {
    /// The storage class.
    pub class: Option<String>,
    /// The size.
    pub size: Option<Size>,
    /// Whether the content may be lost with the pod.
    pub ephemeral: bool,
}

impl StorageFlags {
    fn is_set(&self) -> bool {
        *self != Self::default()
    }
}

/// The storage of the registry: that of the StatefulSet `registry` in the cluster, else as `flags` say. `classes` are the storage
/// classes of the cluster, and whether one of them is the default.
///
/// # Errors
/// A stalled fault, where the cluster has no such class, or the flags differ from what the registry has.
pub fn storage_of(
    flags: &StorageFlags,
    registry: Option<&DynamicObject>,
    classes: &(Vec<String>, bool),
) -> Result<Storage, Fault> {
    let refused = |message: String| Fault::stalled(Reason::InvalidSpec, message);
    if let Some(registry) = registry {
        let existing = existing(registry);
        let differs = match &existing {
            Storage::Claim { class, size } => {
                flags.ephemeral
                    || (flags.class.is_some() && flags.class != *class)
                    || (flags.size.is_some() && flags.size != *size)
            }
            Storage::Ephemeral { size } => {
                flags.is_set() && (!flags.ephemeral || (flags.size.is_some() && flags.size != *size))
            }
        };
        return match differs {
            true => Err(refused(
                "the storage of the registry that the cluster has cannot be changed: leave out --storage-class, --storage-size \
                 and --ephemeral-storage, or remove the installation with --undo --delete-data first"
                    .to_owned(),
            )),
            false => Ok(existing),
        };
    }
    if flags.ephemeral {
        return Ok(Storage::Ephemeral {
            size: flags.size.clone(),
        });
    }
    let (names, has_default) = classes;
    match &flags.class {
        Some(class) if !names.contains(class) => Err(refused(format!(
            "the cluster has no storage class {class}; it has: {}",
            match names.as_slice() {
                [] => "none".to_owned(),
                names => names.join(", "),
            }
        ))),
        None if !has_default => Err(refused(match names.as_slice() {
            [] => "the cluster has no storage class for the registry: install one, or store the images without a volume with \
                   --ephemeral-storage (and --storage-size); then they are lost with the registry's pod, and a repetition of \
                   bootstrap uploads them again"
                .to_owned(),
            names => format!(
                "the cluster has no default storage class for the registry: choose one with --storage-class ({})",
                names.join(", ")
            ),
        })),
        class => Ok(Storage::Claim {
            class: class.clone(),
            size: flags.size.clone(),
        }),
    }
}

/// The storage of a registry.
fn existing(registry: &DynamicObject) -> Storage {
    let spec = &registry.data["spec"];
    let size = |value: &serde_json::Value| value.as_str().and_then(|text| text.parse().ok());
    match spec["volumeClaimTemplates"].get(0) {
        Some(claim) => Storage::Claim {
            class: claim["spec"]["storageClassName"].as_str().map(str::to_owned),
            size: size(&claim["spec"]["resources"]["requests"]["storage"]),
        },
        None => {
            let volumes = spec["template"]["spec"]["volumes"].as_array().into_iter().flatten();
            let mut limits = volumes.map(|volume| &volume["emptyDir"]["sizeLimit"]);
            Storage::Ephemeral {
                size: limits.find_map(size),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn flags(class: &str, size: &str, ephemeral: bool) -> StorageFlags {
        StorageFlags {
            class: (!class.is_empty()).then(|| class.to_owned()),
            size: size.parse().ok(),
            ephemeral,
        }
    }

    fn claim(class: &str, size: &str) -> Storage {
        let StorageFlags { class, size, .. } = flags(class, size, false);
        Storage::Claim { class, size }
    }

    #[test]
    fn a_class_is_chosen_or_asked_for() {
        let none = (Vec::new(), false);
        let some = (vec!["fast".to_owned(), "slow".to_owned()], false);
        let default = (vec!["fast".to_owned()], true);
        let of = |flags: &StorageFlags, classes| storage_of(flags, None, classes);
        let plain = StorageFlags::default();
        assert_eq!(of(&plain, &default).unwrap(), claim("", ""));
        assert_eq!(of(&flags("slow", "9Gi", false), &some).unwrap(), claim("slow", "9Gi"));
        assert_eq!(
            of(&flags("", "9Gi", true), &none).unwrap(),
            Storage::Ephemeral {
                size: "9Gi".parse().ok()
            }
        );
        for (flags, classes, part) in [
            (&plain, &none, "--ephemeral-storage"),
            (&plain, &some, "--storage-class (fast, slow)"),
            (
                &flags("other", "", false),
                &some,
                "no storage class other; it has: fast, slow",
            ),
            (&flags("other", "", false), &none, "it has: none"),
        ] {
            let message = of(flags, classes).unwrap_err().message;
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn a_registry_keeps_its_storage() {
        let registry = |spec: serde_json::Value| -> DynamicObject {
            serde_json::from_value(
                json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {}, "spec": spec}),
            )
            .unwrap()
        };
        let none = (Vec::new(), false);
        let spec = json!({"storageClassName": "fast", "resources": {"requests": {"storage": "20Gi"}}});
        let claimed = registry(json!({"volumeClaimTemplates": [{"spec": spec}]}));
        let of = |flags: &StorageFlags, registry| storage_of(flags, Some(registry), &none);
        assert_eq!(of(&StorageFlags::default(), &claimed).unwrap(), claim("fast", "20Gi"));
        assert_eq!(
            of(&flags("fast", "20Gi", false), &claimed).unwrap(),
            claim("fast", "20Gi")
        );
        for other in [flags("slow", "", false), flags("", "1Gi", false), flags("", "", true)] {
            assert!(of(&other, &claimed).unwrap_err().message.contains("cannot be changed"));
        }
        let volumes = json!([{"configMap": {}}, {"emptyDir": {"sizeLimit": "3Gi"}}]);
        let ephemeral = registry(json!({"template": {"spec": {"volumes": volumes}}}));
        let kept = Storage::Ephemeral {
            size: "3Gi".parse().ok(),
        };
        assert_eq!(of(&StorageFlags::default(), &ephemeral).unwrap(), kept);
        assert_eq!(of(&flags("", "3Gi", true), &ephemeral).unwrap(), kept);
        for other in [
            flags("slow", "", false),
            flags("", "4Gi", true),
            flags("", "3Gi", false),
        ] {
            assert!(of(&other, &ephemeral).is_err());
        }
    }
}
