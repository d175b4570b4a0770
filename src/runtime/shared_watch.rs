//! One watch of a kind of objects for everything in a process: one store, and each change for every subscriber.
//!
//! kube's shared stores (`reflector::store_shared` and `ReflectHandle`, 5.0) are not used, because of two gaps that the tests
//! demonstrate: deletions are not passed on to subscribers, and a handle that reaches an object which was deleted meanwhile
//! returns `Pending` without a waker, so that it yields nothing any more. Both are needed here: the deletion of an image has
//! its package reconciled, and task tables forget the object.

use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt as _};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::health::Listing;
use super::objects::drop_managed_fields;

/// How many changes are kept for a subscriber that has not read them yet.
const KEPT_CHANGES: usize = 4096;

/// A change of one object, or of all.
#[derive(Debug)]
pub enum ObjectChange<K> {
    /// The object was created or changed.
    Applied {
        /// The object in the store before, if any.
        before: Option<Arc<K>>,
        /// The object in the store now.
        now: Arc<K>,
    },
    /// The object was deleted.
    Deleted {
        /// The object in the store before, if any.
        before: Option<Arc<K>>,
        /// The object when it was deleted.
        last: Arc<K>,
    },
    /// All objects were listed: the store holds those that exist, whatever was missed before.
    Listed,
}

impl<K> Clone for ObjectChange<K> {
    fn clone(&self) -> Self {
        match self {
            Self::Applied { before, now } => Self::Applied {
                before: before.clone(),
                now: Arc::clone(now),
            },
            Self::Deleted { before, last } => Self::Deleted {
                before: before.clone(),
                last: Arc::clone(last),
            },
            Self::Listed => Self::Listed,
        }
    }
}

impl<K> ObjectChange<K> {
    /// The object in the store before the change.
    pub fn before(&self) -> Option<&K> {
        match self {
            Self::Applied { before, .. } | Self::Deleted { before, .. } => before.as_deref(),
            Self::Listed => None,
        }
    }

    /// The object in the store after the change.
    pub fn now(&self) -> Option<&K> {
        match self {
            Self::Applied { now, .. } => Some(now),
            Self::Deleted { .. } | Self::Listed => None,
        }
    }

    /// The changed object, as it was last.
    pub fn object(&self) -> Option<&Arc<K>> {
        match self {
            Self::Applied { now, .. } => Some(now),
            Self::Deleted { last, .. } => Some(last),
            Self::Listed => None,
        }
    }
}

/// The watch of a kind of objects, which one task of the process runs.
pub struct SharedWatch<K: Resource<DynamicType = ()> + Clone + 'static> {
    writer: Writer<K>,
    objects: SharedObjects<K>,
}

/// The objects of a [`SharedWatch`]; clones share it.
#[derive(Clone, Debug)]
pub struct SharedObjects<K: Resource<DynamicType = ()> + Clone + 'static> {
    store: Store<K>,
    changes: Arc<Mutex<Changes<K>>>,
}

#[derive(Debug)]
struct Changes<K> {
    /// Whether all objects were listed once.
    listed: bool,
    sender: broadcast::Sender<ObjectChange<K>>,
}

/// A watch, and its objects.
pub fn shared_watch<K: Resource<DynamicType = ()> + Clone + 'static>() -> (SharedWatch<K>, SharedObjects<K>) {
    let (store, writer) = reflector::store();
    let objects = SharedObjects {
        store,
        changes: Arc::new(Mutex::new(Changes {
            listed: false,
            sender: broadcast::Sender::new(KEPT_CHANGES),
        })),
    };
    let watch = SharedWatch {
        writer,
        objects: objects.clone(),
    };
    (watch, objects)
}

impl<K> SharedWatch<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    /// Watches the objects of `api` until it is dropped. `listing` says whether they could be listed.
    pub async fn run(mut self, api: Api<K>, mut listing: Listing) {
        let events = watcher(api, watcher::Config::default())
            .default_backoff()
            .modify(drop_managed_fields);
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.next().await {
            if let Ok(event) = &event {
                self.apply(event);
            }
            listing.note(&event);
        }
    }
}

