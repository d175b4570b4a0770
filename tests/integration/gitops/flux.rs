//! Flux's OCIRepository reads a package's artifact.

use base64::Engine as _;

use super::{answers, package, refused_output};
use crate::support::cluster::Cluster;
use crate::support::image::multi_platform;
use crate::support::registry::{TestRegistry, Version};

#[tokio::test]
async fn fluxs_oci_repository_accepts_a_package() {
    let cluster = Cluster::new().await;
    let (source, registry) = (TestRegistry::start(Version::V31), TestRegistry::start(Version::V31));
    multi_platform(&source.repository("team/app"), "1").await;
    let _controller = cluster.controller(&["--insecure-registry", &source.host]);
    for (naming, kind, media_type) in [
        ("Jackal", "JackalPackageConfig", "application/vnd.jackal.layer.v1.blob"),
        ("Zarf", "ZarfPackageConfig", "application/vnd.zarf.layer.v1.blob"),
    ] {
        let name = naming.to_lowercase();
        let line = format!("{{image: '{}/team/app:1'}}", source.host);
        let naming = format!("naming: {naming}");
        cluster.apply(&package(&name, "1.0.0", &registry.host, &[&line], &naming));
        let artifact = cluster.ready(&name).await.status.unwrap().artifact.unwrap();
        let repository = format!("{}/{name}", registry.host);

        let by_digest = format!("{repository}@{}", artifact.digest);
        for arguments in [vec![], vec![media_type]] {
            let taken = answers(&[&["flux-pull", &by_digest], &arguments[..]].concat()).remove(0);
            assert!(
                taken["revision"].as_str().unwrap().ends_with(&artifact.digest),
                "{taken}"
            );
            assert_eq!(taken["mediaType"], media_type);
            let content = base64::engine::general_purpose::STANDARD.decode(taken["content"].as_str().unwrap());
            let content = String::from_utf8(content.unwrap()).expect("the definition is text");
            assert!(content.starts_with(&format!("kind: '{kind}'\n")), "{content}");
        }

        // Under the tag is an index whose entries have the operating system `multi`, as Jackal's and Zarf's commands
        // require, while Flux selects linux/amd64 or none. docs/gitops.md describes this.
        let by_tag = refused_output(&["flux-pull", &format!("{repository}:1.0.0")]);
        assert!(by_tag.contains("no child with platform linux/amd64"), "{by_tag}");
        let wrong = refused_output(&["flux-pull", &by_digest, "application/vnd.cncf.flux.content.v1.tar+gzip"]);
        assert!(wrong.contains("failed to find layer"), "{wrong}");
    }
}
