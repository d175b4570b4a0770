//! Reads with oci-client what the operator pushed: a client that shares no code with the operator's own.

use std::collections::BTreeSet;

use oci_client::Reference;
use oci_client::client::{Client, ClientConfig, ClientProtocol};
use oci_client::manifest::{
    IMAGE_MANIFEST_LIST_MEDIA_TYPE, IMAGE_MANIFEST_MEDIA_TYPE, OCI_IMAGE_INDEX_MEDIA_TYPE, OCI_IMAGE_MEDIA_TYPE,
    OciDescriptor, OciManifest,
};
use oci_client::secrets::RegistryAuth;
use sha2::{Digest as _, Sha256};

use super::install_tls;

const ACCEPTED: [&str; 4] = [
    OCI_IMAGE_MEDIA_TYPE,
    OCI_IMAGE_INDEX_MEDIA_TYPE,
    IMAGE_MANIFEST_MEDIA_TYPE,
    IMAGE_MANIFEST_LIST_MEDIA_TYPE,
];

/// The result of a pull, completely verified.
#[derive(Debug)]
pub struct Pulled {
    /// The digest of the manifest or index that the reference names.
    pub digest: String,
    /// The digests of all manifests and indexes, the first included.
    pub manifests: BTreeSet<String>,
    /// The digests of all configurations and layers.
    pub blobs: BTreeSet<String>,
}

/// Pulls `identifier` (a tag or a digest) of a repository over plain HTTP: the manifest or index, every manifest below it,
/// each configuration and each layer. Panics unless all of them exist with the digest and the size that their descriptors
/// state.
pub async fn pull_and_verify(host: &str, repository: &str, identifier: &str) -> Pulled {
    let client = plain_client();
    let reference = reference(host, repository, identifier);
    let (content, digest) = manifest(&client, &reference).await;
    assert_eq!(digest, digest_of(&content), "{reference}");
    let mut pulled = Pulled {
        digest: digest.clone(),
        manifests: BTreeSet::from([digest]),
        blobs: BTreeSet::new(),
    };
    let mut pending = vec![content];
    while let Some(content) = pending.pop() {
        let parsed: OciManifest =
            serde_json::from_slice(&content).unwrap_or_else(|error| panic!("{reference}: {error}"));
        match parsed {
            OciManifest::Image(image) => {
                for blob in [&image.config].into_iter().chain(&image.layers) {
                    if pulled.blobs.insert(blob.digest.clone()) {
                        verify_blob(&client, &reference, blob).await;
                    }
                }
            }
            OciManifest::ImageIndex(index) => {
                for entry in index.manifests {
                    if !pulled.manifests.insert(entry.digest.clone()) {
                        continue;
                    }
                    let child = reference.clone_with_digest(entry.digest.clone());
                    let (content, _) = manifest(&client, &child).await;
                    assert_eq!(digest_of(&content), entry.digest, "{child}");
                    assert_eq!(content.len() as i64, entry.size, "{child}");
                    pending.push(content);
                }
            }
        }
    }
    pulled
}

/// The digests of the referrers of `subject` (a digest) that the registry lists, each of them pulled and verified.
pub async fn referrers(host: &str, repository: &str, subject: &str) -> BTreeSet<String> {
    let subject = reference(host, repository, subject);
    let listed = plain_client().pull_referrers(&subject, None).await;
    let listed = listed.unwrap_or_else(|error| panic!("the referrers of {subject}: {error}"));
    let mut digests = BTreeSet::new();
    for entry in listed.manifests {
        pull_and_verify(host, repository, &entry.digest).await;
        digests.insert(entry.digest);
    }
    digests
}

fn plain_client() -> Client {
    install_tls();
    Client::new(ClientConfig {
        protocol: ClientProtocol::Http,
        ..ClientConfig::default()
    })
}

fn reference(host: &str, repository: &str, identifier: &str) -> Reference {
    let (host, repository, identifier) = (host.to_owned(), repository.to_owned(), identifier.to_owned());
    match identifier.contains(':') {
        true => Reference::with_digest(host, repository, identifier),
        false => Reference::with_tag(host, repository, identifier),
    }
}

/// The content of a manifest, and its digest as oci-client states it.
async fn manifest(client: &Client, reference: &Reference) -> (Vec<u8>, String) {
    let pulled = client
        .pull_manifest_raw(reference, &RegistryAuth::Anonymous, &ACCEPTED)
        .await;
    let (content, digest) = pulled.unwrap_or_else(|error| panic!("{reference}: {error}"));
    (content.to_vec(), digest)
}

async fn verify_blob(client: &Client, reference: &Reference, blob: &OciDescriptor) {
    let mut content = Vec::new();
    let pulled = client.pull_blob(reference, blob, &mut content).await;
    pulled.unwrap_or_else(|error| panic!("{reference}, blob {}: {error}", blob.digest));
    assert_eq!(digest_of(&content), blob.digest, "{reference}");
    assert_eq!(content.len() as i64, blob.size, "{reference}, blob {}", blob.digest);
}

fn digest_of(content: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(content)))
}
