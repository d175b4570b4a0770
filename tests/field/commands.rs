//! What people give to the commands, and what the commands say to them.

mod builds;
mod files;
mod output;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// A folder in which the real program runs.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// One with the file `shop.yaml`.
    fn with(content: impl AsRef<[u8]>) -> Self {
        let folder = Self::new();
        std::fs::write(folder.path("shop.yaml"), content).unwrap();
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.run_with(arguments, b"")
    }

    fn run_with(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut child = Command::new("timeout")
            .args(["-k", "1", "60", env!("CARGO_BIN_EXE_jackal-operator")])
            .args(arguments)
            .current_dir(self.0.path())
            .env("DOCKER_CONFIG", self.0.path())
            .env("DOCKER_HOST", "unix:///nowhere")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // One that fails before it reads has closed it.
        let _ = child.stdin.take().unwrap().write_all(input);
        child.wait_with_output().unwrap()
    }

    /// Builds `shop.yaml`, which must succeed, into the layout `out`.
    fn builds(&self) -> Value {
        let output = self.run(&["build", "shop.yaml", "--to", "oci:out", "--output", "json"]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Refuses to build `shop.yaml`, with all of `words`.
    fn refuses(&self, words: &[&str]) {
        let output = self.run(&["build", "shop.yaml", "--to", "oci:out"]);
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        for words in words {
            assert!(stderr(&output).contains(words), "`{words}`: {}", stderr(&output));
        }
        assert!(!self.path("out").exists());
    }
}

/// A package without images, which is built without a registry.
fn empty(name: &str) -> String {
    format!(
        "apiVersion: jackal.dev/v1alpha1\nkind: JackalPackage\nmetadata: {{name: {name}}}\n\
         spec:\n  version: 1.4.0\n  components:\n  - name: web\n"
    )
}

/// A package of `images`.
fn package(images: &[String]) -> String {
    let lines: String = images.iter().map(|image| format!("\n    - image: '{image}'")).collect();
    format!("{}    images:{lines}\n", empty("shop"))
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}
