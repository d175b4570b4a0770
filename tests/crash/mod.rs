//! Whatever is killed at whatever step, it converges.
//!
//! The steps are counted from outside, on the ways between the operator's processes and their servers, so that no
//! failpoint is in the product. A run without a kill counts them; then each run has one kill.

mod checks;
pub mod course;
mod ground;
mod images;
mod scenario;
mod walk;
pub mod way;

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};

use futures::FutureExt as _;

use course::{Kind, Moment, Point, Server, Tally, Victim, WayName, way};
use ground::Ground;
use images::Images;
use scenario::{AGENT, CONTROLLER, Expected, Outcome};

const CONTROLLER_API: WayName = way(CONTROLLER, Server::Api);
const CONTROLLER_REGISTRY: WayName = way(CONTROLLER, Server::Registry);
const AGENT_API: WayName = way(AGENT, Server::Api);
const AGENT_REGISTRY: WayName = way(AGENT, Server::Registry);
const AGENT_DOCKER: WayName = way(AGENT, Server::Docker);

const PROCESS_CONTROLLER: Victim = Victim::Process(CONTROLLER);
const PROCESS_AGENT: Victim = Victim::Process(AGENT);

/// Who is killed on which way.
const PAIRS: [(Victim, WayName); 18] = [
    (PROCESS_CONTROLLER, CONTROLLER_API),
    (PROCESS_CONTROLLER, CONTROLLER_REGISTRY),
    (PROCESS_CONTROLLER, AGENT_API),
    (PROCESS_CONTROLLER, AGENT_REGISTRY),
    (PROCESS_AGENT, AGENT_API),
    (PROCESS_AGENT, AGENT_REGISTRY),
    (PROCESS_AGENT, AGENT_DOCKER),
    (PROCESS_AGENT, CONTROLLER_API),
    (Victim::Registry, CONTROLLER_REGISTRY),
    (Victim::Registry, AGENT_REGISTRY),
    (Victim::Registry, CONTROLLER_API),
    (Victim::Dockerd, AGENT_DOCKER),
    (Victim::Dockerd, AGENT_REGISTRY),
    (Victim::ApiServer, CONTROLLER_API),
    (Victim::ApiServer, AGENT_REGISTRY),
    (Victim::Etcd, CONTROLLER_API),
    (Victim::Etcd, AGENT_API),
    (Victim::Etcd, CONTROLLER_REGISTRY),
];

const fn at(victim: Victim, way: WayName, moment: Moment) -> Point {
    Point {
        victim,
        way,
        moment,
        export: false,
    }
}

/// The most telling points, every victim among them; `tally` is that of a run without a kill.
fn telling(tally: &Tally) -> Vec<Point> {
    use Moment::{After, Before, Body};
    let half = |way: WayName| tally.bodies.get(&way).copied().unwrap_or_default() / 2;
    let exported = |point: Point| Point { export: true, ..point };
    // The tool's two tags, then the artifact's manifest and the index under its tag.
    let (tagged, artifact) = (Kind::Manifest, 4);
    vec![
        // First, for only one lane has these servers.
        exported(at(Victim::Dockerd, AGENT_DOCKER, Body(half(AGENT_REGISTRY)))),
        at(Victim::ApiServer, CONTROLLER_API, After(Kind::Object, 3)),
        at(Victim::Etcd, CONTROLLER_API, Before(Kind::Status, 3)),
        at(PROCESS_AGENT, AGENT_REGISTRY, Body(half(AGENT_REGISTRY))),
        exported(at(PROCESS_AGENT, AGENT_REGISTRY, Body(half(AGENT_REGISTRY)))),
        at(PROCESS_AGENT, AGENT_REGISTRY, After(tagged, 1)),
        at(PROCESS_AGENT, AGENT_API, After(Kind::Status, 2)),
        at(PROCESS_CONTROLLER, CONTROLLER_REGISTRY, Body(half(CONTROLLER_REGISTRY))),
        at(PROCESS_CONTROLLER, CONTROLLER_REGISTRY, Before(tagged, artifact)),
        at(PROCESS_CONTROLLER, CONTROLLER_REGISTRY, After(tagged, artifact)),
        at(PROCESS_CONTROLLER, CONTROLLER_API, After(Kind::Object, 2)),
        at(PROCESS_CONTROLLER, CONTROLLER_REGISTRY, After(Kind::Delete, 2)),
        at(Victim::Registry, AGENT_REGISTRY, Body(half(AGENT_REGISTRY))),
        at(Victim::Registry, CONTROLLER_REGISTRY, After(tagged, artifact)),
    ]
}

