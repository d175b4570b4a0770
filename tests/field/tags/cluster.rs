//! Tag conflicts between the objects of a cluster; also that events and names are unique.

use futures::future::BoxFuture;
use jackal_operator::api::v1alpha1::{JackalImage, JackalPackage};
use jackal_operator::oci::{Digest, Document, Reference};
use kube::api::{ListParams, PostParams};
use kube::{Resource as _, ResourceExt as _};
use serde_json::json;

use crate::docker::engines::DockerEngine;
use crate::field::{Case, check};
use crate::support::cluster::{Cluster, condition, image_stalled, package_stalled};
use crate::support::image::{image, multi_platform, noise, put};
use crate::support::objects::{ADDRESS, package, registry_at, standalone_image};
use crate::support::operator::Operator;
use crate::support::registry::{TestRegistry, Version};
use crate::support::wait::{SOON, eventually, wait_for_next_second};

/// A cluster with a controller, and two registries with different images of the same name.
struct Setup {
    cluster: Cluster,
    sources: [TestRegistry; 2],
    registry: TestRegistry,
    _controller: Operator,
}

impl Setup {
    async fn new() -> Self {
        let cluster = Cluster::new().await;
        let sources = [TestRegistry::start(Version::V31), TestRegistry::start(Version::V31)];
        for (seed, source) in [1, 2].into_iter().zip(&sources) {
            let repository = source.repository("shop");
            let document = image(&repository, "linux/amd64", noise(seed, 1000)).await;
            put(&repository, &document, Some("1.4.0")).await;
        }
        let hosts = format!("{},{}", sources[0].host, sources[1].host);
        Self {
            _controller: cluster.controller(&["--insecure-registry", &hosts]),
            registry: TestRegistry::start(Version::V31),
            cluster,
            sources,
        }
    }

    /// The image of one of the sources.
    fn image(&self, source: usize) -> String {
        format!("{}/shop:1.4.0", self.sources[source].host)
    }

    /// An image without a package, as YAML.
    fn standalone_image(&self, name: &str, source: usize, more: &str) -> String {
        standalone_image(
            name,
            &self.image(source),
            &format!("{}\n  {more}", registry_at(&self.registry.host)),
        )
    }

    /// A package of version 1.4.0, as YAML.
    fn package(&self, name: &str, images: &[&str], more: &str) -> String {
        let to = registry_at(&self.registry.host);
        package(name, "1.4.0", images, &format!("{to}\n  {more}"))
    }

    /// The document under the contested tag.
    async fn stored_document(&self) -> Option<Document> {
        self.registry.repository("shop").manifest("1.4.0").await.unwrap()
    }
}

/// The message of an image's Ready condition.
fn ready_message(image: &JackalImage) -> String {
    let status = image.status.as_ref().unwrap();
    condition(&status.conditions, "Ready").unwrap().message.clone()
}

async fn a_package_keeps_its_tag_when_another_image_wants_it() {
    let setup = Setup::new().await;
    let (cluster, image) = (&setup.cluster, format!("{{image: '{}'}}", setup.image(0)));
    cluster.apply(&setup.package("shop", &[], "naming: Jackal"));
    cluster.ready("shop").await;
    let existing = setup.stored_document().await.unwrap();
    cluster.apply(&setup.package("another", &[&image], "naming: Jackal"));
    let resource = cluster.ready("another").await.status.unwrap().images[0]
        .resource
        .clone();
    let message = ready_message(&cluster.image_ready(&resource).await);
    assert!(message.contains("the plain tag 1.4.0 belongs to "), "{message}");
    assert_eq!(setup.stored_document().await.unwrap(), existing);
}

async fn of_two_images_the_older_keeps_the_tag_until_deleted() {
    let setup = Setup::new().await;
    let cluster = &setup.cluster;
    cluster.apply(&setup.standalone_image("older", 0, "naming: Plain"));
    let digest = cluster.image_ready("older").await.status.unwrap().digest.unwrap();
    wait_for_next_second().await;
    cluster.apply(
        &[
            setup.standalone_image("younger", 1, "naming: Plain"),
            setup.standalone_image("plain", 1, "naming: Jackal"),
            setup.standalone_image("same", 0, "naming: Plain"),
        ]
        .join("---\n"),
    );
    let message = image_stalled(cluster, "younger", "RepositoryConflict").await;
    let holder = format!(
        "{ADDRESS}/shop:1.4.0 belongs to the older image {}/older: ",
        cluster.namespace
    );
    assert!(message.starts_with(&holder), "{message}");
    let message = ready_message(&cluster.image_ready("plain").await);
    assert!(
        message.contains("the plain tag 1.4.0 belongs to the older image "),
        "{message}"
    );
    cluster.image_ready("same").await;
    assert_eq!(setup.stored_document().await.unwrap().digest().as_str(), digest);
    cluster.kubectl(&["delete", "jkimg", "older", "same", "--timeout=30s"]);
    let digest = cluster.image_ready("younger").await.status.unwrap().digest.unwrap();
    assert_eq!(setup.stored_document().await.unwrap().digest().as_str(), digest);
}

