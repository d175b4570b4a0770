//! Packages whose images follow a policy: the task that looks at the tags that there are, and the package that comes of
//! its choice, which is what the rest of the reconciler sees.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;
use tokio_util::sync::CancellationToken;

use super::access::ObjectAccess;
use super::packages::Packages;
use crate::api::v1alpha1::{Conditions, JackalPackage, PackagedImage, READY};
use crate::fault::{Fault, Reason};
use crate::fetch::select;
use crate::package::{self, PolicyImage, Selection};
use crate::runtime::{
    Backoff, Decision, ObjectView, TaskKey, TaskTable, catch_panic, disposition_after_write, kube_fault,
};

/// What is known of the choices of all packages.
pub(super) struct TagSelections {
    memory: TaskTable,
    chosen: Mutex<HashMap<String, Chosen>>,
}

/// The choice for one package.
#[derive(Clone)]
struct Chosen {
    key: TaskKey,
    selections: Arc<Vec<Selection>>,
    /// The images of the artifact that stood when the package was Ready last.
    standing: Vec<PackagedImage>,
}

/// A package as it is to be built now.
pub(super) struct EffectivePackage {
    /// The package, complete.
    pub package: JackalPackage,
    /// What was chosen for it.
    pub selections: Arc<Vec<Selection>>,
    /// When the tags are looked at again.
    pub again: Option<Duration>,
}

/// Whether a package can be built.
// Few of them live at once.
#[allow(clippy::large_enum_variant)]
pub(super) enum Followable {
    Now(EffectivePackage),
    /// Not before another look, after that time where it does not come by itself.
    Later(Option<Duration>),
}

impl TagSelections {
    pub fn new(identity: &str, backoff: Backoff) -> Self {
        Self {
            memory: TaskTable::new(identity, backoff),
            chosen: Mutex::default(),
        }
    }

    fn chosen(&self) -> MutexGuard<'_, HashMap<String, Chosen>> {
        self.chosen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing more is chosen for the package `uid` before it is looked at again.
    pub fn cancel(&self, uid: &str) {
        self.memory.cancel(uid);
    }

    pub fn forget(&self, uid: &str) {
        self.memory.forget(uid);
        self.chosen().remove(uid);
    }

    /// All packages but those of `uids` are gone.
    pub fn keep(&self, uids: &HashSet<String>) {
        self.memory.keep(uids);
        self.chosen().retain(|uid, _| uids.contains(uid));
    }

    /// The images of the last artifact of a package, where this process knows better than the status.
    pub fn standing(&self, uid: &str) -> Option<Vec<PackagedImage>> {
        let chosen = self.chosen();
        chosen
            .get(uid)
            .map(|chosen| chosen.standing.clone())
            .filter(|rows| !rows.is_empty())
    }

    /// What was chosen for `uid`, if anything, noting what stands.
    fn known(&self, uid: &str, package: &JackalPackage) -> Option<Chosen> {
        let mut all = self.chosen();
        let chosen = all.get_mut(uid)?;
        chosen.standing = standing(package).unwrap_or_else(|| std::mem::take(&mut chosen.standing));
        Some(chosen.clone())
    }
}

/// The images of a package that is Ready.
fn standing(package: &JackalPackage) -> Option<Vec<PackagedImage>> {
    let status = package.status.as_ref()?;
    let conditions = Conditions(status.conditions.clone());
    let ready = conditions.get(READY).is_some_and(|ready| ready.status == "True");
    ready.then(|| status.images.clone())
}

/// What the status says was chosen: enough for a package at which nobody looks.
fn pinned(package: &JackalPackage, followed: Vec<PolicyImage>) -> Vec<Selection> {
    let rows = package.status.iter().flat_map(|status| &status.images);
    let rows: Vec<&PackagedImage> = rows.collect();
    let pin = |followed: PolicyImage| {
        let row = rows
            .iter()
            .find(|row| row.image == followed.image && row.selected.is_some())?;
        let selected = row.selected.clone()?;
        Some(Selection { followed, selected })
    };
    followed.into_iter().filter_map(pin).collect()
}

