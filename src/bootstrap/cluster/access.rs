//! What the account of the kubeconfig may do.

use std::collections::BTreeSet;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use kube::api::{Api, PostParams};

use super::Cluster;
use crate::bootstrap::install::{NAMESPACE, Object};
use crate::fault::Fault;

/// Questions to the API server at the same time.
const PARALLEL: usize = 8;

/// One permission.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Access {
    /// The verb, such as `patch`.
    pub verb: &'static str,
    /// The API group; empty for the core group.
    pub group: &'static str,
    /// The resource.
    pub resource: &'static str,
    /// The subresource; empty for none.
    pub subresource: &'static str,
    /// The namespace; `None` for all.
    pub namespace: Option<String>,
}

impl Access {
    /// As messages name it: `patch deployments.apps in jackal-system`.
    fn shown(&self) -> String {
        let mut shown = format!("{} {}", self.verb, self.resource);
        if !self.group.is_empty() {
            shown = format!("{shown}.{}", self.group);
        }
        if !self.subresource.is_empty() {
            shown = format!("{shown}/{}", self.subresource);
        }
        match &self.namespace {
            Some(namespace) => format!("{shown} in {namespace}"),
            None => shown,
        }
    }

    /// What an installation of `objects` needs, each permission once.
    pub fn needed(objects: &[Object]) -> BTreeSet<Self> {
        let of = |verb, group, resource, subresource, namespace: Option<&str>| Self {
            verb,
            group,
            resource,
            subresource,
            namespace: namespace.map(str::to_owned),
        };
        let mut needed = BTreeSet::from([
            of("list", "", "nodes", "", None),
            of("list", "storage.k8s.io", "storageclasses", "", None),
            of("list", "", "pods", "", Some(NAMESPACE)),
            of("create", "", "pods", "portforward", Some(NAMESPACE)),
        ]);
        for object in objects {
            for verb in ["get", "create", "patch", "delete"] {
                needed.insert(of(
                    verb,
                    object.kind.group(),
                    object.kind.plural,
                    "",
                    object.namespace.as_deref(),
                ));
            }
        }
        needed
    }
}

/// Those of `needed` that the account does not have, as messages name them.
///
/// # Errors
/// A fault of the API server.
pub async fn missing_permissions(cluster: &Cluster, needed: &BTreeSet<Access>) -> Result<Vec<String>, Fault> {
    let api: Api<SelfSubjectAccessReview> = Api::all(cluster.client().clone());
    let questions = needed.iter().map(|access| {
        let api = api.clone();
        async move {
            let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
            let review = SelfSubjectAccessReview {
                spec: SelfSubjectAccessReviewSpec {
                    resource_attributes: Some(ResourceAttributes {
                        group: Some(access.group.to_owned()),
                        namespace: access.namespace.clone(),
                        resource: text(access.resource),
                        subresource: text(access.subresource),
                        verb: text(access.verb),
                        ..ResourceAttributes::default()
                    }),
                    ..SelfSubjectAccessReviewSpec::default()
                },
                ..SelfSubjectAccessReview::default()
            };
            let answer = cluster.call("asking for permissions", async || {
                api.create(&PostParams::default(), &review).await
            });
            let allowed = answer.await?.status.is_some_and(|status| status.allowed);
            Ok::<_, Fault>((!allowed).then(|| access.shown()))
        }
    });
    let answers: Vec<Option<String>> = stream::iter(questions).buffered(PARALLEL).try_collect().await?;
    Ok(answers.into_iter().flatten().collect())
}
