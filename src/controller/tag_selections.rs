//! The tags that policies chose for the images of packages, as far as this process knows them.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::api::v1alpha1::{Conditions, JackalPackage, PackagedImage, READY};
use crate::package::Selection;
use crate::runtime::{Backoff, TaskKey, TaskTable};

/// The chosen tags of all packages, and the tasks that choose them.
pub(super) struct TagSelections {
    pub tasks: TaskTable,
    chosen: Mutex<HashMap<String, ChosenTags>>,
}

/// The chosen tags of one package.
#[derive(Clone)]
pub(super) struct ChosenTags {
    /// The package and request that they were chosen for.
    pub key: TaskKey,
    pub selections: Arc<Vec<Selection>>,
    /// The images of the artifact when the package was last Ready.
    pub previous_images: Vec<PackagedImage>,
}

impl TagSelections {
    pub fn new(identity: &str, backoff: Backoff) -> Self {
        Self {
            tasks: TaskTable::new(identity, backoff),
            chosen: Mutex::default(),
        }
    }

    fn chosen(&self) -> MutexGuard<'_, HashMap<String, ChosenTags>> {
        self.chosen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cancels the task of the package `uid`.
    pub fn cancel(&self, uid: &str) {
        self.tasks.cancel(uid);
    }

    /// Removes what is known of the package `uid`.
    pub fn forget(&self, uid: &str) {
        self.tasks.forget(uid);
        self.chosen().remove(uid);
    }

    /// Removes what is known of all packages but those of `uids`.
    pub fn retain(&self, uids: &HashSet<String>) {
        self.tasks.retain(uids);
        self.chosen().retain(|uid, _| uids.contains(uid));
    }

    /// The images of the last artifact of the package `uid`, where this process knows more than the status.
    pub fn previous_images(&self, uid: &str) -> Option<Vec<PackagedImage>> {
        let chosen = self.chosen();
        let images = chosen.get(uid).map(|chosen| chosen.previous_images.clone());
        images.filter(|images| !images.is_empty())
    }

    /// The tags that were chosen for `package`, if any. Notes the images of its artifact where it is Ready.
    pub fn of(&self, uid: &str, package: &JackalPackage) -> Option<ChosenTags> {
        let mut all = self.chosen();
        let chosen = all.get_mut(uid)?;
        if let Some(images) = ready_images(package) {
            chosen.previous_images = images;
        }
        Some(chosen.clone())
    }

    /// Stores the tags that were chosen for `package`. True where they differ from those before.
    pub fn set(&self, package: &JackalPackage, uid: &str, key: TaskKey, selections: Vec<Selection>) -> bool {
        let previous_images = ready_images(package).or_else(|| self.previous_images(uid));
        let chosen = ChosenTags {
            key,
            selections: Arc::new(selections),
            previous_images: previous_images.unwrap_or_default(),
        };
        let before = self.chosen().insert(uid.to_owned(), chosen.clone());
        before.is_none_or(|before| before.selections != chosen.selections)
    }

    /// Removes the tags that were chosen for the package `uid`; the images of its last artifact stay known.
    pub fn clear(&self, uid: &str) {
        if let Some(chosen) = self.chosen().get_mut(uid) {
            chosen.selections = Arc::default();
        }
    }
}

/// The images of a package that is Ready.
fn ready_images(package: &JackalPackage) -> Option<Vec<PackagedImage>> {
    let status = package.status.as_ref()?;
    let conditions = Conditions(status.conditions.clone());
    let ready = conditions.get(READY).is_some_and(|ready| ready.status == "True");
    ready.then(|| status.images.clone())
}
