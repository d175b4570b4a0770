//! What happens on the ways of one run: every request counted, every upload followed, and the one point at which a
//! process is killed.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use hyper::Method;
use hyper::header::{HeaderMap, LOCATION};
use tokio::sync::Notify;

use super::proxy::Broken;

/// What is in the path of each request about the leader's Lease.
pub const LEADER: &str = "/leases/jackal-operator-leader";

/// A server at the end of a way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Server {
    Api,
    Registry,
    Docker,
}

/// From a process of the operator to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Route {
    pub process: &'static str,
    pub server: Server,
}

/// The name of a way.
pub const fn route(process: &'static str, server: Server) -> Route {
    Route { process, server }
}

/// What is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    Process(&'static str),
    /// Not killed, but stopped for a while: what is under way is not broken off.
    Stopped(&'static str),
    Registry,
    Dockerd,
    ApiServer,
    Etcd,
}

/// What a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Whatever it is.
    Any,
    /// It changes nothing.
    Look,
    /// The begin of an upload, or a mount.
    UploadStart,
    /// Bytes of an upload, or its commit.
    Blob,
    /// A manifest, by digest or under a tag.
    Manifest,
    /// The deletion of a manifest or of an object.
    Delete,
    /// A status of our objects.
    Status,
    /// Another write of our objects: their being there, spec and finalizers.
    Object,
    /// A Lease or an event.
    Other,
}

/// When a victim is killed: at the n-th request, before it goes on or once its answer came back (which is then lost,
/// if the victim is one of both ends); or when so many bytes of blobs have passed, in the middle of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    Before(Kind, usize),
    After(Kind, usize),
    Body(u64),
}

/// A point of a run at which a process is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KillPoint {
    pub target: Target,
    pub route: Route,
    pub trigger: Trigger,
    /// The agent cannot read the engine's folder, so the engine exports.
    pub export: bool,
}

impl fmt::Display for KillPoint {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let target = match self.target {
            Target::Process(name) | Target::Stopped(name) => name.to_owned(),
            other => format!("{other:?}").to_lowercase(),
        };
        let (from, server) = (self.route.process, format!("{:?}", self.route.server).to_lowercase());
        let export = if self.export { ", by export" } else { "" };
        match self.trigger {
            Trigger::Before(kind, number) => {
                write!(to, "{target} before {kind:?} {number} of {from} to {server}{export}")
            }
            Trigger::After(kind, number) => {
                write!(to, "{target} after {kind:?} {number} of {from} to {server}{export}")
            }
            Trigger::Body(bytes) => write!(to, "{target} at byte {bytes} between {from} and {server}{export}"),
        }
    }
}

impl KillPoint {
    fn is_client(&self, route: Route) -> bool {
        self.target == Target::Process(route.process)
    }

    fn is_server(&self, route: Route) -> bool {
        let server = match self.target {
            Target::Process(_) | Target::Stopped(_) | Target::Etcd => return false,
            Target::Registry => Server::Registry,
            Target::Dockerd => Server::Docker,
            Target::ApiServer => Server::Api,
        };
        server == route.server
    }
}

/// A request that passes.
#[derive(Clone, Debug)]
pub struct PassingRequest {
    pub route: Route,
    pub kind: Kind,
    pub method: Method,
    /// Path and query.
    pub target: String,
    number: BTreeMap<Kind, usize>,
    /// Where it begins an upload: its place among all that do.
    begin: Option<usize>,
}

/// A noted request.
#[derive(Clone, Debug)]
#[allow(dead_code)] // Some of it is only for messages.
pub struct RecordedRequest {
    pub at: Instant,
    pub route: Route,
    pub kind: Kind,
    pub method: Method,
    pub target: String,
}

/// An upload, from its begin to its end.
#[derive(Clone, Debug)]
pub struct Upload {
    pub process: &'static str,
    pub repository: String,
    pub opened: Instant,
    pub bytes: u64,
    /// The digest under which it was committed, with the registry's answer seen.
    pub committed: Option<String>,
    pub given_up: bool,
}

/// A request that begins an upload.
#[derive(Clone, Copy, Debug)]
pub struct UploadStart {
    pub process: &'static str,
    pub at: Instant,
    /// The answer went on to the process, which else does not know of the upload.
    pub record_response: bool,
}

