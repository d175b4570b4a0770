//! The `JackalImage` objects of a package: what they should be, and making them so.

use std::collections::BTreeMap;

use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, Client, Resource as _, ResourceExt as _};

use crate::api::v1alpha1::{JackalImage, JackalImageSpec, JackalPackage, requested_at};
use crate::fault::{Fault, Reason};
use crate::oci::Digest;
use crate::package::{Plan, PlannedImage};
use crate::worker::{kube_fault, within};

/// The field manager of what the controller applies.
pub(super) const FIELD_MANAGER: &str = "jackal-operator";
/// The label that names the package's uid on its images.
pub(super) const PACKAGE_LABEL: &str = "jackal.dev/package-uid";
/// The annotation that carries a request for a reconciliation on.
const REQUESTED_AT: &str = crate::api::v1alpha1::REQUESTED_AT[0];

type Guarded = DeserializeGuard<JackalImage>;

/// Objects by name; one that cannot be read is `None`.
type Standing = BTreeMap<String, Option<JackalImage>>;

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
    /// every one of the plan: then the answer would cost as much as there are images in the namespace, at each change
    /// of one.
    pub async fn sync(&self, plan: &Plan, known: Option<&Store<Guarded>>) -> Result<Vec<JackalImage>, Fault> {
        let seen = known.and_then(|known| self.known(plan, known));
        let from_watch = seen.is_some();
        let mut standing = match seen {
            Some(standing) => standing,
            None => self.list().await?,
        };
        let mut images = Vec::with_capacity(plan.images.len());
        for planned in &plan.images {
            let wanted = self.wanted(planned);
            let mut found = standing.remove(&wanted.name_any()).flatten();
            // The watch may not tell yet of what was applied a moment ago.
            if from_watch && !found.as_ref().is_some_and(|found| is_as_wanted(found, &wanted)) {
                found = self.get(&wanted.name_any()).await?;
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

    /// Deletes all of them; true when none is left.
    pub async fn clear(&self) -> Result<bool, Fault> {
        let standing = self.list().await?;
        for name in standing.keys() {
            self.delete(name).await?;
        }
        Ok(standing.is_empty())
    }

    /// The plan's objects as this process saw them last; none when it has not seen all of them.
    fn known(&self, plan: &Plan, known: &Store<Guarded>) -> Option<Standing> {
        let mut standing = Standing::new();
        for planned in &plan.images {
            let name = name_of(&self.package.name_any(), planned);
            let object = known.get(&ObjectRef::new(&name).within(&self.namespace()))?;
            standing.insert(name, object.0.as_ref().ok().cloned());
        }
        Some(standing)
    }

    /// What stands, by name; an object that cannot be read stands as `None`.
    async fn list(&self) -> Result<Standing, Fault> {
        let api: Api<Guarded> = Api::namespaced(self.client.clone(), &self.namespace());
        let label = format!("{PACKAGE_LABEL}={}", self.package.uid().unwrap_or_default());
        let list = within(api.list(&ListParams::default().labels(&label))).await;
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
        let found = within(api.get_opt(name)).await;
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
        within(api.patch(&name, &parameters, &Patch::Apply(wanted)))
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
        match within(api.delete(name, &DeleteParams::background())).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(kube_fault(
                Reason::PackageFailed,
                &format!("deleting the JackalImage {name}"),
                &error,
            )),
        }
    }

    fn wanted(&self, planned: &PlannedImage) -> JackalImage {
        let package = &self.package.spec;
        let spec = JackalImageSpec {
            image: planned.spec.image.clone(),
            source: planned.spec.source,
            node_name: planned.spec.node_name.clone(),
            node_selector: planned.spec.node_selector.clone(),
            platforms: planned.spec.platforms.clone(),
            registry: package.registry.clone(),
            image_pull_secrets: package.image_pull_secrets.clone(),
            service_account_name: package.service_account_name.clone(),
            source_registries: package.source_registries.clone(),
            interval: package.interval,
            stall_timeout: package.stall_timeout,
            suspend: package.suspend,
            naming: package.naming,
            plain_tag: planned.plain_tag,
            compression: package.compression,
            referrers: package.referrers,
            deletion_policy: package.deletion_policy,
            verify: planned.verify.clone(),
        };
        let mut image = JackalImage::new(&name_of(&self.package.name_any(), planned), spec);
        image.metadata.namespace = Some(self.namespace());
        image.metadata.owner_references = self.package.controller_owner_ref(&()).map(|owner| vec![owner]);
        image.metadata.labels = Some(BTreeMap::from([
            ("app.kubernetes.io/managed-by".to_owned(), "jackal-operator".to_owned()),
            (PACKAGE_LABEL.to_owned(), self.package.uid().unwrap_or_default()),
        ]));
        image.metadata.annotations = requested_at(self.package.annotations())
            .map(|requested| BTreeMap::from([(REQUESTED_AT.to_owned(), requested.to_owned())]));
        image
    }

    fn namespace(&self) -> String {
        self.package.namespace().unwrap_or_default()
    }
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

/// `<package>-<last part of the repository>-<hash>`: readable, and the same for the same wish, whatever else
/// the package holds. The hash is of what is read, so that another source is another object.
fn name_of(package: &str, planned: &PlannedImage) -> String {
    let spec = &planned.spec;
    let wish = format!(
        "{} {:?} {:?} {:?} {:?}",
        planned.image, spec.source, spec.node_name, spec.node_selector, spec.platforms
    );
    let hash = Digest::of(wish.as_bytes());
    let repository = planned.image.repository();
    let part: String = repository
        .rsplit('/')
        .next()
        .unwrap_or(repository)
        .chars()
        .map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' })
        .take(40)
        .collect();
    let package: String = package.chars().take(180).collect();
    let part = part.trim_matches('-');
    format!("{}-{part}-{}", package.trim_end_matches(['-', '.']), hash.short())
}
