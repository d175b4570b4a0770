//! Reads packages and their images. Everything in an object may be written by its owner, so it is shown without control characters.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, bail};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::ListParams;
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use super::super::UsageError;
use super::scope::Scope;
use crate::api::v1alpha1::{JackalImage, JackalPackage};
use crate::suggestion::did_you_mean;

/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(30);
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
        let status = self.package.status.as_ref()?;
        status.conditions.iter().find(|condition| condition.type_ == kind)
    }
}

/// The result of one request, which `what` describes.
pub(super) async fn requested<T>(
    what: &str,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> anyhow::Result<T> {
    match tokio::time::timeout(TIMEOUT, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(kube::Error::Api(status))) if status.code == 404 && status.reason != "NotFound" => {
            let message = format!("{what}: the cluster has no such resource; install the operator first");
            Err(UsageError(message).into())
        }
        Ok(Err(error)) => Err(error).with_context(|| what.to_owned()),
        Err(_) => bail!("{what}: the API server did not answer within {} s", TIMEOUT.as_secs()),
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
    let known: Vec<String> = listed.iter().map(ResourceExt::name_any).collect();
    if let Some(unknown) = names.iter().find(|name| !known.contains(name)) {
        let near = did_you_mean(unknown, known.iter().map(String::as_str));
        let message = format!("the namespace {} has no JackalPackage {unknown}{near}", scope.namespace);
        return Err(UsageError(message).into());
    }
    let images: Vec<JackalImage> = all(
        &api(&scope.client, namespace),
        "cannot list JackalImages",
        ListParams::default(),
    )
    .await?;
    let mut by_owner: BTreeMap<String, BTreeMap<String, JackalImage>> = BTreeMap::new();
    for image in images {
        let owners = image
            .owner_references()
            .iter()
            .filter(|owner| owner.kind == "JackalPackage");
        if let Some(owner) = owners.map(|owner| owner.uid.clone()).next() {
            by_owner.entry(owner).or_default().insert(image.name_any(), image);
        }
    }
    let chosen = listed
        .into_iter()
        .filter(|package| names.is_empty() || names.contains(&package.name_any()));
    Ok(chosen
        .map(|package| PackageState {
            images: by_owner.remove(&package.uid().unwrap_or_default()).unwrap_or_default(),
            package,
        })
        .collect())
}

/// The package `name`.
pub(super) async fn package(scope: &Scope, name: &str) -> anyhow::Result<PackageState> {
    let found = packages(scope, &[name.to_owned()], false).await?;
    found
        .into_iter()
        .next()
        .with_context(|| format!("the JackalPackage {name} was deleted meanwhile"))
}
