//! The `JackalImage` objects of a package: what they should be, and making them so.

use std::collections::{BTreeMap, HashMap, HashSet};

use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, Client, Resource as _, ResourceExt as _};

use crate::api::v1alpha1::{JackalImage, JackalImageSpec, JackalPackage, requested_at};
use crate::fault::{Fault, Reason};
use crate::oci::Digest;
use crate::package::{ImageRequest, Plan, PlannedImage};
use crate::runtime::{kube_fault, with_timeout};

/// The field manager of what the controller applies.
pub(super) const FIELD_MANAGER: &str = "jackal-operator";
/// The label that names the package's uid on its images.
pub(super) const PACKAGE_LABEL: &str = "jackal.dev/package-uid";
/// The label that names the package on its images, as [`label_of`] writes it.
const PACKAGE_NAME_LABEL: &str = "jackal.dev/package-name";
/// The longest name of an image's object, so that `kubectl get jkpkg,jkimg` fits a terminal: it writes the kind before
/// the name.
const NAME_LENGTH: usize = 29;
/// The longest value of a label.
const LABEL_LIMIT: usize = 63;
/// The annotation that carries a request for a reconciliation on.
const REQUESTED_AT: &str = crate::api::v1alpha1::REQUESTED_AT[0];

type Guarded = DeserializeGuard<JackalImage>;

/// Objects by name; one that cannot be read is `None`.
type ExistingObjects = BTreeMap<String, Option<JackalImage>>;

