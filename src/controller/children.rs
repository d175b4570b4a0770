//! The `JackalImage` objects of a package: creates, changes and deletes them as its plan says.

use std::collections::{BTreeMap, HashMap, HashSet};

use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, Client, Resource as _, ResourceExt as _};

use crate::api::v1alpha1::{ImageOrigin, JackalImage, JackalImageSpec, JackalPackage, requested_at};
use crate::fault::{Fault, Reason};
use crate::oci::{Digest, ReferrersPolicy};
use crate::package::{ImageRequest, Plan, PlannedImage};
use crate::runtime::{kube_fault, with_timeout};

/// The field manager of what the controller applies.
pub(super) const FIELD_MANAGER: &str = "jackal-operator";
/// The label that names the package's uid on its images.
pub const PACKAGE_LABEL: &str = "jackal.dev/package-uid";
/// The label that names the package on its images, as [`label_of`] writes it.
const PACKAGE_NAME_LABEL: &str = "jackal.dev/package-name";
/// The longest name of an image's object, so that `kubectl get jkpkg,jkimg` fits a terminal: it writes the kind before
/// the name.
const NAME_LENGTH: usize = 29;
/// The longest value of a label.
const LABEL_LIMIT: usize = 63;
/// The annotation that passes a request for a reconciliation on to the images.
const REQUESTED_AT: &str = crate::api::v1alpha1::REQUESTED_AT[0];

type Guarded = DeserializeGuard<JackalImage>;

/// Objects by name; one that cannot be decoded is `None`.
type ExistingObjects = BTreeMap<String, Option<JackalImage>>;

/// The names of objects that have other names than new ones would have: earlier versions of the operator derived the name
/// of a request from the order in which its platforms were written.
pub(super) type LegacyNames = HashMap<ImageRequest, String>;

/// The images of one package.
pub(super) struct Children<'a> {
    client: &'a Client,
    package: &'a JackalPackage,
}

impl<'a> Children<'a> {
    pub fn of(client: &'a Client, package: &'a JackalPackage) -> Self {
        Self { client, package }
    }

    /// Applies the objects of `plan` that differ, and deletes those that are not in the plan. Gives the objects in the order of
    /// the plan.
    ///
    /// Objects that are not in the plan are found by a list from the API server only. There is none where `known`, the watched
    /// objects and the names of an earlier version, has every object of the plan: the cost of a list grows with the number
    /// of images in the namespace, and it would be repeated at each change of one.
    pub async fn sync(
        &self,
        plan: &Plan,
        known: Option<(&Store<Guarded>, &LegacyNames)>,
    ) -> Result<Vec<JackalImage>, Fault> {
        let watched = known.and_then(|(known, names)| self.watched(plan, known, names));
        let from_watch = watched.is_some();
        let mut existing = match watched {
            Some(existing) => existing,
            None => self.list().await?,
        };
        let mut images = Vec::with_capacity(plan.images.len());
        for (planned, name) in plan.images.iter().zip(self.names(plan, &existing)) {
            let mut found = existing.remove(&name).flatten();
            let mut wanted = self.wanted(planned, &name, found.as_ref());
            // The watch may be behind what was applied a moment ago.
            if from_watch && !found.as_ref().is_some_and(|found| is_as_wanted(found, &wanted)) {
                found = self.get(&name).await?;
                wanted = self.wanted(planned, &name, found.as_ref());
            }
            images.push(match found {
                Some(found) if is_as_wanted(&found, &wanted) => found,
                _ => self.apply(&wanted).await?,
            });
        }
        for name in existing.keys() {
            self.delete(name).await?;
        }
        Ok(images)
    }

    /// Those of `images`, the objects of `plan` in its order, that have names of an earlier version.
    pub fn legacy_names(&self, plan: &Plan, images: &[JackalImage]) -> LegacyNames {
        let named = plan.images.iter().zip(images);
        named
            .map(|(planned, image)| (planned, image.name_any()))
            .filter(|(planned, name)| *name != image_name(&self.package.name_any(), &planned.request))
            .map(|(planned, name)| (planned.request.clone(), name))
            .collect()
    }

