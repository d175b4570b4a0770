//! Whether a package is signed as required, by what the package itself holds: the signature of its definition, which has the
//! checksum of `checksums.txt`, which has those of all other files. No IO.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::Deserialize;

use super::header::Packed;
use super::order::{PackageFile, files_of};
use crate::decode;
use crate::fault::{Fault, Reason};
use crate::oci::Digest;
use crate::signing::{DEFINITION_SIGNATURE, Requirement};

/// The definitions of Zarf and Jackal.
const DEFINITIONS: [&str; 2] = ["zarf.yaml", "jackal.yaml"];
/// The ends of the names of the signatures that `zarf package sign` wrote before version 0.71 beside the definition.
const DETACHED: &str = ".sig";
/// The file with the checksums of the others.
const CHECKSUMS: &str = "checksums.txt";
/// The most files that a message names.
const SHOWN: usize = 5;

/// What a definition says of the package.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Definition {
    metadata: Metadata,
    build: Build,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Metadata {
    name: String,
    version: String,
    architecture: String,
    aggregate_checksum: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Build {
    architecture: String,
    aggregate_checksum: String,
    provenance_files: Vec<String>,
}

/// The names by which the package is published, which a registry keeps in a config of its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Names<'a> {
    pub name: &'a str,
    pub version: &'a str,
    pub architecture: &'a str,
}

/// The files of a package that say whether it is signed, as far as they were read.
#[derive(Debug, Default)]
pub(super) struct SignedFiles(BTreeMap<String, Bytes>);

impl SignedFiles {
    /// Whether `file` is one of them.
    pub fn need(file: &PackageFile) -> bool {
        let path = file.path.as_str();
        let is_definition = |path: &str| DEFINITIONS.contains(&path);
        is_definition(path)
            || path == CHECKSUMS
            || path == DEFINITION_SIGNATURE
            || path.strip_suffix(DETACHED).is_some_and(is_definition)
    }

    /// Adds the content of `file`, whose digest was verified.
    pub fn add(&mut self, file: &PackageFile, content: Bytes) {
        self.0.insert(file.path.clone(), content);
    }

    /// That the definition is signed as `requirement` says, and that every file of `package` is covered by its signature; also that
    /// the package is published under the names that were signed.
    ///
    /// # Errors
    /// A stalled fault that says what is not as it must be.
    pub fn verify(&self, package: &Packed, names: Names<'_>, requirement: &Requirement) -> Result<(), Fault> {
        let named = DEFINITIONS.iter().find_map(|path| Some((*path, self.0.get(*path)?)));
        let (path, definition) = named.ok_or_else(|| refused("it has no zarf.yaml or jackal.yaml".to_owned()))?;
        self.signature(path, definition, requirement).map_err(refused)?;
        let documents = documents(definition).map_err(|error| refused(format!("{path} cannot be read: {error}")))?;
        for document in &documents {
            names.check(document).map_err(refused)?;
        }
        let checksums = self.0.get(CHECKSUMS);
        let checksums = checksums.ok_or_else(|| refused(format!("it has no {CHECKSUMS}")))?;
        let sums = documents.iter().flat_map(|document| {
            let sums = [
                &document.metadata.aggregate_checksum,
                &document.build.aggregate_checksum,
            ];
            sums.into_iter().filter(|sum| !sum.is_empty())
        });
        let sums: BTreeSet<&String> = sums.collect();
        let found = Digest::of(checksums);
        if sums.len() != 1 || sums.iter().any(|sum| *sum != found.hex()) {
            return Err(refused(format!("{CHECKSUMS} is not the one whose checksum {path} has")));
        }
        let provenance = documents.iter().flat_map(|document| &document.build.provenance_files);
        let mut exempt: BTreeSet<&str> = provenance.map(String::as_str).collect();
        let detached = format!("{path}{DETACHED}");
        exempt.extend([path, CHECKSUMS, DEFINITION_SIGNATURE, &detached]);
        let files = package
            .manifest
            .manifest()
            .map(files_of)
            .transpose()?
            .unwrap_or_default();
        covered(&files, checksums, &exempt).map_err(refused)
    }

