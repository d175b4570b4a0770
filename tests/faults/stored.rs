//! Everything that is stored in a repository, read again.

use futures::TryStreamExt;
use jackal_operator::oci::{Digest, Document, distinct_blobs};
use serde_json::Value;

use crate::support::registry::TestRegistry;

/// The tags of a repository.
pub async fn tags(registry: &TestRegistry, repository: &str) -> Vec<String> {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("http://{}/v2/{repository}/tags/list", registry.host);
    let text = client.get(url).send().await.unwrap().text().await.unwrap();
    let list: Value = serde_json::from_str(&text).unwrap();
    let tags = list["tags"].as_array().into_iter().flatten();
    tags.map(|tag| tag.as_str().unwrap().to_owned()).collect()
}

/// Reads and hashes every manifest and blob under every tag; `image` is the only tagged image.
pub async fn verify_everything(registry: &TestRegistry, repository: &str, image: &Document) {
    assert_eq!(tags(registry, repository).await, ["1"], "{repository}");
    let repository = registry.repository(repository);
    let stored = repository.manifest("1").await.unwrap().unwrap();
    assert_eq!(Digest::of(&stored.raw), *image.digest());
    assert_eq!(stored.raw, image.raw);
    for blob in distinct_blobs(std::slice::from_ref(&stored)) {
        let content: Vec<_> = repository
            .blob(&blob.digest, Some(blob.size))
            .into_stream()
            .try_collect()
            .await
            .unwrap();
        assert_eq!(Digest::of(&content.concat()), blob.digest, "{}", repository.name());
    }
}
