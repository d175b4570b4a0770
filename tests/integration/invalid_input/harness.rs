//! One operator, several invalid inputs, and the expected result of each.

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

/// How long nothing may be written after a failure. Retry delays are at most 2 s, so several attempts fail in it.
const QUIET_PERIOD: Duration = Duration::from_secs(5);
/// Lines that one attempt for one image may add to the log.
const MAX_LOG_LINES: usize = 12;

/// The object with the failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureLocation {
    /// Only the package: no image was planned.
    Package,
    /// The package's image, and so the package.
    Both,
    /// An image without a package.
    Image,
}

/// An applied invalid input, and how to repair it.
pub struct Case<'a> {
    /// The package, or with [`FailureLocation::Image`] the image.
    pub name: &'static str,
    /// The object with the failure.
    pub at: FailureLocation,
    /// Whether only a changed spec ends the failure.
    pub stalled: bool,
    /// The reason of the condition and of the event.
    pub reason: &'static str,
    /// Words of the message.
    pub words: Vec<String>,
    /// Writes to its image in [`QUIET_PERIOD`]; only not zero if bytes are transferred before it fails.
    pub writes: usize,
    /// How many processes may report it: a dead engine is noticed by its agent and by the controller.
    pub reporters: usize,
    /// The repair by the user.
    pub repair: LocalBoxFuture<'a, ()>,
}

impl<'a> Case<'a> {
    /// A retried failure of a package's image.
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

    /// The same, if only a changed spec ends it.
    pub fn stalled(mut self) -> Self {
        self.stalled = true;
        self
    }
}

/// A namespace with an operator.
pub struct Harness {
    /// The namespace.
    pub cluster: Cluster,
    /// The controller and the agents.
    pub operators: Vec<Operator>,
    writes: WriteCounter,
}

/// The object versions of a case: its package and its image.
struct ObjectVersions {
    package: Option<JackalPackage>,
    image: Option<JackalImage>,
}

impl Harness {
    /// Starts a controller with additional flags.
    pub async fn new(arguments: &[&str]) -> Self {
        let cluster = Cluster::new().await;
        let writes = WriteCounter::of(&cluster);
        // Leader changes, which short leases cause on a busy machine, are covered by another test.
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

    /// The same, with additional arguments.
    pub async fn agents_with(&mut self, agents: &[(&str, &str)], arguments: &[&str]) {
        for (node, docker) in agents {
            self.operators.push(self.cluster.agent(node, docker, arguments));
        }
        for (node, _) in agents {
            registered(&self.cluster, node).await;
        }
    }

    /// Expects every case to fail as specified, report it once, and cause no further writes.
    pub async fn fail(&self, cases: &[Case<'_>]) {
        let mut before = Vec::new();
        for case in cases {
            let versions = self.wait_for_failure(case).await;
            before.push(self.count(&versions).await);
        }
        let lines = self.lines();
        tokio::time::sleep(QUIET_PERIOD).await;
        for (case, (package, image)) in cases.iter().zip(before) {
            let versions = self.wait_for_failure(case).await;
            let (package_after, image_after) = self.count(&versions).await;
            // The first process to notice it uses its own message.
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
            self.assert_warned_once(case, &versions).await;
        }
        // 750 ms, 1.5 s, then 2 s, each less a fifth.
        let tries = 5 * cases.len();
        let more = self.lines() - lines;
        assert!(
            more <= tries * MAX_LOG_LINES,
            "{more} lines of log for at most {tries} tries"
        );
    }

    /// Repairs every case, and expects all objects to become Ready.
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

    /// Both `fail` and `recover`.
    pub async fn run(&self, cases: Vec<Case<'_>>) {
        self.fail(&cases).await;
        self.recover(cases).await;
    }

    async fn wait_for_failure(&self, case: &Case<'_>) -> ObjectVersions {
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

    async fn assert_warned_once(&self, case: &Case<'_>, versions: &ObjectVersions) {
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
            let events: Vec<&Event> = all.iter().filter(on).collect();
            let what = format!("{kind} of {}: {events:?}", case.name);
            assert!(!events.is_empty() && events.len() <= case.reporters, "{what}");
            for event in events {
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

/// Waits until the agent of `node` has registered.
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