    /// That one of the signatures of the definition is as required.
    fn signature(&self, path: &str, definition: &Bytes, requirement: &Requirement) -> Result<(), String> {
        let detached = format!("{path}{DETACHED}");
        let bundle = self.0.get(DEFINITION_SIGNATURE);
        let bundle = bundle.map(|bundle| (DEFINITION_SIGNATURE, requirement.verify_blob(definition, bundle)));
        let detached_result = self.0.get(&detached).map(|signature| {
            let result = requirement.verify_detached(definition, signature);
            (detached.as_str(), result)
        });
        let mut reasons = Vec::new();
        for (name, result) in [bundle, detached_result].into_iter().flatten() {
            match result {
                Ok(()) => return Ok(()),
                Err(reason) => reasons.push(format!("{name}: {reason}")),
            }
        }
        match reasons.as_slice() {
            [] => Err(format!(
                "its {path} has no signature ({DEFINITION_SIGNATURE} or {detached})"
            )),
            reasons => Err(reasons.join("; ")),
        }
    }
}

impl Names<'_> {
    /// That `document`, which is signed, has these names.
    fn check(self, document: &Definition) -> Result<(), String> {
        let Definition { metadata, build } = document;
        let pairs = [
            ("name", self.name, &metadata.name),
            ("version", self.version, &metadata.version),
            ("architecture", self.architecture, &metadata.architecture),
            ("architecture", self.architecture, &build.architecture),
        ];
        let differs = pairs.iter().find(|(field, own, signed)| {
            let is_given = matches!(*field, "name" | "version") || !signed.is_empty();
            is_given && own != signed
        });
        match differs {
            None => Ok(()),
            Some((field, own, signed)) => {
                let signed: String = signed.chars().take(100).collect();
                Err(format!(
                    "its config has the {field} {own:?}, and the signed definition has {signed:?}"
                ))
            }
        }
    }
}

fn refused(what: String) -> Fault {
    let message = format!("the package is not signed as required: {what}");
    Fault::stalled(Reason::VerificationError, message)
}

/// The documents of a definition: one, or one for each version of its form.
fn documents(definition: &Bytes) -> Result<Vec<Definition>, String> {
    let text = std::str::from_utf8(definition).map_err(|error| error.to_string())?;
    let documents = decode::yaml_documents(text).map_err(|error| error.to_string())?;
    let documents = documents.into_iter().filter(|document| !document.is_null());
    let documents = documents.map(|document| {
        let text = serde_json::to_vec(&document).map_err(|error| error.to_string())?;
        decode::json(&text).map_err(|error| error.to_string())
    });
    documents.collect()
}

