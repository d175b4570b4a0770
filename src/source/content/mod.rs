//! The content store of a containerd, whether a docker engine with the containerd image store uses it or a containerd
//! alone. Manifests and blobs are copied as they are stored, with unchanged digests.
//!
//! Manifests are read and verified when the image is resolved, so a repeat costs one HEAD, and one more HEAD for each
//! blob that the destination holds. Blobs are read in parallel, the largest first, each by its own thread with a few
//! chunks of memory, and verified by the sink.
//!
//! There are two ways to the same blobs:
//!
//! 1. The store's folder, if this process can read it; this causes no load on the containerd. It is opened only below
//!    the containerd's root, and no link is followed. The root is `--containerd-root`, else what the containerd reports
//!    over its socket, else `/var/lib/containerd`; for a docker engine that runs its own containerd also `<docker
//!    root>/containerd/daemon`. The folder counts as the right one if it contains the image's root document.
//! 2. The containerd's socket (`content.Read`), if the folder cannot be read.
//!
//! What is copied of an index depends on the content of the store: everything if all of it is present; the single image
//! that is present after a pull for one platform, as `docker push` does. If several images are present but not all, the
//! user must choose by `platforms`. For chosen platforms an index is made of their entries, the same each time. Content
//! that is listed but absent or damaged is an error that names the digest; it is never skipped.

mod directory;
mod faults;
mod selection;
mod store;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::Semaphore;

pub(in crate::source) use self::faults::StoreOwner;
pub(in crate::source) use self::store::ContentStore;

use self::directory::BlobDirectory;
use self::store::{CONCURRENCY, ContentAccess};
use super::containerd_api::Client;
use super::unreadable::{UnreadableReason, blocking};
use crate::oci::Digest;

/// The default root directory of a containerd.
const DEFAULT_ROOT: &str = "/var/lib/containerd";

/// Opens the content stores of this machine. Clones share a limit on the blobs that are read concurrently.
#[derive(Clone, Debug)]
pub struct ContentStores {
    root: Option<PathBuf>,
    read_permits: Arc<Semaphore>,
}

impl ContentStores {
    /// A containerd's root directory is at `root`, or else where the containerd says.
    pub fn new(root: Option<PathBuf>) -> Self {
        Self {
            root,
            read_permits: Arc::new(Semaphore::new(CONCURRENCY)),
        }
    }

    /// The store that holds the blob `proof`: in the root directory `own_root`, in the one that was configured, or, where
    /// none was, in the one that the containerd behind `client` names; else over the socket of `client`.
    ///
    /// # Errors
    /// Why the store cannot be read, for a person.
    pub(in crate::source) async fn open(
        &self,
        own_root: Option<PathBuf>,
        client: Option<&Client>,
        proof: &Digest,
    ) -> Result<ContentStore, String> {
        let mut failures: Vec<String> = Vec::new();
        for root in own_root.into_iter().chain(self.root.clone()) {
            match open_directory(root, proof).await {
                Ok(directory) => return Ok(self.store(ContentAccess::Directory(directory), None)),
                Err(reason) => failures.push(reason.to_string()),
            }
        }
        let session = match client {
            Some(client) => match client.connect().await {
                Ok(session) => Some(session),
                Err(fault) => {
                    failures.push(fault.message);
                    None
                }
            },
            None => None,
        };
        if self.root.is_none() {
            let plugin = match &session {
                Some(session) => session.content_directory().await.unwrap_or_default(),
                None => None,
            };
            let plugin = plugin.filter(|path| path.ends_with(directory::PLUGIN));
            let root = plugin.as_deref().and_then(Path::parent);
            match open_directory(root.unwrap_or(Path::new(DEFAULT_ROOT)).to_owned(), proof).await {
                Ok(directory) => return Ok(self.store(ContentAccess::Directory(directory), None)),
                Err(reason) => failures.push(reason.to_string()),
            }
        }
        let advice = "mount the containerd's root read-only and name it with --containerd-root";
        let message = format!(
            "the content store was not read directly: {}; {advice}",
            failures.join("; ")
        );
        let Some(session) = session else {
            return Err(message);
        };
        match session.size(proof).await {
            Ok(Some(_)) => Ok(self.store(ContentAccess::Socket(Box::new(session)), Some(message))),
            Ok(None) => Err(format!("{message}; over its socket it is not found either")),
            Err(fault) => Err(format!("{message}; {}", fault.message)),
        }
    }

    fn store(&self, access: ContentAccess, method_message: Option<String>) -> ContentStore {
        ContentStore {
            access,
            method_message,
            read_permits: Arc::clone(&self.read_permits),
        }
    }
}

async fn open_directory(root: PathBuf, proof: &Digest) -> Result<Arc<BlobDirectory>, UnreadableReason> {
    let proof = proof.clone();
    blocking(move || BlobDirectory::open_with(&root, &proof))
        .await
        .map(Arc::new)
}
