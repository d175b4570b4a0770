//! What a process knows of charts, so that it asks little for those that are as they were.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Semaphore;

use super::index::Listed;
use crate::oci::Digest;

/// Charts that are kept in mind; beyond that all are forgotten.
const LIMIT: usize = 512;

/// What is asked of a chart repository.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct IndexKey {
    /// The address of the index.
    pub index: String,
    /// What is trusted to speak for it: what one object's authorities let in is not another's.
    pub trust: Digest,
    /// The chart's name.
    pub chart: String,
    /// Its version.
    pub version: String,
}

/// What a chart repository said, and the mark by which its server knows that state of the index.
#[derive(Clone)]
pub(super) struct CachedIndex {
    pub mark: String,
    pub listed: Listed,
}

/// What is known of charts. Nothing in it is needed after a restart.
pub struct ChartCache {
    /// What chart repositories list.
    listed: Mutex<HashMap<IndexKey, CachedIndex>>,
    /// The images that a chart names when it is installed with some values, by the digests of both.
    images: Mutex<HashMap<(Digest, Digest), Vec<String>>>,
    /// Charts are unpacked one at a time, for they are held in memory meanwhile.
    pub(super) unpacking: Semaphore,
}

impl Default for ChartCache {
    fn default() -> Self {
        Self {
            listed: Mutex::default(),
            images: Mutex::default(),
            unpacking: Semaphore::new(1),
        }
    }
}

impl ChartCache {
    pub(super) fn listed(&self, asked: &IndexKey) -> Option<CachedIndex> {
        let listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        listed.get(asked).cloned()
    }

    pub(super) fn note_listed(&self, asked: IndexKey, said: CachedIndex) {
        note(&self.listed, asked, said);
    }

    pub(super) fn images(&self, chart: &Digest, values: &Digest) -> Option<Vec<String>> {
        let images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        images.get(&(chart.clone(), values.clone())).cloned()
    }

    pub(super) fn note_images(&self, chart: Digest, values: Digest, images: Vec<String>) {
        note(&self.images, (chart, values), images);
    }
}

fn note<K: Eq + Hash, V>(map: &Mutex<HashMap<K, V>>, key: K, value: V) {
    let mut map = map.lock().unwrap_or_else(PoisonError::into_inner);
    if map.len() >= LIMIT {
        map.clear();
    }
    map.insert(key, value);
}
