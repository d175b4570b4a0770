//! Records the requests of one run: counts every request, tracks every upload, and kills a process at one point.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use hyper::Method;
use hyper::header::{HeaderMap, LOCATION};
use tokio::sync::Notify;

use super::proxy::Broken;

/// Part of the path of each request for the leader's Lease.
pub const LEADER: &str = "/leases/jackal-operator-leader";

/// A server behind a proxy.
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

/// The route from `process` to `server`.
pub const fn route(process: &'static str, server: Server) -> Route {
    Route { process, server }
}

/// What is killed or paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    Process(&'static str),
    /// Not killed, but paused for a while: current transfers are not interrupted.
    Stopped(&'static str),
    Registry,
    Dockerd,
    ApiServer,
    Etcd,
}

/// The kind of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Any request.
    Any,
    /// A request that changes nothing.
    Look,
    /// The start of an upload, or a mount.
    UploadStart,
    /// Content of an upload, or its commit.
    Blob,
    /// A manifest, by digest or under a tag.
    Manifest,
    /// The deletion of a manifest or of an object.
    Delete,
    /// A status of a JackalImage or JackalPackage.
    Status,
    /// Another write of these objects: creation, spec, finalizers.
    Object,
    /// A Lease or an event.
    Other,
}

/// When the target is killed: at the n-th request, before it is forwarded or after its response arrived (which is then
/// lost, if the target is one of the two ends); or after a number of blob bytes, in the middle of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    Before(Kind, usize),
    After(Kind, usize),
    Body(u64),
}

/// A point of a run at which the target is killed.
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

/// A request that is being forwarded.
#[derive(Clone, Debug)]
pub struct PassingRequest {
    pub route: Route,
    pub kind: Kind,
    pub method: Method,
    /// Path and query.
    pub target: String,
    number: BTreeMap<Kind, usize>,
    /// The index of the upload that it starts.
    begin: Option<usize>,
}

/// A recorded request.
#[derive(Clone, Debug)]
#[allow(dead_code)] // Some of it is only for messages.
pub struct RecordedRequest {
    pub at: Instant,
    pub route: Route,
    pub kind: Kind,
    pub method: Method,
    pub target: String,
}

/// An upload, from its start to its end.
#[derive(Clone, Debug)]
pub struct Upload {
    pub process: &'static str,
    pub repository: String,
    pub opened: Instant,
    pub bytes: u64,
    /// The digest of its commit, if the registry's response was received.
    pub committed: Option<String>,
    pub given_up: bool,
}

/// A request that starts an upload.
#[derive(Clone, Copy, Debug)]
pub struct UploadStart {
    pub process: &'static str,
    pub at: Instant,
    /// The response was forwarded to the process, which otherwise does not know the upload.
    pub record_response: bool,
}

/// What a run counted.
#[derive(Clone, Debug, Default)]
pub struct RequestCounts {
    /// Requests by route and kind; all of a route under [`Kind::Any`].
    pub requests: BTreeMap<(Route, Kind), usize>,
    /// Bytes of blobs by route.
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
    /// The request at which it happened.
    pub at: String,
    /// When the target was seen dead; for a process of the operator, when everything that it had sent was read.
    pub dead: Option<Instant>,
}

/// Records the requests of one run and kills a process at its kill point.
pub struct Interceptor {
    state: Mutex<State>,
    kill: Box<dyn Fn(Target) + Send + Sync>,
    killed: Notify,
}

impl Interceptor {
    /// An interceptor that kills at `point`, if there is one; `kill` returns when the target is dead.
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

    /// An interceptor that kills nothing.
    pub fn without_kill() -> Arc<Self> {
        Self::new(None, |_| {})
    }

    /// Returns when the target is dead.
    pub async fn killed(&self) {
        self.killed.notified().await;
    }

    /// Marks the target as exited: later requests are from its successor.
    pub fn mark_exited(&self) {
        if let Some(kill_record) = &mut self.state().kill_record {
            kill_record.dead = Some(Instant::now());
        }
    }

    /// Disables the kill.
    pub fn disarm(&self) {
        self.state().point = None;
    }

    /// The kill, once it started.
    pub fn kill_record(&self) -> Option<Kill> {
        self.state().kill_record.clone()
    }

    /// The counts so far.
    pub fn counts(&self) -> RequestCounts {
        self.state().counts.clone()
    }

    /// Every request so far, in order.
    pub fn recorded(&self) -> Vec<RecordedRequest> {
        self.state().recorded.clone()
    }

    /// Every request that started an upload.
    pub fn upload_starts(&self) -> Vec<UploadStart> {
        self.state().upload_starts.clone()
    }

    /// Every upload that was started.
    pub fn uploads(&self) -> Vec<Upload> {
        self.state().uploads.values().cloned().collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with it")
    }

    /// Counts a request; an error means that it is not forwarded.
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
        // Its renewals depend on the clock, not on the work.
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

    /// Counts bytes of a blob; an error means that they are not forwarded.
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

    /// Records a response; an error means that it is not forwarded.
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

    /// Kills the target if this is the kill point; then an error if the message is not forwarded.
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

/// Repository and id of an upload from its address; the id is empty for the request that starts it.
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
