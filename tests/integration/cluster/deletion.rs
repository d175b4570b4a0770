//! What is deleted from the registry with an object, and what is kept.

use super::package;
use crate::support::cluster::Cluster;
use crate::support::image::{multi_platform, put};
use crate::support::objects::{registry_at, standalone_image};
use crate::support::registry::{TestRegistry, Version};
use jackal_operator::oci::{Digest, Reference};

/// The digest under the name that a pod would use.
async fn stored_digest(registry: &TestRegistry, name: &str) -> Option<Digest> {
    let name: Reference = name.parse().unwrap();
    let found = registry
        .repository(name.repository())
        .head_manifest(name.identifier())
        .await;
    found.unwrap().map(|found| found.digest)
}

#[tokio::test]
async fn deletion_removes_only_what_the_object_pushed() {
    for version in [Version::V28, Version::V31] {
        let cluster = Cluster::new().await;
        let (source, registry) = (TestRegistry::start(Version::V31), TestRegistry::start(version));
        let mut images = Vec::new();
        for repository in ["team/mine", "team/shared", "team/moved"] {
            multi_platform(&source.repository(repository), "1").await;
            images.push(format!("{{image: '{}/{repository}:1'}}", source.host));
        }
        let _controller = cluster.controller(&["--insecure-registry", &source.host]);
        let images: Vec<&str> = images.iter().map(String::as_str).collect();
        cluster.apply(&package("app", &registry.host, &images, "deletionPolicy: Delete"));
        let other = format!("{}/team/shared:1", source.host);
        cluster.apply(&standalone_image("other", &other, &registry_at(&registry.host)));
        let status = cluster.ready("app").await.status.unwrap();
        cluster.image_ready("other").await;
        let name = |part: &str| &status.images.iter().find(|row| row.image.contains(part)).unwrap().name;
        let digest = |part: &str| {
            let row = status.images.iter().find(|row| row.image.contains(part)).unwrap();
            row.digest.clone().unwrap()
        };
        let artifact = status.artifact.as_ref().unwrap().url.clone();
        assert!(stored_digest(&registry, &artifact).await.is_some());
        // Another client pushes to a name of the package.
        let moved: Reference = name("moved").parse().unwrap();
        let (_, children) = multi_platform(&registry.repository(moved.repository()), "theirs").await;
        put(&registry.repository(moved.repository()), &children[0], moved.tag()).await;
        let theirs = stored_digest(&registry, name("moved")).await;
        let ours = format!("{}@{}", moved.name(), digest("moved"));

        cluster.kubectl(&["delete", "jkpkg", "app", "--timeout=30s"]);
        assert_eq!(stored_digest(&registry, name("mine")).await, None, "{version:?}");
        assert_eq!(stored_digest(&registry, &artifact).await, None, "{version:?}");
        assert!(
            stored_digest(&registry, name("shared")).await.is_some(),
            "{version:?}: another object names it"
        );
        assert_eq!(
            stored_digest(&registry, name("moved")).await,
            theirs,
            "{version:?}: it is another's now"
        );
        // Without its name its owner cannot be determined.
        assert!(stored_digest(&registry, &ours).await.is_some(), "{version:?}");
        let left: Vec<String> = cluster
            .images()
            .await
            .into_iter()
            .filter_map(|image| image.metadata.name)
            .collect();
        assert_eq!(left, ["other"]);

        // With the default policy nothing is deleted.
        cluster.kubectl(&["delete", "jkimg", "other", "--timeout=30s"]);
        assert!(stored_digest(&registry, name("shared")).await.is_some(), "{version:?}");
    }
}