/// That `checksums` has every one of `files` with its digest, and no other. The files `exempt` need not be there.
fn covered(files: &[PackageFile], checksums: &Bytes, exempt: &BTreeSet<&str>) -> Result<(), String> {
    let text = std::str::from_utf8(checksums).map_err(|error| format!("{CHECKSUMS} is not text: {error}"))?;
    let mut sums: BTreeMap<&str, &str> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        let Some((sum, path)) = line.split_once(' ') else {
            let shown: String = line.chars().take(100).collect();
            return Err(format!("{CHECKSUMS} has the line {shown:?}"));
        };
        if sums.insert(path, sum).is_some_and(|before| before != sum) {
            return Err(format!("{CHECKSUMS} has two checksums of {path:?}"));
        }
    }
    let mut wrong = Vec::new();
    for file in files {
        let sum = sums.remove(file.path.as_str());
        let is_exempt = sum.is_none() && exempt.contains(file.path.as_str());
        if !is_exempt && (sum != Some(file.digest.hex()) || file.digest.algorithm() != "sha256") {
            wrong.push(file.path.as_str());
        }
    }
    let list = |paths: &[&str]| {
        let shown: Vec<String> = paths.iter().take(SHOWN).map(|path| format!("{path:?}")).collect();
        match paths.len().saturating_sub(SHOWN) {
            0 => shown.join(", "),
            more => format!("{} and {more} more", shown.join(", ")),
        }
    };
    if !wrong.is_empty() {
        return Err(format!("{CHECKSUMS} does not have {} as they are", list(&wrong)));
    }
    let lacking: Vec<&str> = sums.into_keys().collect();
    if !lacking.is_empty() {
        return Err(format!("it lacks {}, which {CHECKSUMS} lists", list(&lacking)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Descriptor, Document, Manifest};
    use crate::package::TITLE;
    use crate::signing::{Bundle, PublicKey, SigningKey};

    const KEY: &[u8] = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/signing/plain.key"));
    const OTHER: &[u8] = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/signing/p384.pub"));

    const NAMES: Names = Names {
        name: "shop",
        version: "1",
        architecture: "amd64",
    };

    /// A package with these files, and what says whether it is signed.
    fn package(files: &[(&str, &[u8])]) -> (Packed, SignedFiles) {
        let mut signed = SignedFiles::default();
        let layers = files.iter().map(|(path, content)| {
            let file = PackageFile {
                path: (*path).to_owned(),
                digest: Digest::of(content),
                size: content.len() as u64,
            };
            if SignedFiles::need(&file) {
                signed.add(&file, Bytes::copy_from_slice(content));
            }
            Descriptor {
                annotations: [(TITLE.to_owned(), file.path)].into(),
                ..Descriptor::new("application/vnd.zarf.layer.v1.blob", file.digest, file.size)
            }
        });
        let config = Descriptor::new("application/vnd.zarf.config.v1+json", Digest::of(b"{}"), 2);
        let manifest = Manifest::new(config, layers.collect());
        let packed = Packed {
            manifest: Document::of_manifest(manifest).unwrap(),
            config: Bytes::from_static(b"{}"),
            omitted: BTreeMap::new(),
        };
        (packed, signed)
    }

    fn requirement(pem: Option<&[u8]>) -> Requirement {
        let key = SigningKey::from_pem(KEY, None).unwrap().public().clone();
        Requirement {
            keys: vec![pem.map_or(key, |pem| PublicKey::from_pem(pem).unwrap())],
            ..Requirement::default()
        }
    }

    fn sums(files: &[(&str, &[u8])]) -> Vec<u8> {
        let lines = files
            .iter()
            .map(|(path, content)| format!("{} {path}\n", Digest::of(content).hex()));
        lines.collect::<String>().into_bytes()
    }

    fn definition(sums: &[u8]) -> String {
        let sum = Digest::of(sums);
        format!(
            "metadata: {{name: shop, version: '1', architecture: amd64, aggregateChecksum: {}}}\nbuild: {{architecture: amd64}}\n",
            sum.hex()
        )
    }

    #[test]
    fn a_signature_covers_every_file() {
        let key = SigningKey::from_pem(KEY, None).unwrap();
        let content: [(&str, &[u8]); 2] = [("components/a.tar", b"a"), ("images/index.json", b"{}")];
        let good = sums(&content);
        let definition = definition(&good);
        let bundle = Bundle::of_blob(&key, definition.as_bytes()).json();
        let detached = {
            let json: serde_json::Value = serde_json::from_slice(&bundle).unwrap();
            json["messageSignature"]["signature"].as_str().unwrap().to_owned()
        };
        let two = definition.replace("metadata", "apiVersion: b\nmetadata");
        let two = format!("{definition}---\n{two}");
        let two_bundle = Bundle::of_blob(&key, two.as_bytes()).json();
        let with = |more: &[(&str, &[u8])], own: Option<&[u8]>| {
            let files = [&content[..], &[("checksums.txt", &good[..])], more].concat();
            let (packed, signed) = package(&files);
            signed
                .verify(&packed, NAMES, &requirement(own))
                .map_err(|fault| fault.message)
        };
        let yaml = ("zarf.yaml", definition.as_bytes());
        assert_eq!(with(&[yaml, ("zarf.bundle.sig", &bundle)], None), Ok(()));
        assert_eq!(with(&[yaml, ("zarf.yaml.sig", detached.as_bytes())], None), Ok(()));
        assert_eq!(
            with(&[("zarf.yaml", two.as_bytes()), ("zarf.bundle.sig", &two_bundle)], None),
            Ok(())
        );
        let refused = |more: &[(&str, &[u8])], own, words: &str| {
            let message = with(more, own).unwrap_err();
            assert!(message.contains(words), "{words}: {message}");
        };
        refused(&[yaml], None, "its zarf.yaml has no signature");
        refused(&[("zarf.bundle.sig", &bundle)], None, "it has no zarf.yaml");
        refused(
            &[yaml, ("zarf.bundle.sig", &bundle)],
            Some(OTHER),
            "zarf.bundle.sig: it was not made with",
        );
        refused(
            &[yaml, ("zarf.yaml.sig", detached.as_bytes())],
            Some(OTHER),
            "zarf.yaml.sig: it was not made with",
        );
        refused(
            &[yaml, ("zarf.yaml.sig", b"?")],
            None,
            "zarf.yaml.sig: it is not base64",
        );
        refused(
            &[yaml, ("zarf.bundle.sig", b"{}")],
            None,
            "zarf.bundle.sig: it is not a Sigstore bundle",
        );
        let other = definition.replace("shop", "shoq");
        refused(
            &[("zarf.yaml", other.as_bytes()), ("zarf.bundle.sig", &bundle)],
            None,
            "it was not made with",
        );
        refused(
            &[yaml, ("zarf.bundle.sig", &bundle), ("extra", b"x")],
            None,
            "does not have \"extra\"",
        );
    }

    #[test]
    fn files_that_do_not_fit_what_is_signed_are_refused() {
        let key = SigningKey::from_pem(KEY, None).unwrap();
        let refused = |files: &[(&str, &[u8])], listed: &[(&str, &[u8])], definition: &dyn Fn(&[u8]) -> String| {
            let sums = sums(listed);
            let yaml = definition(&sums);
            let bundle = Bundle::of_blob(&key, yaml.as_bytes()).json();
            let own: [(&str, &[u8]); 3] = [
                ("checksums.txt", &sums),
                ("zarf.yaml", yaml.as_bytes()),
                ("zarf.bundle.sig", &bundle),
            ];
            let (packed, signed) = package(&[files, &own].concat());
            signed
                .verify(&packed, NAMES, &requirement(None))
                .map_err(|fault| fault.message)
        };
        let [a, b]: [(&str, &[u8]); 2] = [("a", b"a"), ("b", b"b")];
        assert_eq!(refused(&[a, b], &[a, b], &definition), Ok(()));
        let says = |result: Result<(), String>, words: &str| {
            let message = result.unwrap_err();
            assert!(message.contains(words), "{words}: {message}");
        };
        says(refused(&[a, b], &[a], &definition), "checksums.txt does not have \"b\"");
        says(
            refused(&[a], &[a, b], &definition),
            "it lacks \"b\", which checksums.txt lists",
        );
        says(
            refused(&[("a", b"changed")], &[a], &definition),
            "does not have \"a\" as they are",
        );
        let other = |_: &[u8]| definition(b"other");
        says(refused(&[a], &[a], &other), "checksums.txt is not the one");
        let none = |_: &[u8]| "metadata: {name: shop, version: '1'}".to_owned();
        says(refused(&[a], &[a], &none), "checksums.txt is not the one");
        for (from, to) in [
            ("name: shop", "name: shoq"),
            ("version: '1'", "version: '2'"),
            ("amd64", "arm64"),
        ] {
            let renamed = |sums: &[u8]| definition(sums).replace(from, to);
            says(refused(&[a], &[a], &renamed), "and the signed definition has");
        }
        let provenance = |sums: &[u8]| definition(sums).replace("build: {", "build: {provenanceFiles: [b], ");
        assert_eq!(refused(&[a, b], &[a], &provenance), Ok(()));
    }
}
