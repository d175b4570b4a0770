//! Two namespaces and one registry.

use super::{ADDRESS, APART, clear, image_stalled, lone, package, package_stalled, registry_at};
use crate::cluster::layered;
use crate::docker::engines::Real;
use crate::support::cluster::Cluster;
use crate::support::image::multi_platform;
use crate::support::registry::{TestRegistry, Version};
use crate::support::wait::{SOON, a_second_passes, eventually};

/// Two namespaces, the first of which sorts before the second.
async fn two() -> (Cluster, Cluster) {
    let one = Cluster::apart().await;
    let other = one.beside().await;
    match one.namespace < other.namespace {
        true => (one, other),
        false => (other, one),
    }
}

#[tokio::test]
async fn of_two_packages_with_one_tag_the_older_has_it_until_it_goes() {
    let _alone = APART.lock().await;
    let (first, second) = two().await;
    let (source, registry) = (TestRegistry::start(Version::V31), TestRegistry::start(Version::V28));
    multi_platform(&source.repository("team/app"), "1").await;
    let _controller = first.controller(&["--insecure-registry", &source.host]);
    let image = format!("{{image: '{}/team/app:1'}}", source.host);
    let to = registry_at(&registry.host);
    second.apply(&package("shop", "1", &[&image], &to));
    second.ready("shop").await;
    a_second_passes().await;
    first.apply(&package(
        "shop",
        "1",
        &[&image],
        &format!("{to}\n  description: another"),
    ));
    let said = package_stalled(&first, "shop", "RepositoryConflict").await;
    let holder = format!(
        "{ADDRESS}/shop:1 belongs to the older package {}/shop",
        second.namespace
    );
    assert!(
        said.starts_with(&holder) && said.contains("--repository-policy namespace"),
        "{said}"
    );
    assert!(
        first.package("shop").await.status.unwrap().images.is_empty(),
        "nothing of it is brought"
    );
    let events = first.events("shop").await;
    assert!(
        events.len() == 1 && events[0].starts_with("RepositoryConflict: "),
        "{events:?}"
    );
    // Another version is another tag.
    first.apply(&package("shop", "2", &[&image], &to));
    first.ready("shop").await;
    first.apply(&package("shop", "1", &[&image], &to));
    package_stalled(&first, "shop", "RepositoryConflict").await;

    // Many, because an older one may go at any moment of a look at the younger one.
    let more: Vec<String> = (0..12).map(|number| format!("shop-{number}")).collect();
    let all = |more_of_spec: &str| -> Vec<String> {
        more.iter()
            .map(|name| package(name, "1", &[], &format!("{to}\n  {more_of_spec}")))
            .collect()
    };
    second.apply(&all("description: one").join("---\n"));
    for name in &more {
        second.ready(name).await;
    }
    a_second_passes().await;
    first.apply(&all("description: another").join("---\n"));
    for name in &more {
        package_stalled(&first, name, "RepositoryConflict").await;
    }
    second.kubectl(&["delete", "jkpkg", "--all", "--timeout=30s"]);
    first.ready("shop").await;
    for name in &more {
        first.ready(name).await;
    }
    clear(&[&first, &second]);
}

#[tokio::test]
async fn another_name_of_the_registry_gives_nobody_the_tag_of_an_older_package() {
    let _alone = APART.lock().await;
    let (first, second) = two().await;
    let registry = TestRegistry::start(Version::V31);
    let _controller = first.controller(&[]);
    second.apply(&package("shop", "1", &[], &registry_at(&registry.host)));
    let older = second.ready("shop").await;
    a_second_passes().await;
    let by_alias = registry_at(&registry.host).replace(ADDRESS, "registry.example:5000");
    let by_endpoint = registry_at(&registry.host).replace(ADDRESS, &registry.host);
    for to in [by_alias, by_endpoint] {
        first.apply(&package("shop", "1", &[], &format!("{to}\n  description: another")));
        let said = package_stalled(&first, "shop", "RepositoryConflict").await;
        let holder = format!("shop:1 belongs to the older package {}/shop: ", second.namespace);
        assert!(said.contains(&holder), "{said}");
    }
    let standing = registry.repository("shop").manifest("1").await.unwrap().unwrap();
    let artifact = older.status.unwrap().artifact.unwrap();
    assert_eq!(standing.index().unwrap().manifests[0].digest.as_str(), artifact.digest);
    clear(&[&first, &second]);
}