    /// The name of the object of each image of the plan: that of an existing object of the same request, else a new one.
    fn names(&self, plan: &Plan, existing: &ExistingObjects) -> Vec<String> {
        let package = self.package.name_any();
        let mut names: Vec<String> = plan
            .images
            .iter()
            .map(|planned| image_name(&package, &planned.request))
            .collect();
        let taken: HashSet<&String> = names.iter().filter(|name| existing.contains_key(*name)).collect();
        if taken.len() == names.len() {
            return names;
        }
        let others = existing.iter().filter(|(name, _)| !taken.contains(name));
        let mut others: LegacyNames = others
            .filter_map(|(name, object)| Some((name, object.as_ref()?)))
            .filter(|(_, object)| object.metadata.deletion_timestamp.is_none())
            .filter_map(|(name, object)| Some((ImageRequest::of_object(&object.spec).ok()?, name.clone())))
            .collect();
        for (planned, name) in plan.images.iter().zip(&mut names) {
            if !existing.contains_key(name)
                && let Some(earlier) = others.remove(&planned.request)
            {
                *name = earlier;
            }
        }
        names
    }

    /// Deletes all objects of the package. True when none is left.
    pub async fn clear(&self) -> Result<bool, Fault> {
        let existing = self.list().await?;
        for name in existing.keys() {
            self.delete(name).await?;
        }
        Ok(existing.is_empty())
    }

    /// The plan's objects as watched; none where this process has not seen all of them.
    fn watched(&self, plan: &Plan, known: &Store<Guarded>, names: &LegacyNames) -> Option<ExistingObjects> {
        let mut existing = ExistingObjects::new();
        for planned in &plan.images {
            let name = names.get(&planned.request).cloned();
            let name = name.unwrap_or_else(|| image_name(&self.package.name_any(), &planned.request));
            let object = known.get(&ObjectRef::new(&name).within(&self.namespace()))?;
            existing.insert(name, object.0.as_ref().ok().cloned());
        }
        Some(existing)
    }

    /// The objects of the package, from the API server.
    async fn list(&self) -> Result<ExistingObjects, Fault> {
        let api: Api<Guarded> = Api::namespaced(self.client.clone(), &self.namespace());
        let label = format!("{PACKAGE_LABEL}={}", self.package.uid().unwrap_or_default());
        let list = with_timeout(api.list(&ListParams::default().labels(&label))).await;
        let list = list.map_err(|error| kube_fault(Reason::PackageFailed, "listing the package's images", &error))?;
        Ok(list
            .items
            .into_iter()
            .map(|item| (item.name_any(), item.0.ok()))
            .collect())
    }

    /// An object from the API server; none where it does not exist or cannot be decoded.
    async fn get(&self, name: &str) -> Result<Option<JackalImage>, Fault> {
        let api: Api<Guarded> = Api::namespaced(self.client.clone(), &self.namespace());
        let found = with_timeout(api.get_opt(name)).await;
        let found = found.map_err(|error| {
            kube_fault(
                Reason::PackageFailed,
                &format!("reading the JackalImage {name}"),
                &error,
            )
        })?;
        Ok(found.and_then(|found| found.0.ok()))
    }

    async fn apply(&self, wanted: &JackalImage) -> Result<JackalImage, Fault> {
        let api: Api<JackalImage> = Api::namespaced(self.client.clone(), &self.namespace());
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        let name = wanted.name_any();
        with_timeout(api.patch(&name, &parameters, &Patch::Apply(wanted)))
            .await
            .map_err(|error| {
                kube_fault(
                    Reason::PackageFailed,
                    &format!("applying the JackalImage {name}"),
                    &error,
                )
            })
    }