/// What a run counted.
#[derive(Clone, Debug, Default)]
pub struct RequestCounts {
    /// Requests by way and kind; all of a way under [`Kind::Any`].
    pub requests: BTreeMap<(Route, Kind), usize>,
    /// Bytes of blobs by way.
    pub bodies: BTreeMap<Route, u64>,
}

#[derive(Default)]
struct State {
    counts: RequestCounts,
    recorded: Vec<RecordedRequest>,
    uploads: HashMap<String, Upload>,
    upload_starts: Vec<UploadStart>,
    point: Option<KillPoint>,
    kill_record: Option<Kill>,
}

/// A kill.
#[derive(Clone, Debug)]
pub struct Kill {
    pub point: KillPoint,
    /// The request at which it came.
    pub at: String,
    /// When the victim was seen dead; of a process of the operator, when all that it had sent was long read.
    pub dead: Option<Instant>,
}

/// The course of one run.
pub struct Interceptor {
    state: Mutex<State>,
    kill: Box<dyn Fn(Target) + Send + Sync>,
    killed: Notify,
}

impl Interceptor {
    /// A course on which `point` is met, where there is one; `kill` returns when the victim is dead.
    pub fn new(point: Option<KillPoint>, kill: impl Fn(Target) + Send + Sync + 'static) -> Arc<Self> {
        let state = State {
            point,
            ..State::default()
        };
        Arc::new(Self {
            state: Mutex::new(state),
            kill: Box::new(kill),
            killed: Notify::new(),
        })
    }

    /// A course on which nobody is killed.
    pub fn without_kill() -> Arc<Self> {
        Self::new(None, |_| {})
    }

    /// Returns when the victim is dead.
    pub async fn killed(&self) {
        self.killed.notified().await;
    }

    /// What comes from now on is not the victim's, as it was before the kill.
    pub fn mark_exited(&self) {
        if let Some(kill_record) = &mut self.state().kill_record {
            kill_record.dead = Some(Instant::now());
        }
    }

    /// Nobody is killed from now on.
    pub fn disarm(&self) {
        self.state().point = None;
    }

    /// The kill, once it began.
    pub fn kill_record(&self) -> Option<Kill> {
        self.state().kill_record.clone()
    }

    /// What passed so far.
    pub fn counts(&self) -> RequestCounts {
        self.state().counts.clone()
    }

    /// Every request so far, in its order.
    pub fn recorded(&self) -> Vec<RecordedRequest> {
        self.state().recorded.clone()
    }

    /// Every request that began an upload.
    pub fn upload_starts(&self) -> Vec<UploadStart> {
        self.state().upload_starts.clone()
    }

    /// Every upload that was begun.
    pub fn uploads(&self) -> Vec<Upload> {
        self.state().uploads.values().cloned().collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with it")
    }

    /// Counts a request; an error when it goes no further.
    pub(super) fn record_request(&self, route: Route, method: &Method, target: &str) -> Result<PassingRequest, Broken> {
        let kind = kind_of(route.server, method, target);
        let mut seen = PassingRequest {
            route,
            kind,
            method: method.clone(),
            target: target.to_owned(),
            number: BTreeMap::new(),
            begin: None,
        };
        let recorded = RecordedRequest {
            at: Instant::now(),
            route,
            kind,
            method: method.clone(),
            target: target.to_owned(),
        };
        let mut state = self.state();
        state.recorded.push(recorded);
        // Its renewals come by the clock, not by what is done.
        if target.contains(LEADER) {
            return Ok(seen);
        }
        for kind in [Kind::Any, kind] {
            let count = state.counts.requests.entry((route, kind)).or_default();
            *count += 1;
            seen.number.insert(kind, *count);
        }
        if kind == Kind::UploadStart {
            seen.begin = Some(state.upload_starts.len());
            state.upload_starts.push(UploadStart {
                process: route.process,
                at: Instant::now(),
                record_response: false,
            });
        }
        let meets = |trigger: Trigger| matches!(trigger, Trigger::Before(kind, number) if seen.number.get(&kind) == Some(&number));
        self.kill_if_reached(state, &seen, meets, |point| point.is_client(route))?;
        Ok(seen)
    }

