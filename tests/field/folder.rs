//! The commands of the real program, run in a folder of their own.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// A folder in which commands run, without credentials and engines of the machine.
pub struct Folder(TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// One with the file `shop.yaml`.
    pub fn with(content: impl AsRef<[u8]>) -> Self {
        let folder = Self::new();
        folder.write("shop.yaml", content);
        folder
    }

    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), content).unwrap();
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.run_with(arguments, b"")
    }

    /// The same, with `input` as its standard input.
    pub fn run_with(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut child = Command::new("timeout")
            .args(["-k", "1", "60", env!("CARGO_BIN_EXE_jackal-operator")])
            .args(arguments)
            .current_dir(self.0.path())
            .env("DOCKER_CONFIG", self.0.path())
            .env("DOCKER_HOST", "unix:///nowhere")
            .env("COSIGN_PASSWORD", "secret")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // One that fails before it reads has closed it.
        let _ = child.stdin.take().unwrap().write_all(input);
        child.wait_with_output().unwrap()
    }

    /// Has `build` bring the package `text` to `to` over plain HTTP, which the hosts `insecure` speak too.
    pub fn build(&self, text: &str, to: &str, insecure: &[&str], more: &[&str]) -> Output {
        self.write("package.yaml", text);
        let flags = ["build", "package.yaml", "--to", to, "--insecure", "--output", "json"];
        let insecure: Vec<&str> = insecure.iter().flat_map(|host| ["--insecure-registry", host]).collect();
        self.run(&[&flags[..], &insecure, more].concat())
    }

    /// The same where it must succeed: its report.
    pub fn report(&self, text: &str, to: &str, insecure: &[&str], more: &[&str]) -> Value {
        let output = self.build(text, to, insecure, more);
        assert!(output.status.success(), "{}", said(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

/// All that a command wrote.
pub fn said(output: &Output) -> String {
    format!("{}{}", stderr(output), stdout(output))
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A package of one component, whose fields are given as YAML lines, like those of the package's own spec.
pub fn package(spec: &str, component: &[&str]) -> String {
    let component: String = component.iter().map(|line| format!("\n    {line}")).collect();
    format!(
        "apiVersion: jackal.dev/v1alpha1\nkind: JackalPackage\nmetadata: {{name: shop}}\n\
         spec:\n  version: 1.4.0\n{spec}  components:\n  - name: web{component}\n"
    )
}

/// A package with these images.
pub fn package_of(images: &[String]) -> String {
    let images: Vec<String> = images.iter().map(|image| format!("- {image}")).collect();
    let lines: Vec<&str> = ["images:"]
        .into_iter()
        .chain(images.iter().map(String::as_str))
        .collect();
    package("", &lines)
}