    async fn delete(&self, name: &str) -> Result<(), Fault> {
        let api: Api<PartialObjectMeta<JackalImage>> = Api::namespaced(self.client.clone(), &self.namespace());
        match with_timeout(api.delete(name, &DeleteParams::background())).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(kube_fault(
                Reason::PackageFailed,
                &format!("deleting the JackalImage {name}"),
                &error,
            )),
        }
    }

    /// The object `name` for an image of the plan. Where one of the same request is `found`, its notation is kept: another
    /// order of platforms makes no new generation.
    fn wanted(&self, planned: &PlannedImage, name: &str, found: Option<&JackalImage>) -> JackalImage {
        let package = &self.package.spec;
        let same = |found: &&JackalImage| ImageRequest::of_object(&found.spec).is_ok_and(|own| own == planned.request);
        let (written, own) = (&planned.spec, found.filter(same).map(|found| &found.spec));
        let spec = JackalImageSpec {
            image: own.map_or(&written.image, |own| &own.image).clone(),
            source: planned.request.source,
            from: written.archive.clone().map(|archive| ImageOrigin { archive }),
            node_name: planned.request.node_name.clone(),
            node_selector: own.map_or(&written.node_selector, |own| &own.node_selector).clone(),
            platforms: own.map_or(&written.platforms, |own| &own.platforms).clone(),
            registry: package.registry.clone(),
            image_pull_secrets: package.image_pull_secrets.clone(),
            service_account_name: package.service_account_name.clone(),
            source_registries: package.source_registries.clone(),
            interval: package.interval,
            stall_timeout: package.stall_timeout,
            suspend: package.suspend,
            naming: package.naming,
            plain_tag: planned.plain_tag,
            policy: None,
            compression: package.compression,
            referrers: match written.archive {
                // An archive has none.
                Some(_) => ReferrersPolicy::Ignore,
                None => package.referrers,
            },
            deletion_policy: package.deletion_policy,
            verify: planned.verify.clone(),
        };
        let mut image = JackalImage::new(name, spec);
        image.metadata.namespace = Some(self.namespace());
        image.metadata.owner_references = self.package.controller_owner_ref(&()).map(|owner| vec![owner]);
        image.metadata.labels = Some(BTreeMap::from([
            ("app.kubernetes.io/managed-by".to_owned(), "jackal-operator".to_owned()),
            (PACKAGE_LABEL.to_owned(), self.package.uid().unwrap_or_default()),
            (PACKAGE_NAME_LABEL.to_owned(), label_of(&self.package.name_any())),
        ]));
        image.metadata.annotations = requested_at(self.package.annotations())
            .map(|requested| BTreeMap::from([(REQUESTED_AT.to_owned(), requested.to_owned())]));
        image
    }

    fn namespace(&self) -> String {
        self.package.namespace().unwrap_or_default()
    }
}

/// A package's name as the value of a label. One that is longer than a label is its first 50 characters, without dots and
/// dashes at their end, a dash, and the first twelve digits of the SHA-256 of the whole.
fn label_of(package: &str) -> String {
    if package.len() <= LABEL_LIMIT {
        return package.to_owned();
    }
    let hash = Digest::of(package.as_bytes());
    let start: String = package.chars().take(LABEL_LIMIT - hash.short().len() - 1).collect();
    format!("{}-{}", start.trim_end_matches(['-', '.']), hash.short())
}

/// Whether an object is as wanted, so that it needs no write.
fn is_as_wanted(known: &JackalImage, wanted: &JackalImage) -> bool {
    known.spec == wanted.spec
        && known.metadata.deletion_timestamp.is_none()
        && known.owner_references() == wanted.owner_references()
        && wanted
            .labels()
            .iter()
            .all(|(key, value)| known.labels().get(key) == Some(value))
        && known.annotations().get(REQUESTED_AT) == wanted.annotations().get(REQUESTED_AT)
}

/// The name of an image's object. The hash is of the request, so that another source is another object.
fn image_name(package: &str, request: &ImageRequest) -> String {
    object_name(package, request.reference.repository(), &request.digest())
}