async fn of_two_simultaneous_images_one_gets_the_tag() {
    let setup = Setup::new().await;
    let cluster = &setup.cluster;
    // Whichever is reconciled first.
    cluster.apply(
        &[
            setup.standalone_image("b", 0, "naming: Plain"),
            setup.standalone_image("a", 1, "naming: Plain"),
        ]
        .join("---\n"),
    );
    let older = |name: &str| {
        let image = cluster.api::<JackalImage>();
        let name = name.to_owned();
        async move {
            let image = image.get(&name).await.unwrap();
            (image.metadata.creation_timestamp.map(|time| time.0), name)
        }
    };
    let (first, second) = (older("a").await, older("b").await);
    let (winner, loser) = if first < second { ("a", "b") } else { ("b", "a") };
    image_stalled(cluster, loser, "RepositoryConflict").await;
    let digest = cluster.image_ready(winner).await.status.unwrap().digest.unwrap();
    eventually(SOON, "the tag is the older one's", async || {
        let existing = setup.stored_document().await.unwrap();
        (existing.digest().as_str() == digest)
            .then_some(())
            .ok_or_else(|| existing.digest().to_string())
    })
    .await;
}

async fn a_blocked_image_does_not_block_other_tags() {
    let setup = Setup::new().await;
    let cluster = &setup.cluster;
    // The second name of the second image in the cluster, besides the plain one.
    let name = format!("{}/shop", setup.sources[0].host);
    let named = format!("1.4.0-jackal-{}", crc32fast::hash(name.as_bytes()));
    let source = setup.sources[1].repository("shop");
    let document = image(&source, "linux/amd64", noise(3, 1000)).await;
    put(&source, &document, Some(&named)).await;
    let to = registry_at(&setup.registry.host);
    let first = format!("{}/shop:{named}", setup.sources[1].host);
    cluster.apply(&standalone_image("first", &first, &format!("{to}\n  naming: Plain")));
    cluster.image_ready("first").await;
    wait_for_next_second().await;
    cluster.apply(&setup.standalone_image("second", 0, "naming: Jackal"));
    let message = image_stalled(cluster, "second", "RepositoryConflict").await;
    assert!(message.contains(&format!("{}/first: ", cluster.namespace)), "{message}");
    wait_for_next_second().await;
    cluster.apply(&setup.standalone_image("third", 1, "naming: Plain"));
    let digest = cluster.image_ready("third").await.status.unwrap().digest.unwrap();
    assert_eq!(setup.stored_document().await.unwrap().digest().as_str(), digest);
    // The second gets its names, and is older than the third.
    cluster.kubectl(&["delete", "jkimg", "first", "--timeout=30s"]);
    let digest = cluster.image_ready("second").await.status.unwrap().digest.unwrap();
    let message = image_stalled(cluster, "third", "RepositoryConflict").await;
    assert!(
        message.contains(&format!("{}/second: ", cluster.namespace)),
        "{message}"
    );
    assert_eq!(setup.stored_document().await.unwrap().digest().as_str(), digest);
}

async fn a_package_waits_until_an_image_releases_its_tag() {
    let setup = Setup::new().await;
    let cluster = &setup.cluster;
    cluster.apply(&setup.standalone_image("older", 0, "naming: Plain"));
    cluster.image_ready("older").await;
    wait_for_next_second().await;
    cluster.apply(&setup.package("shop", &[], ""));
    let message = package_stalled(cluster, "shop", "RepositoryConflict").await;
    let holder = format!("belongs to the older image {}/older: ", cluster.namespace);
    assert!(message.contains(&holder), "{message}");
    // What it wrote is kept when it is deleted, and is not replaced before it is deleted from the registry.
    cluster.kubectl(&["delete", "jkimg", "older", "--timeout=30s"]);
    let left = setup.stored_document().await.unwrap();
    cluster
        .package_where("shop", "told of what stands there", |package| {
            let ready = condition(&package.status.as_ref()?.conditions, "Ready")?;
            ready
                .message
                .contains("exists already and is not a package")
                .then_some(())
        })
        .await;
    assert_eq!(setup.stored_document().await.unwrap(), left);
    let repository = setup.registry.repository("shop");
    repository.delete_manifest(left.digest()).await.unwrap();
    cluster.ready("shop").await;
}