impl Packages {
    /// The package with the tags that its policies choose. They are chosen by a task of its own, at each interval and at
    /// each request to look; while the package is suspended they stay as they are.
    pub(super) fn followed(self: &Arc<Self>, package: &JackalPackage) -> Result<Followable, Fault> {
        if !package::follows(&package.spec) {
            self.following.forget(&package.uid().unwrap_or_default());
            return Ok(Followable::Now(EffectivePackage {
                package: package.clone(),
                selections: Arc::default(),
                again: None,
            }));
        }
        let followed = package::followed(&package.spec)?;
        let uid = package.uid().unwrap_or_default();
        let following = &self.following;
        let known = following.known(&uid, package);
        if package.spec.suspend {
            following.cancel(&uid);
            let selections = match known {
                Some(chosen) => chosen.selections,
                None => Arc::new(pinned(package, followed)),
            };
            return Ok(match with(package, selections, None) {
                Some(effective) => Followable::Now(effective),
                None => Followable::Later(None),
            });
        }
        let (key, now) = (self.key(package, None), Instant::now());
        // A choice that failed is tried again in its time, and nothing else happens before.
        if let Some(postponed) = following.memory.postponed(&uid, &key, now) {
            return Ok(Followable::Later(postponed.left()));
        }
        let known = known.filter(|chosen| chosen.key == key);
        let view = ObjectView {
            ready: known.is_some(),
            claim: None,
            rechecks: true,
            interval: self.settings.interval(package.spec.interval),
        };
        let again = match following.memory.decide(&uid, &key, view, now) {
            Decision::Rest => None,
            Decision::Wait(left) => Some(left),
            Decision::Run => {
                let token = following.memory.begin(&uid, &key, &self.stop);
                let (packages, package) = (Arc::clone(self), package.clone());
                self.tasks
                    .spawn(async move { run(&packages, &package, followed, key, token).await });
                None
            }
        };
        Ok(match known.and_then(|chosen| with(package, chosen.selections, again)) {
            Some(effective) => Followable::Now(effective),
            None => Followable::Later(again),
        })
    }

    /// Says of a package whose tags nobody chose that it is suspended.
    pub(super) async fn suspend(&self, package: &JackalPackage) -> Result<(), Fault> {
        self.memory.cancel(&package.uid().unwrap_or_default());
        let written = self.change(package, |status, generation| {
            let mut conditions = Conditions(std::mem::take(&mut status.conditions));
            conditions.suspended(generation, Time(jiff::Timestamp::now()));
            status.conditions = conditions.0;
        });
        written
            .await
            .map_err(|error| kube_fault(Reason::PackageFailed, "writing the status", &error))
    }
}

fn with(package: &JackalPackage, selections: Arc<Vec<Selection>>, again: Option<Duration>) -> Option<EffectivePackage> {
    Some(EffectivePackage {
        package: JackalPackage {
            metadata: package.metadata.clone(),
            spec: package::effective(&package.spec, &selections)?,
            status: package.status.clone(),
        },
        selections,
        again,
    })
}

/// Runs the task to its end, or until `token` is cancelled.
async fn run(
    packages: &Arc<Packages>,
    package: &JackalPackage,
    followed: Vec<PolicyImage>,
    key: TaskKey,
    token: CancellationToken,
) {
    let uid = package.uid().unwrap_or_default();
    let following = &packages.following;
    let result = tokio::select! {
        biased;
        () = token.cancelled() => None,
        result = packages.leadership.during(catch_panic(choose(packages, package, followed))) => result,
    };
    match result {
        None => following.memory.ended(&uid),
        Some(Ok(selections)) => {
            let standing = standing(package)
                .or_else(|| following.standing(&uid))
                .unwrap_or_default();
            let chosen = Chosen {
                key: key.clone(),
                selections: Arc::new(selections),
                standing,
            };
            let before = following.chosen().insert(uid.clone(), chosen.clone());
            if before.is_none_or(|before| before.selections != chosen.selections) {
                // What the package had instead is to be found, and removed.
                packages.sweep(&uid);
            }
            following.memory.succeeded(&uid, key, Instant::now());
        }
        Some(Err(fault)) => {
            if let Some(chosen) = following.chosen().get_mut(&uid) {
                chosen.selections = Arc::default();
            }
            let disposition =
                disposition_after_write(package, packages.failed(package, &fault).await, fault.disposition);
            following.memory.failed(&uid, key, disposition, Instant::now());
        }
    }
    packages.wake(package).await;
}

async fn choose(
    packages: &Packages,
    package: &JackalPackage,
    followed: Vec<PolicyImage>,
) -> Result<Vec<Selection>, Fault> {
    let place = packages.place(package).await?;
    select(&followed, &ObjectAccess::by_package(packages, package, &place)).await
}