/// `<package>-<last part of the repository>-<hash>`: readable, and the same for the same request, independent of other
/// images of the package. Where that is longer than [`NAME_LENGTH`] both parts are shortened, and the hash is of the package
/// too.
fn object_name(package: &str, repository: &str, request: &Digest) -> String {
    let part: String = repository
        .rsplit('/')
        .next()
        .unwrap_or(repository)
        .chars()
        .map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' })
        .collect();
    let (package, part) = (package.trim_end_matches(['-', '.']), part.trim_matches('-'));
    let whole = format!("{package}-{part}-{}", request.short());
    if whole.len() <= NAME_LENGTH {
        return whole;
    }
    let hash = Digest::of(format!("{package} {request}").as_bytes());
    let readable = NAME_LENGTH - hash.short().len() - 2;
    let of_package: String = package
        .chars()
        .take(readable.saturating_sub(part.len()).max(readable / 2))
        .collect();
    let of_part: String = part.chars().take(readable - of_package.len()).collect();
    format!(
        "{}-{}-{}",
        of_package.trim_end_matches(['-', '.']),
        of_part.trim_end_matches('-'),
        hash.short()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_package_name_has_a_shortened_unique_label() {
        assert_eq!(label_of("shop"), "shop");
        let longest = "a".repeat(63);
        assert_eq!(label_of(&longest), longest);
        let (one, other) = (format!("{}.b", "a.".repeat(40)), format!("{}.c", "a.".repeat(40)));
        let label = label_of(&one);
        assert!(label.len() <= 63 && label != label_of(&other), "{label}");
        assert!(label.starts_with("a.a") && !label.contains(".-"), "{label}");
    }

    #[test]
    fn a_long_name_is_shortened_and_stays_unique() {
        let hash = Digest::of(b"request");
        let short = hash.short();
        assert_eq!(
            object_name("shop", "team/podinfo", &hash),
            format!("shop-podinfo-{short}")
        );
        let (eu, us) = ("payments-platform-production-eu", "payments-platform-production-us");
        let name = object_name(eu, "acme/payment-gateway-service", &hash);
        assert!(
            name.len() <= NAME_LENGTH && name.starts_with("payment-payment-"),
            "{name}"
        );
        assert_ne!(name, object_name(us, "acme/payment-gateway-service", &hash));
        assert_ne!(
            name,
            object_name(eu, "acme/payment-gateway-service", &Digest::of(b"other"))
        );
        assert!(object_name(eu, "app", &hash).starts_with("payments-pla-app-"));
        assert!(object_name("a.b", &"x_".repeat(60), &hash).starts_with("a.b-x-x-x-x-x-x-"));
        // A name ends each part with a letter or digit.
        let name = object_name("payments.eu-central", "acme/gateway.service.internal", &hash);
        assert!(!name.contains("--") && !name.contains(".-"), "{name}");
    }

    #[test]
    fn a_line_of_kubectl_get_fits_120_columns() {
        let name = "jackalimage.jackal.dev/".len() + NAME_LENGTH;
        // The widest value of each column, with the gaps between columns: READY, SIZE, PROGRESS, AGE.
        let columns = ["Unknown", "9999 MiB", "99% 999 MiB/s", "9m59s"].map(|cell| cell.len() + 3);
        let status = Reason::AuthenticationFailed.to_string().len();
        assert!(name + 3 + columns.iter().sum::<usize>() + status <= 120);
    }

    fn request(text: &str) -> ImageRequest {
        ImageRequest::of(&serde_saphyr::from_str(text).unwrap()).unwrap()
    }

    // Each version has to find the objects of the version before.
    #[test]
    fn names_do_not_change_between_versions() {
        for (package, image, name) in [
            ("shop", "image: nginx:1", "shop-nginx-1a09598adcc1"),
            (
                "shop",
                "{image: 'docker.io/library/nginx:1', nodeSelector: {}}",
                "shop-nginx-1a09598adcc1",
            ),
            (
                "shop",
                "{image: 'ghcr.io/acme/api:1.4.0', platforms: [linux/arm64, linux/amd64]}",
                "shop-api-cd9a51d20846",
            ),
            (
                "shop.v2",
                "{image: 'app:dev', source: Docker, nodeName: worker-1}",
                "shop.v2-app-2066cc51d6f0",
            ),
            (
                "shop",
                "{image: 'me/some_app:dev', source: Containerd, nodeSelector: {disk: ssd}}",
                "shop-some-app-40bdd3ed84df",
            ),
        ] {
            assert_eq!(image_name(package, &request(image)), name, "{image}");
        }
    }
}
