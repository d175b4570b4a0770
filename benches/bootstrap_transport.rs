//! The way of the first files into a cluster: the seed through the API server's port-forward, and ConfigMaps as Zarf's injector
//! creates them. `scripts/bench/bootstrap-transport` runs it in a cluster of its own.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use jackal_operator::bootstrap::seed::objects::{self, SeedRole, SeedSpec};
use jackal_operator::bootstrap::seed::{SeedFile, deliver, deliver_to_all, file_list};
use jackal_operator::oci::Digest;
use jackal_operator::transfer::Progress;
use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use tokio_util::sync::CancellationToken;

/// The bytes of a ConfigMap and the pause after it in Zarf's injector.
const CHUNK: usize = 768 * 1024;
const PAUSE: Duration = Duration::from_millis(250);
/// What the seed is to be faster by.
const TARGET: f64 = 10.0;
/// The longest wait for pods.
const LIMIT: Duration = Duration::from_secs(120);

/// A way into the cluster, with its seconds in each round.
struct Way {
    name: &'static str,
    seconds: Vec<f64>,
}

struct Bench {
    client: Client,
    program: Vec<u8>,
    image: String,
    megabytes: usize,
}

#[tokio::main]
async fn main() {
    rustls::crypto::ring::default_provider().install_default().unwrap();
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    let [program, image, megabytes, rounds] = &arguments[..] else {
        panic!("arguments: SEED-PROGRAM IMAGE MEGABYTES ROUNDS");
    };
    let bench = Bench {
        client: Client::try_default().await.unwrap(),
        program: std::fs::read(program).unwrap(),
        image: image.clone(),
        megabytes: megabytes.parse().unwrap(),
    };
    bench.prepare().await;
    let mut ways = [
        "seed",
        "seed, two nodes",
        "ConfigMaps, 250 ms pauses",
        "ConfigMaps, no pauses",
    ]
    .map(|name| Way {
        name,
        seconds: Vec::new(),
    });
    for round in 0..rounds.parse().unwrap() {
        eprintln!("round {}", round + 1);
        let content = bench.content(round);
        ways[0].seconds.push(bench.seed(&content, 1).await);
        ways[1].seconds.push(bench.seed(&content, 2).await);
        ways[2].seconds.push(bench.config_maps(&content, PAUSE).await);
        ways[3].seconds.push(bench.config_maps(&content, Duration::ZERO).await);
    }
    report(&mut ways, bench.megabytes);
}

