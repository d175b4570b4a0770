//! The commands of the real program, run in a folder of their own.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// A folder with files for a command.
pub struct Commands(TempDir);

impl Commands {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path().join(name), content).unwrap();
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        Command::new("timeout")
            .args(["-k", "1", "60", env!("CARGO_BIN_EXE_jackal-operator")])
            .args(arguments)
            .current_dir(self.path())
            .env("DOCKER_CONFIG", self.path())
            .env("COSIGN_PASSWORD", "secret")
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Has `build` bring the package `text` from `source` to `to`, with a report.
    pub fn build(&self, text: &str, source: &str, to: &str, more: &[&str]) -> Output {
        self.write("package.yaml", text);
        let flags = [
            "build",
            "package.yaml",
            "--to",
            to,
            "--insecure",
            "--insecure-registry",
            source,
        ];
        self.run(&[&flags[..], &["--output", "json"], more].concat())
    }

    /// The same where it must succeed: its report.
    pub fn report(&self, text: &str, source: &str, to: &str, more: &[&str]) -> Value {
        let output = self.build(text, source, to, more);
        assert!(output.status.success(), "{}", said(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

/// What a command wrote for people.
pub fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&output.stdout)
    )
}

/// A package of one component, whose fields are given as YAML lines.
pub fn package(spec: &str, component: &[&str]) -> String {
    let component: String = component.iter().map(|line| format!("\n    {line}")).collect();
    format!(
        "apiVersion: jackal.dev/v1alpha1\nkind: JackalPackage\nmetadata: {{name: shop}}\n\
         spec:\n  version: 1.4.0\n{spec}  components:\n  - name: web{component}\n"
    )
}