#[tokio::test]
async fn fenced_namespaces_neither_write_nor_read_each_others_repositories() {
    let _alone = APART.lock().await;
    let (first, second) = two().await;
    let (source, registry) = (TestRegistry::start(Version::V31), TestRegistry::start(Version::V31));
    multi_platform(&source.repository("team/app"), "1").await;
    let flags = [
        "--insecure-registry",
        &source.host,
        "--repository-policy",
        "namespace",
        "--registry-address",
        ADDRESS,
        "--registry-endpoint",
        &registry.host,
        "--registry-prefix",
        "base",
        "--registry-insecure",
    ];
    let _controller = first.controller(&flags);
    let [real, ..] = Real::all();
    let _agent = first.agent("n1", &real.host, &flags);
    let image = format!("{}/team/app:1", source.host);
    let line = format!("{{image: '{image}'}}");
    for cluster in [&first, &second] {
        cluster.apply(&package("shop", "1", &[&line], ""));
        let mine = "registry: {repositoryPrefix: mine}";
        cluster.apply(&lone("prefixed", &image, mine));
    }
    for cluster in [&first, &second] {
        let below = format!("{ADDRESS}/base/{}", cluster.namespace);
        let status = cluster.ready("shop").await.status.unwrap();
        assert_eq!(status.artifact.as_ref().unwrap().url, format!("oci://{below}/shop:1"));
        assert!(status.images[0].name == format!("{below}/team/app:1"), "{status:?}");
        let name = cluster.image_ready("prefixed").await.status.unwrap().name.unwrap();
        assert!(name.starts_with(&format!("{below}/mine/team/app:")), "{name}");
    }
    // Its name in the cluster, the same by the operator's own way, and by another name of the destination.
    let theirs = format!("base/{}/team/app:1", second.namespace);
    for (number, (host, to)) in [
        (ADDRESS, String::new()),
        (&registry.host, String::new()),
        (
            &registry.host,
            format!("registry: {{address: '{}', insecure: true}}", registry.host),
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("theirs-{number}");
        first.apply(&lone(&name, &format!("{host}/{theirs}"), &to));
        let said = image_stalled(&first, &name, "PolicyDenied").await;
        let under = format!("under `base/{}/` (--repository-policy namespace)", first.namespace);
        assert!(said.contains(&under), "{said}");
    }
    let stolen = format!("{{image: '{ADDRESS}/{theirs}'}}");
    first.apply(&package("thief", "1", &[&stolen], ""));
    package_stalled(&first, "thief", "PolicyDenied").await;
    // An image that is called so at a node would keep its name, which is the other's place.
    let planted = format!("{ADDRESS}/base/{}/team/planted:1", second.namespace);
    real.load(&layered(&planted, "x").archive());
    first.apply(&lone("planted", &planted, "source: Docker"));
    image_stalled(&first, "planted", "PolicyDenied").await;
    let repository = registry.repository(&format!("base/{}/team/planted", second.namespace));
    assert_eq!(repository.tags(10).await.unwrap(), Some(Vec::new()));
    // What is one's own may be used again.
    let own = format!("{ADDRESS}/base/{}/team/app:1", first.namespace);
    first.apply(&lone("own", &own, ""));
    assert_eq!(first.image_ready("own").await.status.unwrap().name.unwrap(), own);
    // The operator's registry by the name of its endpoint is the operator's registry.
    let to = format!("registry: {{address: '{}', insecure: true}}", registry.host);
    first.apply(&lone("by-endpoint", &image, &to));
    let name = first.image_ready("by-endpoint").await.status.unwrap().name.unwrap();
    assert!(
        name.starts_with(&format!("{}/base/{}/team/app:", registry.host, first.namespace)),
        "{name}"
    );
    clear(&[&first, &second]);
}

/// What was brought while every namespace could write anywhere comes into its part, and whoever uses the old name is told.
#[tokio::test]
async fn names_of_before_the_fence_are_told_of() {
    let cluster = Cluster::new().await;
    let (source, registry) = (TestRegistry::start(Version::V31), TestRegistry::start(Version::V31));
    multi_platform(&source.repository("team/app"), "1").await;
    let flags = [
        "--insecure-registry",
        &source.host,
        "--registry-address",
        ADDRESS,
        "--registry-endpoint",
        &registry.host,
        "--registry-insecure",
    ];
    let mut open = cluster.controller(&[&flags[..], &["--repository-policy", "any"]].concat());
    cluster.apply(&lone("app", &format!("{}/team/app:1", source.host), "naming: Plain"));
    let before = cluster.image_ready("app").await.status.unwrap();
    assert_eq!(before.name, Some(format!("{ADDRESS}/team/app:1")));
    open.signal("TERM");
    open.ends(SOON).await;
    let _fenced = cluster.controller(&flags);
    let name = format!("{ADDRESS}/{}/team/app:1", cluster.namespace);
    cluster
        .image_where("app", "below its namespace", |image| {
            (image.status.as_ref()?.name.as_ref() == Some(&name)).then_some(())
        })
        .await;
    let told = format!("its former name {ADDRESS}/team/app:1 is outside");
    eventually(SOON, "an event tells of the old name", async || {
        let events = cluster.events("app").await;
        let told = |event: &&String| event.contains(&told) && event.contains("--repository-policy any");
        events
            .iter()
            .find(told)
            .map(|_| ())
            .ok_or_else(|| format!("{events:?}"))
    })
    .await;
    // Whoever uses the old name goes on to have it.
    let old = registry
        .repository("team/app")
        .head_manifest("1")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(Some(old.digest.to_string()), before.digest);
}
