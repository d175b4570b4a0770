//! `--source-host`: no request to a host that a tenant named and the administrator did not list.

use super::{ADDRESS, image_stalled, standalone_image};
use crate::support::cluster::Cluster;
use crate::support::image::multi_platform;
use crate::support::registry::{TestRegistry, Version};
use crate::support::scripted::{ScriptedServer, reply};

#[tokio::test]
async fn unlisted_source_hosts_receive_no_request() {
    let cluster = Cluster::new().await;
    let (source, registry) = (TestRegistry::start(Version::V31), TestRegistry::start(Version::V28));
    multi_platform(&source.repository("team/app"), "1").await;
    let inner = ScriptedServer::start(|_| reply(200, &[], "")).await;
    // A registry whose storage is on an unlisted host.
    let to = format!("http://{}", source.host);
    let leading =
        ScriptedServer::start(move |request| reply(307, &[("location", &format!("{to}{}", request.path))], "")).await;
    let listed = format!("elsewhere.example.com,{}", leading.host);
    let insecure = format!("{},{},{}", source.host, inner.host, leading.host);
    let _controller = cluster.controller_with(
        &[
            "--registry-address",
            ADDRESS,
            "--registry-endpoint",
            &registry.host,
            "--registry-insecure",
            "--insecure-registry",
            &insecure,
        ],
        &[("JACKAL_SOURCE_HOSTS", &listed)],
    );
    let good = format!("{}/team/app:1", leading.host);
    let at = |fields: &str| format!("registry: {{{fields}, insecure: true}}");
    let (address, endpoint) = (
        at(&format!("address: '{}'", inner.host)),
        at(&format!("address: '{ADDRESS}', endpoint: '{}'", inner.host)),
    );
    cluster.apply(&standalone_image("image", &format!("{}/team/app:1", inner.host), ""));
    cluster.apply(&standalone_image("address", &good, &address));
    cluster.apply(&standalone_image("endpoint", &good, &endpoint));
    cluster.apply(&standalone_image("behind", &format!("{}/team/app:1", source.host), ""));
    for (name, what) in [
        ("image", format!("image `{}/team/app:1`", inner.host)),
        ("address", "registry.address".to_owned()),
        ("endpoint", "registry.endpoint".to_owned()),
        ("behind", format!("image `{}/team/app:1`", source.host)),
    ] {
        let message = image_stalled(&cluster, name, "PolicyDenied").await;
        assert!(message.starts_with(&what), "{name}: {message}");
        assert!(
            message.contains("elsewhere.example.com") && message.contains("--source-host"),
            "{message}"
        );
    }
    assert_eq!(inner.requests().len(), 0);
    // Listed hosts may redirect, and the operator's own registry need not be listed.
    cluster.apply(&standalone_image("good", &good, ""));
    cluster.image_ready("good").await;
    assert!(!leading.requests().is_empty());
    let own = at(&format!("address: '{ADDRESS}', endpoint: '{}'", registry.host));
    cluster.apply(&standalone_image("named", &good, &own));
    cluster.image_ready("named").await;
}
