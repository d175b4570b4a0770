//! The real engines, and images for them.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use jackal_operator::oci::Digest;
use jackal_operator::source::docker::{Docker, Engine, StorageKind};
use serde_json::json;

/// An engine in one of the three supported configurations.
pub struct DockerEngine {
    pub host: String,
    pub shape: StorageKind,
    /// Reads only by its API.
    pub docker: Docker,
}

impl DockerEngine {
    pub fn at(host: String, shape: StorageKind) -> Self {
        let engine = Engine::new(Some(&host), Duration::from_secs(20)).unwrap();
        Self {
            host,
            shape,
            docker: Docker::new(engine, Some(PathBuf::from("/nowhere"))),
        }
    }

    /// 20.10, current with the classic store, current with the containerd store.
    pub fn all() -> [Self; 3] {
        [
            ("JACKAL_DOCKER20", StorageKind::Classic),
            ("JACKAL_DOCKER_CLASSIC", StorageKind::Classic),
            ("JACKAL_DOCKER_CONTAINERD", StorageKind::Containerd),
        ]
        .map(|(variable, shape)| Self::at(required(variable), shape))
    }

    /// The same engine, read from its folder.
    pub fn graph(&self) -> Docker {
        Docker::new(self.docker.engine().clone(), None)
    }

    pub fn containerd() -> Self {
        Self::at(required("JACKAL_DOCKER_CONTAINERD"), StorageKind::Containerd)
    }

    /// Runs the docker command line.
    pub fn run(&self, arguments: &[&str]) {
        self.output(arguments);
    }

    /// The same; returns its output.
    pub fn output(&self, arguments: &[&str]) -> String {
        let program = std::env::var("JACKAL_BIN_DOCKER").unwrap_or_else(|_| "docker".to_owned());
        let mut command = Command::new(program);
        command.args(["--host", &self.host]).args(arguments);
        // The builder of 20.10, which every engine still has; the other one would pull its own image.
        command.env("DOCKER_BUILDKIT", "0");
        String::from_utf8(succeed(command).stdout).unwrap()
    }

    pub fn load(&self, archive: &[u8]) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(archive).unwrap();
        self.run(&["load", "--quiet", "--input", file.path().to_str().unwrap()]);
    }
}

pub fn required(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set: run the tests by `make test`"))
}

fn succeed(mut command: Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {output:?}");
    output
}

/// Starts another instance of `part` in the stack of the tests, and returns the value of its variable.
pub fn stack_instance(part: &str, name: &str) -> String {
    required("JACKAL_STACK");
    succeed(stack(&["start", part, name]));
    let environment = String::from_utf8(succeed(stack(&["env"])).stdout).unwrap();
    let suffix = format!("_{}=", name.to_uppercase().replace('-', "_"));
    let mut values = environment.lines().filter_map(|line| line.split_once(&suffix));
    values.next().unwrap().1.to_owned()
}

/// An engine for one test, which may kill it; its state is deleted with it.
pub struct DedicatedEngine {
    name: String,
    part: &'static str,
    pub engine: DockerEngine,
}

impl DedicatedEngine {
    pub fn start(part: &'static str, shape: StorageKind) -> Self {
        // Unique, because several tests have one.
        let name = format!("victim-{part}-{:08x}", fastrand::u32(..));
        let host = stack_instance(part, &name);
        Self {
            name,
            part,
            engine: DockerEngine::at(host, shape),
        }
    }

    /// Its name in the stack: its state is in a folder with that name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A function that kills the engine.
    pub fn killer(&self) -> impl FnOnce() + Send + 'static {
        let socket = PathBuf::from(self.engine.host.strip_prefix("unix://").unwrap());
        let pid = std::fs::read_to_string(socket.with_file_name("docker.pid")).unwrap();
        move || {
            let mut kill = Command::new("kill");
            kill.args(["-KILL", pid.trim()]);
            succeed(kill);
        }
    }

    pub fn start_again(&self) {
        succeed(stack(&["start", self.part, &self.name]));
    }
}