async fn an_engine_image_yields_a_tag_to_an_older_object() {
    let setup = Setup::new().await;
    let cluster = &setup.cluster;
    let [real, ..] = DockerEngine::all();
    let name = crate::cluster::unique("shop:1.4.0");
    real.load(&crate::cluster::layered(&name, "engine").archive());
    let _agent = cluster.agent("n1", &real.host, &[]);
    let to = registry_at(&setup.registry.host);
    let engine =
        |object: &str, more: &str| standalone_image(object, &name, &format!("{to}\n  source: Docker\n  {more}"));
    cluster.apply(&engine("older", "compression: Zstd"));
    cluster.image_ready("older").await;
    wait_for_next_second().await;
    cluster.apply(&engine("younger", "compression: Gzip"));
    let message = image_stalled(cluster, "younger", "RepositoryConflict").await;
    assert!(
        message.contains(&format!("belongs to the older image {}/older: ", cluster.namespace)),
        "{message}"
    );
    cluster.kubectl(&["delete", "jkimg", "older", "--timeout=30s"]);
    cluster.image_ready("younger").await;
}

async fn each_fact_has_its_own_event() {
    let setup = Setup::new().await;
    let cluster = &setup.cluster;
    let to = registry_at(&setup.registry.host);
    for version in ["1.2.0", "1.3.0"] {
        cluster.apply(&package("release", version, &[], &to));
        cluster.ready("release").await;
    }
    let notes = eventually(SOON, "both versions are told", async || {
        let events = cluster.events("release").await;
        (events.len() >= 2)
            .then(|| events.clone())
            .ok_or_else(|| events.join("\n"))
    })
    .await;
    for version in ["1.2.0", "1.3.0"] {
        let of = format!("Succeeded: oci://{ADDRESS}/release:{version} is sha256:");
        assert_eq!(
            notes.iter().filter(|event| event.starts_with(&of)).count(),
            1,
            "{notes:?}"
        );
    }
    // A wrong tag, and another one.
    let absent = |tag: &str| standalone_image("absent", &setup.image(0).replace("1.4.0", tag), &to);
    for tag in ["1.4.1", "1.4.2"] {
        cluster.apply(&absent(tag));
        eventually(SOON, "the missing tag is told", async || {
            let events = cluster.events("absent").await;
            let notes = events
                .iter()
                .filter(|event| event.starts_with("SourceNotFound: ") && event.contains(tag));
            (notes.count() == 1).then_some(()).ok_or_else(|| events.join("\n"))
        })
        .await;
    }
}

async fn platforms_in_another_order_are_the_same_request() {
    let cluster = Cluster::new().await;
    let (source, registry) = (TestRegistry::start(Version::V31), TestRegistry::start(Version::V31));
    multi_platform(&source.repository("team/app"), "1").await;
    let image = format!("{}/team/app:1", source.host);
    let apply = |platforms: &str| {
        let image = format!("{{image: '{image}', platforms: [{platforms}]}}");
        let more = format!("{}\n  deletionPolicy: Delete", registry_at(&registry.host));
        cluster.apply(&package("app", "1", &[&image], &more));
    };
    // The name by an earlier version, which used the order of the platforms.
    apply("linux/arm64, linux/amd64");
    let owner = cluster.api::<JackalPackage>().get("app").await.unwrap();
    let reference: Reference = image.parse().unwrap();
    let text = format!("{reference} Registry None None [\"linux/arm64\", \"linux/amd64\"]");
    let name = format!("app-app-{}", Digest::of(text.as_bytes()).short());
    let child = json!({
        "apiVersion": "jackal.dev/v1alpha1",
        "kind": "JackalImage",
        "metadata": {
            "name": name,
            "labels": { "jackal.dev/package-uid": owner.uid() },
            "ownerReferences": [owner.controller_owner_ref(&())],
        },
        "spec": { "image": image, "platforms": ["linux/arm64", "linux/amd64"] },
    });
    let images = cluster.api::<JackalImage>();
    let child: JackalImage = serde_json::from_value(child).unwrap();
    let child = images.create(&PostParams::default(), &child).await.unwrap();
    let _controller = cluster.controller(&["--insecure-registry", &source.host]);
    let first = cluster.ready("app").await.status.unwrap().images[0].clone();
    assert_eq!(first.resource, name);
    let generation = images.get(&name).await.unwrap().metadata.generation;
    for platforms in ["linux/amd64, linux/arm64", "linux/arm64/v8, linux/amd64"] {
        apply(platforms);
        let row = cluster.ready("app").await.status.unwrap().images[0].clone();
        assert_eq!((&row.resource, &row.digest), (&name, &first.digest));
        let all = images.list(&ListParams::default()).await.unwrap().items;
        let known: Vec<_> = all.iter().map(|one| (one.uid(), one.metadata.generation)).collect();
        assert_eq!(known, [(child.uid(), generation)], "neither replaced nor changed");
    }
}

