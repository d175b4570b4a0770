//! One operator, several bad inputs, and what is expected of each.

use std::time::Duration;

use futures::future::LocalBoxFuture;
use jackal_operator::api::v1alpha1::{JackalImage, JackalPackage};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use kube::api::ListParams;

use super::write_counter::WriteCounter;
use crate::support::cluster::{Cluster, condition};
use crate::support::operator::Operator;
use crate::support::wait::{SOON, eventually};

/// How long nothing may happen after a failure. Delays between tries are at most 2 s, so several tries fail in it.
const QUIET_PERIOD: Duration = Duration::from_secs(5);
/// Lines that one try of one image may add to the log.
const MAX_LOG_LINES: usize = 12;

/// Where the failure stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureLocation {
    /// In the package alone: no image was planned.
    Package,
    /// In the package's image, and so in the package.
    Both,
    /// In an image that somebody made without a package.
    Image,
}

/// A bad input that was applied, and how it is repaired.
pub struct Case<'a> {
    /// The package, or with [`FailureLocation::Image`] the image.
    pub name: &'static str,
    /// Where the failure stands.
    pub at: FailureLocation,
    /// Whether only another spec ends it.
    pub stalled: bool,
    /// The reason of the condition and of the event.
    pub reason: &'static str,
    /// What the message says among other things.
    pub words: Vec<String>,
    /// Writes to its image in [`QUIET_PERIOD`]; not zero only where bytes move before it fails.
    pub writes: usize,
    /// How many may say the same of it: an engine that dies is missed by its agent and by the controller.
    pub reporters: usize,
    /// What a person does about it.
    pub repair: LocalBoxFuture<'a, ()>,
}

impl<'a> Case<'a> {
    /// A failure of a package's image, tried again by itself.
    pub fn new(name: &'static str, reason: &'static str, words: &[&str], repair: LocalBoxFuture<'a, ()>) -> Self {
        Self {
            name,
            at: FailureLocation::Both,
            stalled: false,
            reason,
            words: words.iter().map(|word| (*word).to_owned()).collect(),
            writes: 0,
            reporters: 1,
            repair,
        }
    }

    /// The same, of the package alone.
    pub fn of_package(mut self) -> Self {
        self.at = FailureLocation::Package;
        self
    }

    /// The same, of an image without a package.
    pub fn of_image(mut self) -> Self {
        self.at = FailureLocation::Image;
        self
    }

    /// The same, where only another spec ends it.
    pub fn stalled(mut self) -> Self {
        self.stalled = true;
        self
    }
}

/// A namespace with an operator.
pub struct Harness {
    /// The namespace.
    pub cluster: Cluster,
    /// The controller, and agents.
    pub operators: Vec<Operator>,
    writes: WriteCounter,
}

/// What stands of a case: its package, its image.
struct ObjectVersions {
    package: Option<JackalPackage>,
    image: Option<JackalImage>,
}

impl Harness {
    /// A controller with further flags.
    pub async fn new(arguments: &[&str]) -> Self {
        let cluster = Cluster::new().await;
        let writes = WriteCounter::of(&cluster);
        // A change of leaders, which a busy machine brings about with short leases, is another test's matter.
        let long = ["--lease-duration", "30s"];
        let operators = vec![cluster.controller(&[&long, arguments].concat())];
        Self {
            cluster,
            operators,
            writes,
        }
    }

    /// Starts agents and waits until they registered.
    pub async fn agents(&mut self, agents: &[(&str, &str)]) {
        self.agents_with(agents, &[]).await;
    }

    /// The same, with further arguments.
    pub async fn agents_with(&mut self, agents: &[(&str, &str)], arguments: &[&str]) {
        for (node, docker) in agents {
            self.operators.push(self.cluster.agent(node, docker, arguments));
        }
        for (node, _) in agents {
            registered(&self.cluster, node).await;
        }
    }

