//! Signatures, in both directions: our signatures are verified by the real cosign, and we verify its signatures.

mod cluster;
mod cosign;
mod invalid_input;
pub mod keyless;

use std::path::{Path, PathBuf};
use std::process::Output;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use jackal_operator::oci::{Descriptor, Digest, Document, Manifest};
use jackal_operator::registry::Repository;

use crate::support::image::stream;
use crate::support::program;
use crate::support::workspace::Workspace;

/// A folder with the keys of `tests/signing`, in which commands run.
pub struct SigningWorkspace {
    folder: Workspace,
}

impl SigningWorkspace {
    pub fn new() -> Self {
        let folder = Workspace::new();
        for file in std::fs::read_dir(signing_file("")).unwrap() {
            let file = file.unwrap();
            if file.path().is_file() {
                std::fs::copy(file.path(), folder.path(file.file_name())).unwrap();
            }
        }
        Self { folder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path(name)
    }

    /// Runs the operator's binary.
    pub fn run_operator(&self, arguments: &[&str]) -> Result<String, String> {
        result_of(&self.folder.run(arguments))
    }

    /// Runs cosign, which has access only to the local network.
    fn cosign(&self, arguments: &[&str]) -> Result<String, String> {
        let arguments = [arguments, &["--allow-http-registry"]].concat();
        let mut command = self.folder.command_of(&program("JACKAL_BIN_COSIGN"), &arguments);
        result_of(&command.output().unwrap())
    }

    /// Signs with cosign by the key, without a log; in the format of cosign 2 if `older`.
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

    /// Verifies with cosign by the public key in the file `key`.
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

/// The result of a command: its standard output, or its error message.
fn result_of(output: &Output) -> Result<String, String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(text(&output.stderr)),
    }
}

/// A file of `tests/signing`.
pub fn signing_file(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/signing")).join(name)
}

fn text(name: &str) -> String {
    std::fs::read_to_string(signing_file(name)).unwrap()
}

/// Stores a blob.
async fn store(repository: &Repository, content: &[u8]) {
    let digest = Digest::of(content);
    let upload = repository.upload(Some(&digest), Some(content.len() as u64), stream(content.to_vec()));
    upload.await.map_err(|_| "the upload failed").unwrap();
}

/// Attaches a bundle unchanged to `subject`.
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