/// The names of objects that are named otherwise than new ones would be: earlier versions named the same request by
/// the order in which its platforms were written.
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

    /// Makes the objects be what `plan` says, in its order: applies those that differ, deletes those that it
    /// lacks, leaves the rest alone. Gives each as it stands.
    ///
    /// Those that the plan lacks are only found by asking the API server for all. It is not asked where `known` has
    /// every one of the plan, some of them by their earlier names: then the answer would cost as much as there are images
    /// in the namespace, at each change of one.
    pub async fn sync(
        &self,
        plan: &Plan,
        known: Option<(&Store<Guarded>, &LegacyNames)>,
    ) -> Result<Vec<JackalImage>, Fault> {
        let seen = known.and_then(|(known, names)| self.known(plan, known, names));
        let from_watch = seen.is_some();
        let mut standing = match seen {
            Some(standing) => standing,
            None => self.list().await?,
        };
        let mut images = Vec::with_capacity(plan.images.len());
        for (planned, name) in plan.images.iter().zip(self.names(plan, &standing)) {
            let mut found = standing.remove(&name).flatten();
            let mut wanted = self.wanted(planned, &name, found.as_ref());
            // The watch may not tell yet of what was applied a moment ago.
            if from_watch && !found.as_ref().is_some_and(|found| is_as_wanted(found, &wanted)) {
                found = self.get(&name).await?;
                wanted = self.wanted(planned, &name, found.as_ref());
            }
            images.push(match found {
                Some(found) if is_as_wanted(&found, &wanted) => found,
                _ => self.apply(&wanted).await?,
            });
        }
        for name in standing.keys() {
            self.delete(name).await?;
        }
        Ok(images)
    }

    /// Those of `images`, the objects of `plan` in its order, that have other names than new ones would have.
    pub fn legacy_names(&self, plan: &Plan, images: &[JackalImage]) -> LegacyNames {
        let named = plan.images.iter().zip(images);
        named
            .map(|(planned, image)| (planned, image.name_any()))
            .filter(|(planned, name)| *name != name_of(&self.package.name_any(), &planned.request))
            .map(|(planned, name)| (planned.request.clone(), name))
            .collect()
    }

    /// The name of the object of each image of the plan: of one that stands where one asks for the same, else a new one.
    fn names(&self, plan: &Plan, standing: &ExistingObjects) -> Vec<String> {
        let package = self.package.name_any();
        let mut names: Vec<String> = plan
            .images
            .iter()
            .map(|planned| name_of(&package, &planned.request))
            .collect();
        let taken: HashSet<&String> = names.iter().filter(|name| standing.contains_key(*name)).collect();
        if taken.len() == names.len() {
            return names;
        }
        let others = standing.iter().filter(|(name, _)| !taken.contains(name));
        let mut others: LegacyNames = others
            .filter_map(|(name, object)| Some((name, object.as_ref()?)))
            .filter(|(_, object)| object.metadata.deletion_timestamp.is_none())
            .filter_map(|(name, object)| Some((ImageRequest::of_object(&object.spec).ok()?, name.clone())))
            .collect();
        for (planned, name) in plan.images.iter().zip(&mut names) {
            if !standing.contains_key(name)
                && let Some(earlier) = others.remove(&planned.request)
            {
                *name = earlier;
            }
        }
        names
    }

    /// Deletes all of them; true when none is left.
    pub async fn clear(&self) -> Result<bool, Fault> {
        let standing = self.list().await?;
        for name in standing.keys() {
            self.delete(name).await?;
        }
        Ok(standing.is_empty())
    }

    /// The plan's objects as this process saw them last; none when it has not seen all of them.
    fn known(&self, plan: &Plan, known: &Store<Guarded>, names: &LegacyNames) -> Option<ExistingObjects> {
        let mut standing = ExistingObjects::new();
        for planned in &plan.images {
            let name = names.get(&planned.request).cloned();
            let name = name.unwrap_or_else(|| name_of(&self.package.name_any(), &planned.request));
            let object = known.get(&ObjectRef::new(&name).within(&self.namespace()))?;
            standing.insert(name, object.0.as_ref().ok().cloned());
        }
        Some(standing)
    }

    /// What stands, by name; an object that cannot be read stands as `None`.
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

    /// An object as it stands now; none where it does not, or cannot be read.
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

    /// The object `name` for an image of the plan. Where one is `found` that asks for the same, it goes on to ask in its
    /// own words: another order of platforms is no other generation.
    fn wanted(&self, planned: &PlannedImage, name: &str, found: Option<&JackalImage>) -> JackalImage {
        let package = &self.package.spec;
        let same = |found: &&JackalImage| ImageRequest::of_object(&found.spec).is_ok_and(|own| own == planned.request);
        let (written, own) = (&planned.spec, found.filter(same).map(|found| &found.spec));
        let spec = JackalImageSpec {
            image: own.map_or(&written.image, |own| &own.image).clone(),
            source: planned.request.source,
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
            referrers: package.referrers,
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

/// Whether an object needs no write.
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

/// The name of an image's object; the hash is of what is read, so that another source is another object.
fn name_of(package: &str, request: &ImageRequest) -> String {
    object_name(package, request.reference.repository(), &request.digest())
}

/// `<package>-<last part of the repository>-<hash>`: readable, and the same for the same request, whatever else the
/// package holds. Where that is longer than [`NAME_LENGTH`] both parts are shortened, and the hash is of the package too.
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
    fn a_long_name_has_a_label_of_its_own() {
        assert_eq!(label_of("shop"), "shop");
        let longest = "a".repeat(63);
        assert_eq!(label_of(&longest), longest);
        let (one, other) = (format!("{}.b", "a.".repeat(40)), format!("{}.c", "a.".repeat(40)));
        let label = label_of(&one);
        assert!(label.len() <= 63 && label != label_of(&other), "{label}");
        assert!(label.starts_with("a.a") && !label.contains(".-"), "{label}");
    }

    #[test]
    fn a_long_name_is_shortened_and_stays_apart() {
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
    fn a_line_of_kubectl_get_fits_a_terminal() {
        let name = "jackalimage.jackal.dev/".len() + NAME_LENGTH;
        // Each as wide as it gets, with the columns' gaps: READY, SIZE, PROGRESS, AGE.
        let columns = ["Unknown", "9999 MiB", "99% 999 MiB/s", "9m59s"].map(|cell| cell.len() + 3);
        let status = Reason::AuthenticationFailed.to_string().len();
        assert!(name + 3 + columns.iter().sum::<usize>() + status <= 120);
    }

    fn request(text: &str) -> ImageRequest {
        ImageRequest::of(&serde_saphyr::from_str(text).unwrap()).unwrap()
    }

    // What a version writes, the next one has to find.
    #[test]
    fn names_stay_as_they_are() {
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
            assert_eq!(name_of(package, &request(image)), name, "{image}");
        }
    }
}