/// `count` points, spread evenly over the run for each victim and way: every third in the middle of blobs where
/// blobs pass, the others before and after requests by turns.
fn spread(tally: &Tally, count: usize) -> Vec<Point> {
    let each = count.div_ceil(PAIRS.len());
    let mut points = Vec::new();
    for (victim, way) in PAIRS {
        let requests = tally.requests.get(&(way, Kind::Any)).copied().unwrap_or_default();
        let bytes = tally.bodies.get(&way).copied().unwrap_or_default();
        for number in 0..each {
            let part = (number as f64 + 0.5) / each as f64;
            let request = ((requests as f64 * part) as usize).max(1);
            let moment = match number % 3 {
                0 if bytes > 0 => Moment::Body(((bytes as f64 * part) as u64).max(1)),
                1 => Moment::Before(Kind::Any, request),
                _ => Moment::After(Kind::Any, request),
            };
            // The graph needs the engine only at its begin.
            let export = number % 2 == 1 && (way.process == AGENT || victim == Victim::Dockerd);
            points.push(Point {
                export,
                ..at(victim, way, moment)
            });
        }
    }
    points
}

/// Only points whose text has this in it.
fn only(point: &Point) -> bool {
    std::env::var("POINT").map_or(true, |parts| {
        parts.split(',').any(|part| point.to_string().starts_with(part))
    })
}

/// How many points; without the variable the most telling ones.
fn kills() -> Option<usize> {
    let said = std::env::var("KILLS").ok()?;
    Some(
        said.parse()
            .unwrap_or_else(|_| panic!("KILLS={said} is no number of points")),
    )
}

/// How many runs go on at once, each in a lane with servers of its own, when there are many.
fn lanes() -> usize {
    std::env::var("LANES")
        .ok()
        .and_then(|said| said.parse().ok())
        .unwrap_or(2)
}

/// What came of one point: a line for people.
#[derive(Clone)]
enum Verdict {
    Converged(String),
    /// The run ended before the point came, which the order of what is parallel decides.
    Missed(String),
    Failed(String),
}

/// Runs points of `queue` that `ground` admits until none is left.
async fn lane(
    ground: Arc<Ground>,
    images: Arc<Images>,
    expected: Arc<Expected>,
    queue: Arc<Mutex<VecDeque<Point>>>,
) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    loop {
        let next = {
            let mut queue = queue.lock().expect("nobody panics with it");
            let admitted = queue.iter().position(|point| ground.admits(point.victim));
            admitted.and_then(|position| queue.remove(position))
        };
        let Some(point) = next else { return verdicts };
        let run = scenario::run(
            Arc::clone(&ground),
            Arc::clone(&images),
            Some(Arc::clone(&expected)),
            Some(point),
        );
        // One that fails says so, and the others are run.
        let verdict = match AssertUnwindSafe(run).catch_unwind().await {
            Ok(outcome) => said(point, &outcome),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                Verdict::Failed(format!("{point}: {}", text.unwrap_or_default()))
            }
        };
        let (Verdict::Converged(line) | Verdict::Missed(line) | Verdict::Failed(line)) = &verdict;
        println!("{line}");
        verdicts.push(verdict);
    }
}

fn said(point: Point, outcome: &Outcome) -> Verdict {
    let took = outcome.took.as_secs_f64();
    let Some(killed_at) = &outcome.killed_at else {
        return Verdict::Missed(format!("{point}: not reached, {took:.1} s"));
    };
    Verdict::Converged(format!(
        "{point}: converged in {took:.1} s, {} bytes in vain, {} uploads left; killed at {killed_at}",
        outcome.wasted, outcome.uploads_left
    ))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whatever_is_killed_it_converges() {
    let images = Arc::new(Images::make().await);
    let kills = kills();
    let mut grounds = vec![Arc::new(Ground::own().await)];
    match kills {
        None => grounds.push(Arc::new(Ground::shared().await)),
        Some(_) => {
            for _ in 1..lanes() {
                grounds.push(Arc::new(Ground::own().await));
            }
        }
    }
    for ground in &grounds {
        images.load(&ground.real);
    }
    let unharmed = scenario::run(Arc::clone(&grounds[0]), Arc::clone(&images), None, None).await;
    let (took, all) = (unharmed.took.as_secs_f64(), &unharmed.expected);
    println!(
        "without a kill: {took:.1} s, {} bytes of blobs, {:?}",
        all.sent, all.tally
    );
    assert_eq!((unharmed.wasted, unharmed.uploads_left), (0, 0));
    let expected = Arc::new(unharmed.expected);
    let mut points = match kills {
        Some(count) => spread(&expected.tally, count),
        None => telling(&expected.tally),
    };
    points.retain(only);
    let total = points.len();
    let queue = Arc::new(Mutex::new(VecDeque::from(points)));
    let mut lanes = Vec::new();
    for ground in grounds {
        let (images, expected, queue) = (Arc::clone(&images), Arc::clone(&expected), Arc::clone(&queue));
        lanes.push(lane(ground, images, expected, queue));
    }
    let verdicts = futures::future::join_all(lanes).await.concat();
    let of = |is: fn(&Verdict) -> bool| verdicts.iter().filter(|verdict| is(verdict)).count();
    let missed = of(|verdict| matches!(verdict, Verdict::Missed(_)));
    let converged = of(|verdict| matches!(verdict, Verdict::Converged(_)));
    println!("{total} points: {converged} converged, {missed} not reached");
    let failures: Vec<&String> = verdicts
        .iter()
        .filter_map(|verdict| match verdict {
            Verdict::Failed(line) => Some(line),
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