impl<K: Resource<DynamicType = ()> + Clone + 'static> SharedWatch<K> {
    /// Applies `event` to the store, and passes it on to all subscribers.
    fn apply(&mut self, event: &Event<K>) {
        let store = &self.objects.store;
        // Held until the store has changed: a new subscriber gets either the change or a store that holds it.
        let mut changes = self.objects.changes();
        let before = match event {
            Event::Apply(object) | Event::Delete(object) => store.get(&ObjectRef::from_obj(object)),
            Event::Init | Event::InitApply(_) | Event::InitDone => None,
        };
        self.writer.apply_watcher_event(event);
        let change = match event {
            Event::Apply(object) => match store.get(&ObjectRef::from_obj(object)) {
                Some(now) => ObjectChange::Applied { before, now },
                None => return,
            },
            Event::Delete(object) => ObjectChange::Deleted {
                before,
                last: Arc::new(object.clone()),
            },
            Event::InitDone => {
                changes.listed = true;
                ObjectChange::Listed
            }
            Event::Init | Event::InitApply(_) => return,
        };
        // Fails if there is no subscriber.
        let _ = changes.sender.send(change);
    }
}

impl<K: Resource<DynamicType = ()> + Clone + 'static> SharedObjects<K> {
    fn changes(&self) -> MutexGuard<'_, Changes<K>> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All objects.
    pub fn store(&self) -> Store<K> {
        self.store.clone()
    }

    /// All changes from now on; [`ObjectChange::Listed`] first where all objects were listed before. A slow subscriber delays
    /// no other: when it is more than [`KEPT_CHANGES`] behind, it gets [`ObjectChange::Listed`] instead of the oldest ones.
    pub fn subscribe(&self) -> BoxStream<'static, ObjectChange<K>>
    where
        K: Send + Sync,
    {
        let changes = self.changes();
        let listed = stream::iter(changes.listed.then_some(ObjectChange::Listed));
        let receiver = changes.sender.subscribe();
        let later = stream::unfold(receiver, |mut receiver| async {
            match receiver.recv().await {
                Ok(change) => Some((change, receiver)),
                Err(RecvError::Lagged(_)) => Some((ObjectChange::Listed, receiver)),
                Err(RecvError::Closed) => None,
            }
        });
        listed.chain(later).boxed()
    }

    /// The objects that `changes` are about, deleted ones included: those that a controller is to reconcile.
    pub fn changed<C: Stream<Item = ObjectChange<K>>>(&self, changes: C) -> impl Stream<Item = Arc<K>> + use<K, C> {
        let store = self.store();
        changes.flat_map(move |change| match change.object() {
            Some(object) => stream::iter(vec![Arc::clone(object)]),
            None => stream::iter(store.state()),
        })
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::ResourceExt as _;

    use super::*;

    fn object(name: &str, version: &str) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.name = Some(name.to_owned());
        object.metadata.resource_version = Some(version.to_owned());
        object
    }

    fn names(changes: &mut (impl Stream<Item = Arc<ConfigMap>> + Unpin)) -> Vec<String> {
        let mut names = Vec::new();
        while let Some(Some(object)) = changes.next().now_or_never() {
            names.push(object.name_any());
        }
        names.sort();
        names
    }

    #[test]
    fn every_subscriber_gets_every_change_with_the_object_before() {
        let (mut watch, objects) = shared_watch();
        let mut one = objects.subscribe();
        let mut other = objects.subscribe();
        for event in [
            Event::Init,
            Event::InitApply(object("a", "1")),
            Event::InitDone,
            Event::Apply(object("a", "2")),
            Event::Delete(object("a", "3")),
        ] {
            watch.apply(&event);
        }
        for subscriber in [&mut one, &mut other] {
            let mut next = || subscriber.next().now_or_never().flatten();
            assert!(matches!(next(), Some(ObjectChange::Listed)));
            let changed = next().unwrap();
            let version = |object: Option<&ConfigMap>| object.and_then(ConfigMap::resource_version);
            assert_eq!(version(changed.before()).as_deref(), Some("1"));
            assert_eq!(version(changed.now()).as_deref(), Some("2"));
            let deleted = next().unwrap();
            assert_eq!(version(deleted.before()).as_deref(), Some("2"));
            assert!(deleted.now().is_none());
            assert_eq!(version(deleted.object().map(|object| &**object)).as_deref(), Some("3"));
            assert!(next().is_none());
        }
        assert!(objects.store().state().is_empty());
    }

    #[test]
    fn a_late_subscriber_reconciles_what_exists_and_deletions() {
        let (mut watch, objects) = shared_watch();
        watch.apply(&Event::InitApply(object("a", "1")));
        watch.apply(&Event::InitApply(object("b", "1")));
        let early = objects.subscribe();
        watch.apply(&Event::InitDone);
        let mut early = std::pin::pin!(objects.changed(early));
        assert_eq!(names(&mut early), ["a", "b"]);
        let mut late = std::pin::pin!(objects.changed(objects.subscribe()));
        assert_eq!(names(&mut late), ["a", "b"]);
        watch.apply(&Event::Delete(object("a", "2")));
        assert_eq!(names(&mut early), ["a"]);
        assert_eq!(names(&mut late), ["a"]);
    }

    #[test]
    fn a_subscriber_that_is_far_behind_gets_the_latest_changes_and_a_list() {
        let (mut watch, objects) = shared_watch();
        let mut slow = objects.subscribe();
        let count = KEPT_CHANGES + 2;
        for version in 0..count {
            watch.apply(&Event::Apply(object("a", &version.to_string())));
        }
        let mut next = || slow.next().now_or_never().flatten();
        assert!(matches!(next(), Some(ObjectChange::Listed)));
        let versions: Vec<String> = std::iter::from_fn(next)
            .filter_map(|change| change.now().and_then(ConfigMap::resource_version))
            .collect();
        assert_eq!(versions.len(), KEPT_CHANGES);
        assert_eq!(versions.last(), Some(&(count - 1).to_string()));
    }

    #[test]
    fn changes_that_no_subscriber_will_read_are_not_kept() {
        let (mut watch, objects) = shared_watch();
        drop(objects.subscribe());
        watch.apply(&Event::Apply(object("a", "1")));
        assert!(objects.changes().sender.is_empty());
    }

    // Why this is not kube's own shared store. When these tests fail, it can be.
    mod kube_shared_store {
        use std::pin::{Pin, pin};
        use std::sync::atomic::{AtomicUsize, Ordering};
        use std::task::{Context, Poll, Wake, Waker};

        use kube::runtime::reflector::ReflectHandle;
        use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
        use tokio_stream::wrappers::UnboundedReceiverStream;

        use super::*;

        /// Counts how often it is woken.
        #[derive(Default)]
        struct CountingWaker(AtomicUsize);

        impl Wake for CountingWaker {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }

        type Events = UnboundedSender<Result<Event<ConfigMap>, watcher::Error>>;

        /// A shared store with a subscriber: where its events are sent, the stream that applies them, and the subscriber.
        fn shared_store() -> (Events, impl Stream + Unpin, ReflectHandle<ConfigMap>) {
            let (sender, receiver) = unbounded_channel();
            let (_, writer) = reflector::store_shared(16);
            let handle = writer.subscribe().unwrap();
            let root = UnboundedReceiverStream::new(receiver).reflect_shared(writer);
            (sender, Box::pin(root), handle)
        }

        fn apply(root: &mut (impl Stream + Unpin)) {
            while root.next().now_or_never().is_some() {}
        }

        #[test]
        fn deletions_are_not_passed_on() {
            let (events, mut root, mut handle) = shared_store();
            events.send(Ok(Event::Apply(object("a", "1")))).unwrap();
            apply(&mut root);
            assert!(handle.next().now_or_never().flatten().is_some());
            events.send(Ok(Event::Delete(object("a", "2")))).unwrap();
            apply(&mut root);
            assert!(handle.next().now_or_never().is_none());
        }

        #[test]
        fn an_object_that_was_deleted_before_it_was_read_stalls_the_subscriber() {
            let (events, mut root, handle) = shared_store();
            for event in [
                Event::Apply(object("a", "1")),
                Event::Apply(object("b", "1")),
                Event::Delete(object("a", "2")),
            ] {
                events.send(Ok(event)).unwrap();
            }
            apply(&mut root);
            let wakes = Arc::new(CountingWaker::default());
            let waker = Waker::from(Arc::clone(&wakes));
            let mut handle: Pin<&mut ReflectHandle<ConfigMap>> = pin!(handle);
            let polled = handle.as_mut().poll_next(&mut Context::from_waker(&waker));
            assert!(matches!(polled, Poll::Pending), "although b can be read");
            events.send(Ok(Event::Apply(object("c", "1")))).unwrap();
            apply(&mut root);
            assert_eq!(wakes.0.load(Ordering::Relaxed), 0, "it is not polled again");
        }
    }
}
