//! Which tars in a package's repository may be reused.
//!
//! A tar's annotation with the digest of its inputs is not trustworthy: anybody with write access to the repository can put
//! it on another tar, which would then be packed and signed in the owner's name. So the annotation counts only if the
//! object's own status records the artifact; in a signed package only if the package's key has signed the inputs together
//! with the tar's content. Otherwise it is a hint: the tar is made again and compared.

use std::collections::BTreeMap;

use super::{Archive, INPUTS, INPUTS_SIGNATURE};
use crate::fault::Fault;
use crate::oci::{Descriptor, Digest, Document, Manifest};
use crate::package::existing_index::ExistingIndex;
use crate::signing::SigningKey;
use crate::transfer::Destination;

/// The type of the signed content, so that no other signature by the key can be used for it.
const SIGNED_TYPE: &str = "application/vnd.jackal.package.tar.v1";

/// Tars in a package's repository, by the digest of the inputs that they claim.
#[derive(Clone, Debug, Default)]
pub struct ReusableTars(BTreeMap<Digest, ReusableTar>);

/// A tar in the repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ReusableTar {
    /// Its layer.
    pub blob: Descriptor,
    /// Whether the claimed inputs are proven.
    pub proven: bool,
}

impl ReusableTars {
    /// Reads the artifact for `architecture` under `tag`, and the `recorded` one of the object's status, if any. `key` signs
    /// the package.
    pub async fn read(
        repository: &dyn Destination,
        tag: &str,
        architecture: &str,
        recorded: Option<&Digest>,
        key: Option<&SigningKey>,
    ) -> Result<Self, Fault> {
        let mut known = Self::default();
        let index = ExistingIndex::read(repository, tag).await?;
        let named = index.as_ref().and_then(|index| index.manifest_for(architecture));
        let named = named.filter(|named| Some(*named) != recorded);
        for digest in named.into_iter().chain(recorded) {
            let document = repository.document(digest.as_str()).await?;
            if let Some(manifest) = document.as_ref().and_then(Document::manifest) {
                known.add(manifest, recorded == Some(digest), key);
            }
        }
        Ok(known)
    }

    fn add(&mut self, manifest: &Manifest, recorded: bool, key: Option<&SigningKey>) {
        for layer in &manifest.layers {
            let Some(inputs) = layer.annotations.get(INPUTS).and_then(|text| text.parse().ok()) else {
                continue;
            };
            let proven = match key {
                None => recorded,
                Some(key) => is_signed(key, &inputs, layer),
            };
            // A proven tar is not replaced.
            if self.0.get(&inputs).is_none_or(|known| !known.proven) {
                let blob = layer.clone();
                self.0.insert(inputs, ReusableTar { blob, proven });
            }
        }
    }

    /// The tar that claims to be made of `inputs`.
    pub(super) fn get(&self, inputs: &Digest) -> Option<&ReusableTar> {
        self.0.get(inputs)
    }

    /// Whether a tar of the same inputs is proven.
    pub fn proves(&self, archive: &Archive) -> bool {
        self.get(&archive.inputs()).is_some_and(|known| known.proven)
    }
}

/// The bytes that are signed for a tar.
fn signed_content(inputs: &Digest, digest: &Digest, size: u64) -> Vec<u8> {
    format!("{inputs} {digest} {size}").into_bytes()
}

/// The signature by `key` that the tar `digest` of `size` bytes was made of `inputs`. It is deterministic.
pub(super) fn signature(key: &SigningKey, inputs: &Digest, digest: &Digest, size: u64) -> String {
    hex::encode(key.sign_typed(SIGNED_TYPE, &signed_content(inputs, digest, size)))
}

fn is_signed(key: &SigningKey, inputs: &Digest, layer: &Descriptor) -> bool {
    let signature = layer.annotations.get(INPUTS_SIGNATURE);
    let signature = signature.and_then(|signature| hex::decode(signature).ok());
    let content = signed_content(inputs, &layer.digest, layer.size);
    signature.is_some_and(|signature| key.public().verifies_typed(SIGNED_TYPE, &content, &signature))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Manifest;

    fn key(name: &str) -> SigningKey {
        let pem = std::fs::read(format!("{}/tests/signing/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        SigningKey::from_pem(&pem, Some(b"secret")).unwrap()
    }

    fn layer(content: &[u8], inputs: &Digest, signature: Option<String>) -> Descriptor {
        let mut layer = Descriptor::new("tar", Digest::of(content), content.len() as u64);
        layer.annotations.insert(INPUTS.to_owned(), inputs.to_string());
        if let Some(signature) = signature {
            layer.annotations.insert(INPUTS_SIGNATURE.to_owned(), signature);
        }
        layer
    }

    fn proven(layers: Vec<Descriptor>, recorded: bool, key: Option<&SigningKey>) -> Vec<(Digest, bool)> {
        let manifest = Manifest::new(Descriptor::empty(), layers);
        let mut known = ReusableTars::default();
        known.add(&manifest, recorded, key);
        let rows = known.0.into_values();
        rows.map(|known| (known.blob.digest, known.proven)).collect()
    }

    #[test]
    fn an_unsigned_tar_is_proven_by_the_recorded_status() {
        let inputs = Digest::of(b"inputs");
        let layers = || vec![layer(b"tar", &inputs, None)];
        assert_eq!(proven(layers(), true, None), [(Digest::of(b"tar"), true)]);
        assert_eq!(proven(layers(), false, None), [(Digest::of(b"tar"), false)]);
    }

    #[test]
    fn a_signed_tar_is_proven_only_by_the_packages_key() {
        let key = key("cosign.key");
        let (inputs, digest) = (Digest::of(b"inputs"), Digest::of(b"tar"));
        let made = signature(&key, &inputs, &digest, 3);
        assert_eq!(made, signature(&key, &inputs, &digest, 3), "the same each time");
        let is_proven = |layer: Descriptor| proven(vec![layer], true, Some(&key))[0].1;
        assert!(is_proven(layer(b"tar", &inputs, Some(made.clone()))));
        assert!(!is_proven(layer(b"tar", &inputs, None)), "a status may be forged");
        assert!(!is_proven(layer(b"evil", &inputs, Some(made.clone()))));
        assert!(!is_proven(layer(b"tar", &Digest::of(b"other"), Some(made.clone()))));
        assert!(!is_proven(layer(b"tar", &inputs, Some("x".to_owned()))));
        // The same content, signed as another type.
        let other = hex::encode(key.sign(&signed_content(&inputs, &digest, 3)));
        assert!(!is_proven(layer(b"tar", &inputs, Some(other))));
        // A proven tar is found whether others come before or after it.
        for at in [0, 1] {
            let mut layers = vec![layer(b"evil", &inputs, None)];
            layers.insert(at, layer(b"tar", &inputs, Some(made.clone())));
            assert_eq!(proven(layers, false, Some(&key)), [(digest.clone(), true)]);
        }
    }
}