fn report(ways: &mut [Way; 4], megabytes: usize) {
    println!("\n| way | s | from-to | MB/s | times ours |\n|---|---|---|---|---|");
    let ours = median(&mut ways[0].seconds);
    for way in ways.iter_mut() {
        let seconds = median(&mut way.seconds);
        println!(
            "| {} | {seconds:.2} | {:.2}-{:.2} | {:.0} | {:.1} |",
            way.name,
            way.seconds[0],
            way.seconds[way.seconds.len() - 1],
            megabytes as f64 / seconds,
            seconds / ours
        );
    }
    let ratio = median(&mut ways[2].seconds) / ours;
    let verdict = if ratio >= TARGET { "reached" } else { "MISSED" };
    println!("\ngoal: {ratio:.1} times faster than ConfigMaps with pauses, target {TARGET}: {verdict}");
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

impl Bench {
    /// Creates what all rounds share, and finds that the API server takes a ConfigMap of 1 MiB and no byte more.
    async fn prepare(&self) {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        namespaces
            .create(&PostParams::default(), &objects::namespace())
            .await
            .unwrap();
        let half = vec![0xa5; 1 << 19];
        let full = BTreeMap::from([("amd64".to_owned(), half.clone()), ("arm64".to_owned(), half)]);
        let mut map = objects::config_map(&full).unwrap();
        self.maps().create(&PostParams::default(), &map).await.unwrap();
        self.maps()
            .delete(&map.name_any(), &DeleteParams::default())
            .await
            .unwrap();
        map.binary_data
            .as_mut()
            .unwrap()
            .insert("one".to_owned(), ByteString(vec![0]));
        self.maps().create(&PostParams::default(), &map).await.unwrap_err();
        let programs = BTreeMap::from([("amd64".to_owned(), self.program.clone())]);
        let map = objects::config_map(&programs).unwrap();
        self.maps().create(&PostParams::default(), &map).await.unwrap();
    }

    fn maps(&self) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), objects::NAMESPACE)
    }

    /// Content that differs in each round and cannot be compressed.
    fn content(&self, round: u64) -> Bytes {
        let mut random = fastrand::Rng::with_seed(round);
        let mut content = vec![0; self.megabytes * 1_000_000];
        random.fill(&mut content);
        content.into()
    }

    /// The seconds to deliver to so many pods, from the first request until all have verified the files.
    async fn seed(&self, content: &Bytes, nodes: usize) -> f64 {
        let file = |name: &str, content: Bytes| SeedFile {
            name: name.to_owned(),
            size: content.len() as u64,
            digest: Digest::of(&content),
            content: Arc::new(content),
        };
        // What is executed in the end: another seed, which waits.
        let files = [
            file("program", self.program.clone().into()),
            file("content", content.clone()),
        ];
        let command = format!(
            "/seed/program --listen 127.0.0.1:31996 --directory /seed/unused --list {} -- none",
            Digest::of(b"")
        );
        let spec = SeedSpec {
            architecture: "amd64".to_owned(),
            image: self.image.clone(),
            list: file_list(&files).unwrap().1,
            size: content.len() as u64 * 2,
            command: command.split(' ').map(str::to_owned).collect(),
            role: SeedRole::Serve { port: 31996 },
        };
        let sets: Api<DaemonSet> = Api::namespaced(self.client.clone(), objects::NAMESPACE);
        let set = sets
            .create(&PostParams::default(), &objects::daemon_set(&spec))
            .await
            .unwrap();
        let pods = self.pods(2, "Running").await;
        let (progress, stop) = (Progress::default(), CancellationToken::new());
        let begin = Instant::now();
        match &pods[..nodes] {
            [pod] => deliver(&self.client, objects::NAMESPACE, pod, &files, &progress, &stop)
                .await
                .unwrap(),
            pods => deliver_to_all(&self.client, objects::NAMESPACE, pods, &files, &progress, &stop)
                .await
                .unwrap(),
        }
        let seconds = begin.elapsed().as_secs_f64();
        let size: u64 = files.iter().map(|file| file.size).sum();
        assert_eq!(progress.done(), size * nodes as u64);
        sets.delete(&set.name_any(), &DeleteParams::foreground()).await.unwrap();
        self.pods(0, "").await;
        seconds
    }

    /// The names of the pods of the seed, when there are so many in the phase.
    async fn pods(&self, count: usize, phase: &str) -> Vec<String> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), objects::NAMESPACE);
        let begin = Instant::now();
        loop {
            let pods = api.list(&ListParams::default()).await.unwrap().items;
            let is_there = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some(phase);
            if pods.len() == count && pods.iter().all(is_there) {
                return pods.iter().map(|pod| pod.name_any()).collect();
            }
            assert!(begin.elapsed() < LIMIT, "{pods:#?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The seconds to create the ConfigMaps. That a pod mounts them and joins the parts is not counted.
    async fn config_maps(&self, content: &Bytes, pause: Duration) -> f64 {
        let maps = self.maps();
        let chunks: Vec<ConfigMap> = content
            .chunks(CHUNK)
            .enumerate()
            .map(|(index, chunk)| {
                let mut map = ConfigMap::default();
                map.metadata.name = Some(format!("payload-{index:03}"));
                map.binary_data = Some(BTreeMap::from([("payload".to_owned(), ByteString(chunk.to_vec()))]));
                map
            })
            .collect();
        let begin = Instant::now();
        for chunk in &chunks {
            maps.create(&PostParams::default(), chunk).await.unwrap();
            tokio::time::sleep(pause).await;
        }
        let seconds = begin.elapsed().as_secs_f64();
        for chunk in &chunks {
            maps.delete(&chunk.name_any(), &DeleteParams::default()).await.unwrap();
        }
        seconds
    }
}
