//! Reads packages and their images. Everything in an object may be written by its owner, so it is shown without control characters.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::ListParams;
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use super::super::UsageError;
use super::scope::Scope;
use crate::api::v1alpha1::{JackalImage, JackalPackage};
use crate::controller::PACKAGE_LABEL;
use crate::runtime::with_timeout;
use crate::suggestion::did_you_mean;

/// Objects for each request.
const PAGE: u32 = 500;
/// The most objects of one kind that are read.
const MOST: usize = 20_000;

/// A package and its JackalImages by their names.
pub(super) struct PackageState {
    pub package: JackalPackage,
    pub images: BTreeMap<String, JackalImage>,
}

impl PackageState {
    /// The condition `kind` of the package.
    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        condition(&self.package, kind)
    }
}

/// The condition `kind` of `package`.
pub(super) fn condition<'p>(package: &'p JackalPackage, kind: &str) -> Option<&'p Condition> {
    let conditions = package.status.iter().flat_map(|status| &status.conditions);
    conditions.into_iter().find(|condition| condition.type_ == kind)
}

/// The result of one request, which `what` describes.
pub(super) async fn requested<T>(
    what: &str,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> anyhow::Result<T> {
    match with_timeout(request).await {
        Err(kube::Error::Api(status)) if status.code == 404 && status.reason != "NotFound" => {
            let message = format!("{what}: the cluster has no such resource; install the operator first");
            Err(UsageError(message).into())
        }
        answer => answer.with_context(|| what.to_owned()),
    }
}

/// Every object of `api` that `parameters` select.
async fn all<K>(api: &Api<K>, what: &str, parameters: ListParams) -> anyhow::Result<Vec<K>>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    let mut objects = Vec::new();
    let mut parameters = parameters.limit(PAGE);
    loop {
        let page = requested(what, api.list(&parameters)).await?;
        let next = page.metadata.continue_.filter(|next| !next.is_empty());
        objects.extend(page.items);
        match next {
            Some(next) if objects.len() < MOST => parameters = parameters.continue_token(&next),
            Some(_) => bail!("{what}: there are more than {MOST}; name a namespace"),
            None => return Ok(objects),
        }
    }
}

/// The objects of one kind in `namespace`, or in all.
fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// The packages `names` of the namespace, or all of it, or those of all namespaces.
///
/// # Errors
/// When one of them does not exist.
pub(super) async fn packages(
    scope: &Scope,
    names: &[String],
    is_everywhere: bool,
) -> anyhow::Result<Vec<PackageState>> {
    let namespace = (!is_everywhere).then_some(scope.namespace.as_str());
    let listed: Vec<JackalPackage> = all(
        &api(&scope.client, namespace),
        "cannot list JackalPackages",
        ListParams::default(),
    )
    .await?;
    if let Some(name) = names
        .iter()
        .find(|name| !listed.iter().any(|package| package.name_any() == **name))
    {
        return Err(unknown(scope, name, &listed));
    }
    let images: Vec<JackalImage> = all(
        &api(&scope.client, namespace),
        "cannot list JackalImages",
        ListParams::default(),
    )
    .await?;
    let mut by_package: BTreeMap<String, BTreeMap<String, JackalImage>> = BTreeMap::new();
    for image in images {
        if let Some(package) = image.labels().get(PACKAGE_LABEL).cloned() {
            by_package.entry(package).or_default().insert(image.name_any(), image);
        }
    }
    let chosen = listed
        .into_iter()
        .filter(|package| names.is_empty() || names.contains(&package.name_any()));
    Ok(chosen
        .map(|package| PackageState {
            images: by_package
                .remove(&package.uid().unwrap_or_default())
                .unwrap_or_default(),
            package,
        })
        .collect())
}

/// The package `name`.
///
/// # Errors
/// When it does not exist, with the name that may be meant.
pub(super) async fn package(scope: &Scope, name: &str) -> anyhow::Result<JackalPackage> {
    let what = format!("cannot read the JackalPackage {name}");
    match requested(&what, scope.packages().get_opt(name)).await? {
        Some(package) => Ok(package),
        None => Err(no_package(scope, name).await),
    }
}

/// The package `name` and its images.
///
/// # Errors
/// When it does not exist.
pub(super) async fn package_state(scope: &Scope, name: &str) -> anyhow::Result<PackageState> {
    let package = package(scope, name).await?;
    let own = format!("{PACKAGE_LABEL}={}", package.uid().unwrap_or_default());
    let images = api::<JackalImage>(&scope.client, Some(&scope.namespace));
    let images = all(&images, "cannot list JackalImages", ListParams::default().labels(&own)).await?;
    Ok(PackageState {
        images: images.into_iter().map(|image| (image.name_any(), image)).collect(),
        package,
    })
}

/// The error for the package `name`, which does not exist; or why that cannot be said.
pub(super) async fn no_package(scope: &Scope, name: &str) -> anyhow::Error {
    match all(&scope.packages(), "cannot list JackalPackages", ListParams::default()).await {
        Ok(listed) => unknown(scope, name, &listed),
        Err(error) => error,
    }
}

fn unknown(scope: &Scope, name: &str, listed: &[JackalPackage]) -> anyhow::Error {
    let known: Vec<String> = listed.iter().map(ResourceExt::name_any).collect();
    let near = did_you_mean(name, known.iter().map(String::as_str));
    UsageError(format!(
        "the namespace {} has no JackalPackage {name}{near}",
        scope.namespace
    ))
    .into()
}