impl Drop for DedicatedEngine {
    fn drop(&mut self) {
        let _ = stack(&["stop", &self.name]).output();
    }
}

fn stack(arguments: &[&str]) -> Command {
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/stack"));
    command.args(arguments);
    command
}

/// A tar of files; a path that ends in `/` is a directory.
pub fn tar<P: AsRef<str>, C: AsRef<[u8]>>(files: &[(P, C)]) -> Vec<u8> {
    let mut whole = Vec::new();
    for (path, content) in files {
        let (path, content) = (path.as_ref(), content.as_ref());
        let mut header = tokio_tar::Header::new_ustar();
        header.set_path(path).unwrap();
        header.set_size(content.len() as u64);
        header.set_mode(if path.ends_with('/') { 0o755 } else { 0o644 });
        if path.ends_with('/') {
            header.set_entry_type(tokio_tar::EntryType::Directory);
        }
        header.set_cksum();
        whole.extend_from_slice(header.as_bytes());
        whole.extend_from_slice(content);
        whole.resize(whole.len().next_multiple_of(512), 0);
    }
    whole.resize(whole.len() + 1024, 0);
    whole
}

/// An image for `docker load`.
pub struct Image {
    pub name: String,
    pub config: Vec<u8>,
    pub layers: Vec<Vec<u8>>,
}

impl Image {
    pub fn new(name: &str, layers: Vec<Vec<u8>>) -> Self {
        let diff_ids: Vec<Digest> = layers.iter().map(|layer| Digest::of(layer)).collect();
        let config = json!({
            "architecture": "amd64", "os": "linux", "created": "2020-01-01T00:00:00Z",
            "config": {"Cmd": ["/a"], "Labels": {"name": name}},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": layers.iter().map(|_| json!({"created_by": "test"})).collect::<Vec<_>>(),
        });
        Self {
            name: name.to_owned(),
            config: config.to_string().into_bytes(),
            layers,
        }
    }

    /// With a duplicate layer, one that deletes files, an empty one, and one of some megabytes.
    pub fn varied(name: &str) -> Self {
        let base = tar(&[("d/", ""), ("d/a", "first"), ("d/b", "second")]);
        let whiteouts = tar(&[("d/", ""), ("d/.wh.a", ""), ("e/", ""), ("e/.wh..wh..opq", "")]);
        let empty = vec![0; 1024];
        // A unique file, so that no two tests share all layers.
        let large = tar(&[("large", noise(3 << 20)), ("name", name.as_bytes().to_vec())]);
        Self::new(name, vec![base.clone(), whiteouts, empty, base, large])
    }

    pub fn diff_ids(&self) -> Vec<Digest> {
        self.layers.iter().map(|layer| Digest::of(layer)).collect()
    }

    /// The old format of `docker save`, which every engine reads.
    pub fn archive(&self) -> Vec<u8> {
        let config = format!("{}.json", Digest::of(&self.config).hex());
        let path = |layer: &Vec<u8>| format!("{}/layer.tar", Digest::of(layer).hex());
        let manifest = json!([{
            "Config": config, "RepoTags": [self.name],
            "Layers": self.layers.iter().map(path).collect::<Vec<_>>(),
        }]);
        let mut files: Vec<(String, Vec<u8>)> = Vec::new();
        for layer in &self.layers {
            if !files.iter().any(|(known, _)| *known == path(layer)) {
                files.push((path(layer), layer.clone()));
            }
        }
        files.push((config, self.config.clone()));
        files.push(("manifest.json".to_owned(), manifest.to_string().into_bytes()));
        tar(&files)
    }
}

/// Incompressible bytes, the same every time.
pub fn noise(length: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(7);
    std::iter::repeat_with(|| random.u8(..)).take(length).collect()
}