async fn a_manifest_that_another_object_needs_is_kept() {
    let setup = Setup::new().await;
    let cluster = &setup.cluster;
    cluster.apply(&setup.standalone_image("mine", 0, "deletionPolicy: Delete"));
    cluster.image_ready("mine").await;
    cluster.apply(&setup.standalone_image("next", 0, "suspend: true"));
    let existing = setup.stored_document().await;
    assert!(existing.is_some());
    cluster.kubectl(&["delete", "jkimg", "mine", "--timeout=30s"]);
    assert_eq!(setup.stored_document().await, existing);
}

/// Runs `case` on its own thread: futures that use a cluster are not Send.
fn on_own_thread<F: Future<Output = ()> + 'static>(case: fn() -> F) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        let runtime = tokio::runtime::Handle::current();
        let done = tokio::task::spawn_blocking(move || runtime.block_on(case())).await;
        if let Err(error) = done {
            std::panic::resume_unwind(error.into_panic());
        }
    })
}

/// Cases with a cluster.
const OBJECTS: [Case; 9] = [
    Case {
        report: "moby/moby#2619",
        input: "a package and the image of another one, whose plain tag is the package's name",
        expected: "both are Ready, the package has the tag, and the image reports it",
        run: || on_own_thread(a_package_keeps_its_tag_when_another_image_wants_it),
    },
    Case {
        report: "dogestry/dogestry#48",
        input: "two JackalImages with the same name from two registries",
        expected: "the younger is stalled and names the older, until that is deleted; a plain tag is skipped",
        run: || on_own_thread(of_two_images_the_older_keeps_the_tag_until_deleted),
    },
    Case {
        report: "dogestry/dogestry#48",
        input: "the same, applied at once",
        expected: "one of them gets the tag and the other is stalled",
        run: || on_own_thread(of_two_simultaneous_images_one_gets_the_tag),
    },
    Case {
        report: "dogestry/dogestry#48",
        input: "three JackalImages, the second of which is blocked by the first, and the third has its plain tag",
        expected: "the third gets the tag while the second writes nothing",
        run: || on_own_thread(a_blocked_image_does_not_block_other_tags),
    },
    Case {
        report: "helm/helm#9985",
        input: "a package with the name and version of an older JackalImage",
        expected: "it is stalled and names the image, and is built automatically when the tag is free",
        run: || on_own_thread(a_package_waits_until_an_image_releases_its_tag),
    },
    Case {
        report: "dogestry/dogestry#48",
        input: "two JackalImages that request the same image of a docker engine with two compressions",
        expected: "the younger is stalled until the older is deleted",
        run: || on_own_thread(an_engine_image_yields_a_tag_to_an_older_object),
    },
    Case {
        report: "kube-rs/kube#1655",
        input: "events that differ only in their note",
        expected: "each is a separate event",
        run: || on_own_thread(each_fact_has_its_own_event),
    },
    Case {
        report: "OCI image specification, Image Index",
        input: "platforms in another order, or as linux/arm64/v8",
        expected: "the same object, under the name from an earlier version",
        run: || on_own_thread(platforms_in_another_order_are_the_same_request),
    },
    Case {
        report: "OCI distribution specification, Deleting Manifests",
        input: "an object with deletionPolicy: Delete is deleted while another needs the same name",
        expected: "the manifest is kept",
        run: || on_own_thread(a_manifest_that_another_object_needs_is_kept),
    },
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_operator_overwrites_no_tag_of_another_object() {
    check(&OBJECTS).await;
}
