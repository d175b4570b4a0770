//! The commands, as a person runs them: in a folder, with an environment and nothing else.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// A folder to run commands in, and the environment that they see.
pub struct Shell {
    folder: TempDir,
    variables: BTreeMap<String, String>,
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    /// The exit code; none for one that was killed.
    pub code: Option<i32>,
    /// What it complained of.
    pub stderr: String,
}

impl Shell {
    /// An empty folder, which is the home of whoever runs commands there.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let home = folder.path().to_str().expect("text").to_owned();
        let programs = std::env::var("PATH").expect("PATH");
        let path = format!("{home}/bin:{programs}");
        let variables = [("HOME", home), ("PATH", path)];
        Self {
            folder,
            variables: variables.map(|(name, value)| (name.to_owned(), value)).into(),
        }
    }

    /// Sets a variable; `~` at the beginning of `value` is the folder.
    pub fn set(mut self, name: &str, value: &str) -> Self {
        let value = match value.strip_prefix('~') {
            Some(rest) => format!("{}{rest}", self.folder.path().display()),
            None => value.to_owned(),
        };
        self.variables.insert(name.to_owned(), value);
        self
    }

    /// Writes a file, and the folders that it lies in.
    pub fn file(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, content).expect("a file");
        self
    }

    /// Writes a program of shell script that is found by its name.
    pub fn program(self, name: &str, script: &str) -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let path = format!("bin/{name}");
        let shell = self.file(&path, format!("#!/bin/sh\n{script}\n"));
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(shell.path(&path), mode).expect("a program");
        shell
    }

    /// Where a file lies.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(path)
    }

    /// Runs the operator's binary.
    pub async fn run(&self, arguments: &[&str]) -> Ended {
        let mut command = Command::new("timeout");
        command
            .args(["-k", "1", "100", env!("CARGO_BIN_EXE_jackal-operator")])
            .args(arguments)
            .current_dir(self.folder.path())
            .env_clear()
            .envs(&self.variables)
            .stdin(Stdio::null());
        let output = tokio::task::spawn_blocking(move || command.output());
        let output = output.await.expect("no panic").expect("it runs");
        Ended {
            code: output.status.code(),
            stderr: String::from_utf8(output.stderr).expect("text"),
        }
    }

    /// Writes `shop.yaml`, a package with the image `image`.
    pub fn package(&self, image: &str) {
        let package = format!(
            "apiVersion: jackal.dev/v1alpha1\nkind: JackalPackage\nmetadata: {{name: shop}}\n\
             spec:\n  version: 1.4.0\n  components: [{{name: web, images: [{{image: '{image}'}}]}}]\n"
        );
        std::fs::write(self.path("shop.yaml"), package).expect("a file");
    }

    /// Builds a package with the image `image` into a layout.
    pub async fn build(&self, image: &str, more: &[&str]) -> Ended {
        self.package(image);
        let arguments = [&["build", "shop.yaml", "--to", "oci:out"], more].concat();
        self.run(&arguments).await
    }
}

impl Ended {
    /// That the command succeeded.
    pub fn succeeded(&self) {
        assert_eq!(self.code, Some(0), "{self:?}");
    }

    /// That it failed with that code, and that it said why by every one of `words`.
    pub fn failed(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        for words in words {
            assert!(self.stderr.contains(words), "`{words}` is not said: {self:?}");
        }
    }
}
