//! `build` in a folder of its own, for cases that a user sees.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

/// Where `build` runs, without any credentials of the machine.
pub struct Folder(TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Builds the package `yaml` for `to` over plain HTTP, and gives the report.
    pub fn build(&self, yaml: &str, to: &str, insecure: &[&str]) -> Value {
        let (report, said) = self.attempt(yaml, to, insecure);
        report.unwrap_or_else(|| panic!("it fails: {said}"))
    }

    /// The same of one that may fail: the report if it does not, and what it says besides.
    pub fn attempt(&self, yaml: &str, to: &str, insecure: &[&str]) -> (Option<Value>, String) {
        std::fs::write(self.path().join("package.yaml"), yaml).unwrap();
        let mut command = Command::new("timeout");
        command
            .args([
                "-k",
                "1",
                "60",
                env!("CARGO_BIN_EXE_jackal-operator"),
                "build",
                "package.yaml",
            ])
            .args(["--to", to, "--insecure", "--output", "json"])
            .current_dir(self.path())
            .env("DOCKER_CONFIG", self.path())
            .env("DOCKER_HOST", "unix:///nowhere");
        for host in insecure {
            command.args(["--insecure-registry", host]);
        }
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let report = output
            .status
            .success()
            .then(|| serde_json::from_slice(&output.stdout).unwrap());
        (report, said)
    }
}

/// A package with these images.
pub fn package(images: &[String]) -> String {
    let images: String = images.iter().map(|image| format!("\n    - {image}")).collect();
    format!(
        "apiVersion: jackal.dev/v1alpha1\nkind: JackalPackage\nmetadata: {{name: shop}}\n\
         spec:\n  version: 1.4.0\n  components:\n  - name: web\n    images:{images}\n"
    )
}