    /// Counts bytes of a blob; an error when they go no further.
    pub(super) fn record_bytes(&self, seen: &PassingRequest, bytes: usize) -> Result<(), Broken> {
        let (route, bytes) = (seen.route, bytes as u64);
        if route.server == Server::Api || (route.server == Server::Registry && seen.kind != Kind::Blob) {
            return Ok(());
        }
        let mut state = self.state();
        let passed = state.counts.bodies.entry(route).or_default();
        *passed += bytes;
        let passed = *passed;
        if let Some(upload) = upload_of(&seen.target).and_then(|(_, id)| state.uploads.get_mut(id)) {
            upload.bytes += bytes;
        }
        let meets = |trigger: Trigger| matches!(trigger, Trigger::Body(at) if passed >= at);
        self.kill_if_reached(state, seen, meets, |point| {
            point.is_client(route) || point.is_server(route)
        })
    }

    /// Notes an answer; an error when it goes no further.
    pub(super) fn record_response(
        &self,
        seen: &PassingRequest,
        status: u16,
        headers: &HeaderMap,
    ) -> Result<(), Broken> {
        let route = seen.route;
        let mut state = self.state();
        if route.server == Server::Registry {
            track_upload(&mut state, seen, status, headers);
        }
        let meets = |trigger: Trigger| matches!(trigger, Trigger::After(kind, number) if seen.number.get(&kind) == Some(&number));
        self.kill_if_reached(state, seen, meets, |point| {
            point.is_client(route) || point.is_server(route)
        })?;
        if let Some(begin) = seen.begin {
            self.state().upload_starts[begin].record_response = true;
        }
        Ok(())
    }

    /// Kills the victim if this is the point; then an error if what passes goes no further.
    fn kill_if_reached(
        &self,
        mut state: MutexGuard<'_, State>,
        seen: &PassingRequest,
        meets: impl Fn(Trigger) -> bool,
        breaks: impl Fn(&KillPoint) -> bool,
    ) -> Result<(), Broken> {
        let Some(point) = state
            .point
            .take_if(|point| point.route == seen.route && meets(point.trigger))
        else {
            return Ok(());
        };
        let path = seen.target.split('?').next().unwrap_or_default();
        let at = format!("{} {path}", seen.method);
        state.kill_record = Some(Kill { point, at, dead: None });
        drop(state);
        (self.kill)(point.target);
        self.mark_exited();
        self.killed.notify_one();
        match breaks(&point) {
            true => Err("its end was killed".into()),
            false => Ok(()),
        }
    }
}

fn kind_of(server: Server, method: &Method, target: &str) -> Kind {
    let path = target.split('?').next().unwrap_or(target);
    if matches!(*method, Method::GET | Method::HEAD) {
        return Kind::Look;
    }
    match server {
        Server::Docker => Kind::Look,
        Server::Registry if path.contains("/blobs/uploads") => match *method {
            Method::POST => Kind::UploadStart,
            Method::DELETE => Kind::Other,
            _ => Kind::Blob,
        },
        Server::Registry if *method == Method::DELETE => Kind::Delete,
        Server::Registry => Kind::Manifest,
        Server::Api if !path.starts_with("/apis/jackal.dev/") => Kind::Other,
        Server::Api if path.ends_with("/status") => Kind::Status,
        Server::Api if *method == Method::DELETE => Kind::Delete,
        Server::Api => Kind::Object,
    }
}

/// Repository and id of an upload by its address; the id is empty where one is begun.
fn upload_of(target: &str) -> Option<(&str, &str)> {
    let path = target.split('?').next()?;
    let (repository, id) = path.split_once("/blobs/uploads/")?;
    Some((repository.rsplit_once("/v2/")?.1, id))
}

fn track_upload(state: &mut State, seen: &PassingRequest, status: u16, headers: &HeaderMap) {
    let Some((repository, id)) = upload_of(&seen.target) else {
        return;
    };
    match (&seen.method, status) {
        (&Method::POST, 202) => {
            let location = headers.get(LOCATION).and_then(|location| location.to_str().ok());
            if let Some((_, id)) = location.and_then(upload_of) {
                let upload = Upload {
                    process: seen.route.process,
                    repository: repository.to_owned(),
                    opened: Instant::now(),
                    bytes: 0,
                    committed: None,
                    given_up: false,
                };
                state.uploads.insert(id.to_owned(), upload);
            }
        }
        (&Method::PUT, 201) => {
            let digest = seen
                .target
                .split(['?', '&'])
                .find_map(|part| part.strip_prefix("digest="));
            if let Some(upload) = state.uploads.get_mut(id) {
                upload.committed = digest.map(|digest| digest.replace("%3A", ":"));
            }
        }
        (&Method::DELETE, 204) => {
            if let Some(upload) = state.uploads.get_mut(id) {
                upload.given_up = true;
            }
        }
        _ => {}
    }
}