    /// Every case fails as it should, says so once, and rests.
    pub async fn fail(&self, cases: &[Case<'_>]) {
        let mut before = Vec::new();
        for case in cases {
            let versions = self.failing(case).await;
            before.push(self.count(&versions).await);
        }
        let lines = self.lines();
        tokio::time::sleep(QUIET_PERIOD).await;
        for (case, (package, image)) in cases.iter().zip(before) {
            let versions = self.failing(case).await;
            let (package_after, image_after) = self.count(&versions).await;
            // Whoever misses the same first says it in its own words.
            assert!(
                package_after - package < case.reporters,
                "{}: writes to a package that fails as before",
                case.name
            );
            assert!(
                image_after - image <= case.writes,
                "{}: {} writes to an image that fails as before",
                case.name,
                image_after - image
            );
            self.warned(case, &versions).await;
        }
        // 750 ms, 1.5 s, then 2 s, each less a fifth.
        let tries = 5 * cases.len();
        let more = self.lines() - lines;
        assert!(
            more <= tries * MAX_LOG_LINES,
            "{more} lines of log for at most {tries} tries"
        );
    }

    /// Repairs every case, and expects all to become Ready.
    pub async fn recover(&self, cases: Vec<Case<'_>>) {
        let mut repaired = Vec::new();
        for case in cases {
            case.repair.await;
            repaired.push((case.name, case.at));
        }
        for (name, at) in repaired {
            let (conditions, generation) = match at {
                FailureLocation::Image => {
                    let image = self.cluster.image_ready(name).await;
                    (image.status.unwrap().conditions, image.metadata.generation)
                }
                FailureLocation::Package | FailureLocation::Both => {
                    let package = self.cluster.ready(name).await;
                    (package.status.unwrap().conditions, package.metadata.generation)
                }
            };
            let stand: Vec<_> = conditions
                .iter()
                .map(|c| (c.type_.as_str(), c.status.as_str()))
                .collect();
            assert_eq!(stand, [("Ready", "True")], "{name}: nothing of the failure is left");
            assert_eq!(conditions[0].observed_generation, generation, "{name}");
        }
    }

    /// Both halves.
    pub async fn run(&self, cases: Vec<Case<'_>>) {
        self.fail(&cases).await;
        self.recover(cases).await;
    }

    async fn failing(&self, case: &Case<'_>) -> ObjectVersions {
        let mut versions = ObjectVersions {
            package: None,
            image: None,
        };
        if case.at != FailureLocation::Image {
            let package = self
                .cluster
                .package_where(case.name, case.reason, |package| {
                    let conditions = &package.status.as_ref()?.conditions;
                    fails(case, conditions, package.metadata.generation)
                })
                .await;
            assert_eq!(
                package.status.as_ref().unwrap().observed_generation,
                package.metadata.generation
            );
            versions.package = Some(package);
        }
        let image = match (case.at, &versions.package) {
            (FailureLocation::Image, _) => Some(case.name.to_owned()),
            (FailureLocation::Both, Some(package)) => {
                let row = package.status.as_ref().unwrap().images[0].clone();
                let message = ready(package).message;
                assert!(
                    message.contains(&row.image),
                    "{}: names the image: {message}",
                    case.name
                );
                Some(row.resource)
            }
            _ => None,
        };
        if let Some(name) = image {
            let image = self.cluster.image_where(&name, case.reason, |image| {
                let conditions = &image.status.as_ref()?.conditions;
                fails(case, conditions, image.metadata.generation)
            });
            let image = image.await;
            assert_eq!(
                image.status.as_ref().unwrap().observed_generation,
                image.metadata.generation
            );
            versions.image = Some(image);
        }
        versions
    }

    async fn count(&self, versions: &ObjectVersions) -> (usize, usize) {
        let package = match &versions.package {
            Some(package) => self.writes.count(package).await,
            None => 0,
        };
        let image = match &versions.image {
            Some(image) => self.writes.count(image).await,
            None => 0,
        };
        (package, image)
    }

    async fn warned(&self, case: &Case<'_>, versions: &ObjectVersions) {
        let package = versions.package.as_ref().map(ResourceExt::name_any);
        let image = versions.image.as_ref().map(ResourceExt::name_any);
        let all = self
            .cluster
            .api::<Event>()
            .list(&ListParams::default())
            .await
            .unwrap()
            .items;
        for (kind, name) in [("JackalPackage", package), ("JackalImage", image)] {
            let Some(name) = name else { continue };
            let on = |event: &&Event| {
                let on = event.regarding.as_ref().unwrap();
                on.kind.as_deref() == Some(kind) && on.name.as_deref() == Some(name.as_str())
            };
            let said: Vec<&Event> = all.iter().filter(on).collect();
            let what = format!("{kind} of {}: {said:?}", case.name);
            assert!(!said.is_empty() && said.len() <= case.reporters, "{what}");
            for event in said {
                assert_eq!(event.type_.as_deref(), Some("Warning"), "{what}");
                assert_eq!(event.reason.as_deref(), Some(case.reason), "{what}");
                assert!(event.series.is_none(), "{what}");
                let known = case
                    .words
                    .iter()
                    .any(|word| event.note.as_ref().unwrap().contains(word));
                assert!(known, "{what}");
            }
        }
    }

    fn lines(&self) -> usize {
        self.operators
            .iter()
            .map(|operator| operator.log().lines().count())
            .sum()
    }
}

fn ready(package: &JackalPackage) -> Condition {
    condition(&package.status.as_ref().unwrap().conditions, "Ready")
        .unwrap()
        .clone()
}

fn fails(case: &Case<'_>, conditions: &[Condition], generation: Option<i64>) -> Option<()> {
    let ready = condition(conditions, "Ready")?;
    let another_namespace = if case.stalled { "Stalled" } else { "Reconciling" };
    let holds = ready.status == "False"
        && ready.reason == case.reason
        && ready.observed_generation == generation
        && case.words.iter().all(|word| ready.message.contains(word))
        && conditions.len() == 2
        && condition(conditions, another_namespace).is_some_and(|another_namespace| another_namespace.status == "True");
    holds.then_some(())
}

/// Waits until the agent of `node` is known.
pub async fn registered(cluster: &Cluster, node: &str) {
    eventually(SOON, &format!("the agent of {node} registers"), async || {
        let name = format!("jackal-agent-{node}");
        match cluster.api::<Lease>().get_opt(&name).await {
            Ok(Some(_)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}
