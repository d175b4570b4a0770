//! Signatures, in both directions: what we sign is verified by the real cosign, and we verify what it signs.

mod cluster;
mod cosign;
mod invalid_input;
pub mod keyless;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use jackal_operator::oci::{Descriptor, Digest, Document, Manifest};
use jackal_operator::registry::Repository;
use tempfile::TempDir;

use crate::support::image::stream;
use crate::support::program;

/// Somebody with the keys of `tests/signing`, who runs commands.
pub struct SigningWorkspace {
    folder: TempDir,
}

impl SigningWorkspace {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for file in std::fs::read_dir(made("")).unwrap() {
            let file = file.unwrap();
            if file.path().is_file() {
                std::fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
            }
        }
        Self { folder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, program: &Path, arguments: &[&str]) -> Output {
        Command::new("timeout")
            .args(["-k", "1", "60"])
            .arg(program)
            .args(arguments)
            .current_dir(self.folder.path())
            .env("DOCKER_CONFIG", self.folder.path())
            .env("HOME", self.folder.path())
            .env("COSIGN_PASSWORD", "secret")
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Runs a command of ours.
    pub fn run_operator(&self, arguments: &[&str]) -> Result<String, String> {
        told(&self.run(Path::new(env!("CARGO_BIN_EXE_jackal-operator")), arguments))
    }

    /// Runs cosign, which has no network but this machine's.
    fn cosign(&self, arguments: &[&str]) -> Result<String, String> {
        let registry = ["--allow-http-registry"];
        told(&self.run(&program("JACKAL_BIN_COSIGN"), &[arguments, &registry[..]].concat()))
    }

    /// Has cosign sign by the key, without a log; in the form of cosign 2 if it is `older`.
    fn cosign_signs(&self, reference: &str, older: bool) {
        let form = format!("--new-bundle-format={}", !older);
        let signed = self.cosign(&[
            "sign",
            "--key=cosign.key",
            "--use-signing-config=false",
            "--tlog-upload=false",
            "--yes",
            &form,
            reference,
        ]);
        signed.unwrap();
    }

    /// Has cosign verify by the public key in the file `key`.
    fn cosign_verifies(&self, reference: &str, key: &str) -> Result<String, String> {
        let key = format!("--key={key}");
        self.cosign(&["verify", &key, "--insecure-ignore-tlog=true", reference])
    }

    /// The statement of the provenance that cosign verifies by the public key in the file `key`.
    fn provenance(&self, reference: &str, key: &str) -> Result<serde_json::Value, String> {
        let key = format!("--key={key}");
        let kind = ["--type=slsaprovenance1", "--insecure-ignore-tlog=true"];
        let envelope = self.cosign(&["verify-attestation", &key, kind[0], kind[1], reference])?;
        let envelope: serde_json::Value = serde_json::from_str(&envelope).unwrap();
        let payload = BASE64_STANDARD.decode(envelope["payload"].as_str().unwrap()).unwrap();
        Ok(serde_json::from_slice(&payload).unwrap())
    }
}

/// What came of a command: what it printed, or what it said was wrong.
fn told(output: &Output) -> Result<String, String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(text(&output.stderr)),
    }
}

/// A file of `tests/signing`.
fn made(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/signing")).join(name)
}

fn text(name: &str) -> String {
    std::fs::read_to_string(made(name)).unwrap()
}

/// Stores a blob.
async fn store(repository: &Repository, content: &[u8]) {
    let digest = Digest::of(content);
    let upload = repository.upload(Some(&digest), Some(content.len() as u64), stream(content.to_vec()));
    upload.await.map_err(|_| "the upload failed").unwrap();
}

/// Has a bundle, as it is, refer to `subject`.
pub async fn attach(repository: &Repository, subject: &Document, bundle: &[u8]) {
    let kind = "application/vnd.dev.sigstore.bundle.v0.3+json";
    store(repository, b"{}").await;
    store(repository, bundle).await;
    let config = Descriptor::new("application/vnd.oci.empty.v1+json", Digest::of(b"{}"), 2);
    let layer = Descriptor::new(kind, Digest::of(bundle), bundle.len() as u64);
    let mut manifest = Manifest::new(config, vec![layer]);
    manifest.artifact_type = Some(kind.to_owned());
    manifest.subject = Some(subject.descriptor.clone());
    repository
        .attach(&Document::of_manifest(manifest).unwrap())
        .await
        .unwrap();
}
