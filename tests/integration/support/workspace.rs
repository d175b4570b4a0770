//! Runs commands of the binary as a user does: in a separate folder with a clean environment.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::SystemTime;

use jackal_operator::oci::Digest;
use serde_json::Value;
use tempfile::TempDir;

/// A folder, which is the home of the user, and the variables of the commands: without credentials and engines of the
/// machine.
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

    /// A workspace with the file `shop.yaml`.
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

    /// The same with a shell script that is found by its name.
    pub fn program(self, name: &str, script: &str) -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let path = format!("bin/{name}");
        self.write(&path, format!("#!/bin/sh\n{script}\n"));
        std::fs::set_permissions(self.path(&path), std::fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    /// The path of a file.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.directory.path().join(path)
    }

    /// Writes a file, and creates its parent folders.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// The operator's program, to be run here with a timeout.
    pub fn command(&self, arguments: &[&str]) -> Command {
        self.command_of(Path::new(env!("CARGO_BIN_EXE_jackal-operator")), arguments)
    }

    /// The same for another program.
    pub fn command_of(&self, program: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command
            .args(["-k", "1", "100"])
            .arg(program)
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
        // A command that fails before it reads has closed its standard input.
        let _ = child.stdin.take().unwrap().write_all(input);
        child.wait_with_output().unwrap()
    }

    /// Runs `build` for the package `text` to `to` over plain HTTP, which the hosts `insecure` use too.
    pub fn build_text(&self, text: &str, to: &str, insecure: &[&str], more: &[&str]) -> Output {
        self.write("package.yaml", text);
        let flags = ["build", "package.yaml", "--to", to, "--insecure", "--output", "json"];
        let insecure: Vec<&str> = insecure.iter().flat_map(|host| ["--insecure-registry", host]).collect();
        self.run(&[&flags[..], &insecure, more].concat())
    }

    /// The same if it must succeed; returns its report.
    pub fn text_report(&self, text: &str, to: &str, insecure: &[&str], more: &[&str]) -> Value {
        let output = self.build_text(text, to, insecure, more);
        assert!(output.status.success(), "{}", all_output(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Writes `shop.yaml` with these images.
    pub fn write_shop(&self, images: &[String]) -> String {
        let text = shop(images);
        self.write("shop.yaml", &text);
        text
    }

    /// Runs `build`.
    pub fn build(&self, arguments: &[&str]) -> Output {
        self.run(&[&["build"], arguments].concat())
    }

    /// The same if it must succeed; returns its report.
    pub fn build_report(&self, arguments: &[&str]) -> Value {
        let output = self.build(&[arguments, &["--output", "json"]].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Every file of a layout with its content's digest and its modification time.
    pub fn files(&self, layout: &str) -> BTreeMap<String, (Digest, SystemTime)> {
        let mut found = BTreeMap::new();
        let mut open = vec![self.path(layout)];
        while let Some(path) = open.pop() {
            if path.is_dir() {
                open.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            } else {
                let changed = path.metadata().unwrap().modified().unwrap();
                let digest = Digest::of(&std::fs::read(&path).unwrap());
                found.insert(path.display().to_string(), (digest, changed));
            }
        }
        found
    }

    /// Runs `build` for a package with the image `image` into a layout.
    pub fn build_image(&self, image: &str, more: &[&str]) -> Output {
        self.write("shop.yaml", package_of(&[format!("'{image}'")]));
        self.run(&[&["build", "shop.yaml", "--to", "oci:out"], more].concat())
    }
}

/// The result of a command.
pub trait CommandResult {
    /// Expects that it succeeded.
    fn succeeded(&self);

    /// Expects that it failed with this code, and that its standard error contains every one of `words`.
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

/// Everything that a command printed.
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

/// A package of one component; `spec` and `component` are YAML lines with further fields.
pub fn package(spec: &str, component: &[&str]) -> String {
    let component: String = component.iter().map(|line| format!("\n    {line}")).collect();
    format!(
        "apiVersion: jackal.dev/v1alpha1\nkind: JackalPackage\nmetadata: {{name: shop}}\n\
         spec:\n  version: 1.4.0\n{spec}  components:\n  - name: web{component}\n"
    )
}

/// A package with these images.
pub fn package_of(images: &[String]) -> String {
    package_with("", images)
}

/// A package with these images and `naming: Jackal`.
pub fn shop(images: &[String]) -> String {
    package_with("  naming: Jackal\n", images)
}

fn package_with(spec: &str, images: &[String]) -> String {
    let images: Vec<String> = images.iter().map(|image| format!("- {image}")).collect();
    let lines: Vec<&str> = ["images:"]
        .into_iter()
        .chain(images.iter().map(String::as_str))
        .collect();
    package(spec, &lines)
}
