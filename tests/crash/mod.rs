//! After a kill of any process at any step, the operator converges.
//!
//! The steps are counted from outside, by proxies between the operator's processes and their servers, so that the
//! product contains no failpoints. A run without a kill counts them; then each run has one kill.

mod checks;
mod images;
pub mod interceptor;
pub mod proxy;
mod scenario;
pub mod servers;
mod storage;

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};

use futures::FutureExt as _;

use images::Images;
use interceptor::{KillPoint, Kind, RequestCounts, Route, Server, Target, Trigger, route};
use scenario::{AGENT, CONTROLLER, Expected, Outcome};
use servers::Servers;

const CONTROLLER_API: Route = route(CONTROLLER, Server::Api);
const CONTROLLER_REGISTRY: Route = route(CONTROLLER, Server::Registry);
const AGENT_API: Route = route(AGENT, Server::Api);
const AGENT_REGISTRY: Route = route(AGENT, Server::Registry);
const AGENT_DOCKER: Route = route(AGENT, Server::Docker);

const PROCESS_CONTROLLER: Target = Target::Process(CONTROLLER);
const PROCESS_AGENT: Target = Target::Process(AGENT);

/// The targets and the routes on which they are killed.
const PAIRS: [(Target, Route); 18] = [
    (PROCESS_CONTROLLER, CONTROLLER_API),
    (PROCESS_CONTROLLER, CONTROLLER_REGISTRY),
    (PROCESS_CONTROLLER, AGENT_API),
    (PROCESS_CONTROLLER, AGENT_REGISTRY),
    (PROCESS_AGENT, AGENT_API),
    (PROCESS_AGENT, AGENT_REGISTRY),
    (PROCESS_AGENT, AGENT_DOCKER),
    (PROCESS_AGENT, CONTROLLER_API),
    (Target::Registry, CONTROLLER_REGISTRY),
    (Target::Registry, AGENT_REGISTRY),
    (Target::Registry, CONTROLLER_API),
    (Target::Dockerd, AGENT_DOCKER),
    (Target::Dockerd, AGENT_REGISTRY),
    (Target::ApiServer, CONTROLLER_API),
    (Target::ApiServer, AGENT_REGISTRY),
    (Target::Etcd, CONTROLLER_API),
    (Target::Etcd, AGENT_API),
    (Target::Etcd, CONTROLLER_REGISTRY),
];

const fn at(target: Target, route: Route, trigger: Trigger) -> KillPoint {
    KillPoint {
        target,
        route,
        trigger,
        export: false,
    }
}

/// The most relevant points, with every target; `counts` is from a run without a kill.
fn most_relevant_points(counts: &RequestCounts) -> Vec<KillPoint> {
    use Trigger::{After, Before, Body};
    let half = |route: Route| counts.bodies.get(&route).copied().unwrap_or_default() / 2;
    let exported = |point: KillPoint| KillPoint { export: true, ..point };
    // The two tags of the tool image, then the artifact's manifest and the index under its tag.
    let (tagged, artifact) = (Kind::Manifest, 4);
    vec![
        // First, because only one worker has these servers.
        exported(at(Target::Dockerd, AGENT_DOCKER, Body(half(AGENT_REGISTRY)))),
        at(Target::ApiServer, CONTROLLER_API, After(Kind::Object, 3)),
        at(Target::Etcd, CONTROLLER_API, Before(Kind::Status, 3)),
        at(PROCESS_AGENT, AGENT_REGISTRY, Body(half(AGENT_REGISTRY))),
        exported(at(PROCESS_AGENT, AGENT_REGISTRY, Body(half(AGENT_REGISTRY)))),
        at(PROCESS_AGENT, AGENT_REGISTRY, After(tagged, 1)),
        at(PROCESS_AGENT, AGENT_API, After(Kind::Status, 2)),
        at(PROCESS_CONTROLLER, CONTROLLER_REGISTRY, Body(half(CONTROLLER_REGISTRY))),
        at(PROCESS_CONTROLLER, CONTROLLER_REGISTRY, Before(tagged, artifact)),
        at(PROCESS_CONTROLLER, CONTROLLER_REGISTRY, After(tagged, artifact)),
        at(PROCESS_CONTROLLER, CONTROLLER_API, After(Kind::Object, 2)),
        at(PROCESS_CONTROLLER, CONTROLLER_REGISTRY, After(Kind::Delete, 2)),
        at(Target::Registry, AGENT_REGISTRY, Body(half(AGENT_REGISTRY))),
        at(Target::Registry, CONTROLLER_REGISTRY, After(tagged, artifact)),
    ]
}

/// `count` points, spread evenly over the run for each target and route: every third in the middle of blobs if there
/// are blobs, the others alternately before and after requests.
fn evenly_spread_points(counts: &RequestCounts, count: usize) -> Vec<KillPoint> {
    let each = count.div_ceil(PAIRS.len());
    let mut points = Vec::new();
    for (target, route) in PAIRS {
        let requests = counts.requests.get(&(route, Kind::Any)).copied().unwrap_or_default();
        let bytes = counts.bodies.get(&route).copied().unwrap_or_default();
        for number in 0..each {
            let part = (number as f64 + 0.5) / each as f64;
            let request = ((requests as f64 * part) as usize).max(1);
            let trigger = match number % 3 {
                0 if bytes > 0 => Trigger::Body(((bytes as f64 * part) as u64).max(1)),
                1 => Trigger::Before(Kind::Any, request),
                _ => Trigger::After(Kind::Any, request),
            };
            // Reading from the folder needs the engine only at the start.
            let export = number % 2 == 1 && (route.process == AGENT || target == Target::Dockerd);
            points.push(KillPoint {
                export,
                ..at(target, route, trigger)
            });
        }
    }
    points
}

