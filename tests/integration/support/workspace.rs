//! The commands of the real program, as a person runs them: in a folder of their own, with an environment and nothing else.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// A folder, which is the home of whoever runs commands there, and the variables that they see: no credentials and no
/// engine of the machine.
pub struct Workspace {
    directory: TempDir,
    variables: BTreeMap<String, String>,
}

impl Workspace {
    /// An empty one.
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path().to_str().unwrap().to_owned();
        let path = format!("{home}/bin:{}", std::env::var("PATH").unwrap());
        let variables = [
            ("HOME", home),
            ("PATH", path),
            ("DOCKER_HOST", "unix:///nowhere".to_owned()),
            ("COSIGN_PASSWORD", "secret".to_owned()),
        ];
        Self {
            directory,
            variables: variables.map(|(name, value)| (name.to_owned(), value)).into(),
        }
    }

    /// One with the file `shop.yaml`.
    pub fn with(content: impl AsRef<[u8]>) -> Self {
        Self::new().file("shop.yaml", content)
    }

    /// Sets a variable; `~` at the beginning of `value` is the folder.
    pub fn set(mut self, name: &str, value: &str) -> Self {
        let value = match value.strip_prefix('~') {
            Some(rest) => format!("{}{rest}", self.directory.path().display()),
            None => value.to_owned(),
        };
        self.variables.insert(name.to_owned(), value);
        self
    }

    /// The same with a file.
    pub fn file(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        self.write(path, content);
        self
    }

    /// The same with a program of shell script that is found by its name.
    pub fn program(self, name: &str, script: &str) -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let path = format!("bin/{name}");
        self.write(&path, format!("#!/bin/sh\n{script}\n"));
        std::fs::set_permissions(self.path(&path), std::fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    /// Where a file lies.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.directory.path().join(path)
    }

    /// Writes a file, and the folders that it lies in.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// The operator's program, to be run here and ended when it takes too long.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command
            .args(["-k", "1", "100", env!("CARGO_BIN_EXE_jackal-operator")])
            .args(arguments)
            .current_dir(self.directory.path())
            .env_clear()
            .envs(&self.variables)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs it.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// The same, with `input` as its standard input.
    pub fn run_with(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut child = self.command(arguments).stdin(Stdio::piped()).spawn().unwrap();
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
        assert!(output.status.success(), "{}", all_output(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Has `build` bring a package with the image `image` into a layout.
    pub fn build_image(&self, image: &str, more: &[&str]) -> Output {
        self.write("shop.yaml", package_of(&[format!("'{image}'")]));
        self.run(&[&["build", "shop.yaml", "--to", "oci:out"], more].concat())
    }
}

/// How a command ended.
pub trait CommandResult {
    /// Expects that it succeeded.
    fn succeeded(&self);

    /// Expects that it failed with that code, and that it said why by every one of `words`.
    fn failed(&self, code: i32, words: &[&str]);
}

impl CommandResult for Output {
    fn succeeded(&self) {
        assert_eq!(self.status.code(), Some(0), "{}", all_output(self));
    }

    fn failed(&self, code: i32, words: &[&str]) {
        assert_eq!(self.status.code(), Some(code), "{}", all_output(self));
        for words in words {
            assert!(
                stderr(self).contains(words),
                "`{words}` is not said: {}",
                all_output(self)
            );
        }
    }
}

/// All that a command wrote.
pub fn all_output(output: &Output) -> String {
    format!("{}{}", stderr(output), stdout(output))
}

/// What a command wrote to standard error.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What a command wrote to standard output.
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