/// Whether the point's text starts with one of the prefixes in the variable POINT.
fn only(point: &KillPoint) -> bool {
    std::env::var("POINT").map_or(true, |parts| {
        parts.split(',').any(|part| point.to_string().starts_with(part))
    })
}

/// The number of points from the variable KILLS; without it, the most relevant ones are used.
fn kill_count() -> Option<usize> {
    let value = std::env::var("KILLS").ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("KILLS={value} is no number of points")),
    )
}

/// The number of concurrent runs, each with its own servers, if there are many points.
fn worker_count() -> usize {
    std::env::var("LANES")
        .ok()
        .and_then(|value| value.parse().ok())
        .unwrap_or(2)
}

/// The result of one point, as a printable line.
#[derive(Clone)]
enum PointResult {
    Converged(String),
    /// The run ended before the point was reached, because the order of parallel requests varies.
    Missed(String),
    Failed(String),
}

/// Runs points of `queue` that `servers` supports until none is left.
async fn run_points(
    servers: Arc<Servers>,
    images: Arc<Images>,
    expected: Arc<Expected>,
    queue: Arc<Mutex<VecDeque<KillPoint>>>,
) -> Vec<PointResult> {
    let mut results = Vec::new();
    loop {
        let next = {
            let mut queue = queue.lock().expect("nobody panics with it");
            let admitted = queue.iter().position(|point| servers.admits(point.target));
            admitted.and_then(|position| queue.remove(position))
        };
        let Some(point) = next else { return results };
        let run = scenario::run(
            Arc::clone(&servers),
            Arc::clone(&images),
            Some(Arc::clone(&expected)),
            Some(point),
        );
        // A failed run is reported, and the others continue.
        let result = match AssertUnwindSafe(run).catch_unwind().await {
            Ok(outcome) => describe(point, &outcome),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                PointResult::Failed(format!("{point}: {}", text.unwrap_or_default()))
            }
        };
        let (PointResult::Converged(line) | PointResult::Missed(line) | PointResult::Failed(line)) = &result;
        println!("{line}");
        results.push(result);
    }
}

fn describe(point: KillPoint, outcome: &Outcome) -> PointResult {
    let took = outcome.took.as_secs_f64();
    let Some(killed_at) = &outcome.killed_at else {
        return PointResult::Missed(format!("{point}: not reached, {took:.1} s"));
    };
    PointResult::Converged(format!(
        "{point}: converged in {took:.1} s, {} bytes in vain, {} uploads left; killed at {killed_at}",
        outcome.wasted, outcome.uploads_left
    ))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_operator_converges_after_any_kill() {
    let images = Arc::new(Images::make().await);
    let kill_count = kill_count();
    let mut servers = vec![Arc::new(Servers::start_own().await)];
    match kill_count {
        None => servers.push(Arc::new(Servers::shared().await)),
        Some(_) => {
            for _ in 1..worker_count() {
                servers.push(Arc::new(Servers::start_own().await));
            }
        }
    }
    for servers in &servers {
        images.load(&servers.engine);
    }
    let undisturbed = scenario::run(Arc::clone(&servers[0]), Arc::clone(&images), None, None).await;
    let (took, all) = (undisturbed.took.as_secs_f64(), &undisturbed.expected);
    println!(
        "without a kill: {took:.1} s, {} bytes of blobs, {:?}",
        all.sent, all.counts
    );
    assert_eq!((undisturbed.wasted, undisturbed.uploads_left), (0, 0));
    let expected = Arc::new(undisturbed.expected);
    let mut points = match kill_count {
        Some(count) => evenly_spread_points(&expected.counts, count),
        None => most_relevant_points(&expected.counts),
    };
    points.retain(only);
    let total = points.len();
    let queue = Arc::new(Mutex::new(VecDeque::from(points)));
    let mut worker_count = Vec::new();
    for servers in servers {
        let (images, expected, queue) = (Arc::clone(&images), Arc::clone(&expected), Arc::clone(&queue));
        worker_count.push(run_points(servers, images, expected, queue));
    }
    let results = futures::future::join_all(worker_count).await.concat();
    let of = |is: fn(&PointResult) -> bool| results.iter().filter(|result| is(result)).count();
    let missed = of(|result| matches!(result, PointResult::Missed(_)));
    let converged = of(|result| matches!(result, PointResult::Converged(_)));
    println!("{total} points: {converged} converged, {missed} not reached");
    let failures: Vec<&String> = results
        .iter()
        .filter_map(|result| match result {
            PointResult::Failed(line) => Some(line),
            _ => None,
        })
        .collect();
    assert!(
        failures.is_empty(),
        "{} of {total} failed:\n{failures:#?}",
        failures.len()
    );
    assert!(
        missed * 10 <= total,
        "{missed} of {total} points were not reached, so this run shows little"
    );
}
