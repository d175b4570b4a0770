//! The same between the objects of a cluster, whose events and names are told apart here too.

use futures::future::BoxFuture;
use jackal_operator::api::v1alpha1::{JackalImage, JackalPackage};
use jackal_operator::oci::{Digest, Document, Reference};
use kube::api::{ListParams, PostParams};
use kube::{Resource as _, ResourceExt as _};
use serde_json::json;

use crate::docker::engines::Real;
use crate::field::{Case, check};
use crate::support::cluster::{Cluster, condition, image_stalled, package_stalled};
use crate::support::image::{image, multi_platform, noise, put};
use crate::support::objects::{ADDRESS, lone, package, registry_at};
use crate::support::operator::Operator;
use crate::support::registry::{TestRegistry, Version};
use crate::support::wait::{SOON, a_second_passes, eventually};

/// A cluster with a controller, and two registries with an image of one name that is not the same.
struct Shared {
    cluster: Cluster,
    sources: [TestRegistry; 2],
    registry: TestRegistry,
    _controller: Operator,
}

impl Shared {
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

    /// An image of its own, to apply.
    fn lone(&self, name: &str, source: usize, more: &str) -> String {
        lone(
            name,
            &self.image(source),
            &format!("{}\n  {more}", registry_at(&self.registry.host)),
        )
    }

    /// A package of version 1.4.0, to apply.
    fn package(&self, name: &str, images: &[&str], more: &str) -> String {
        let to = registry_at(&self.registry.host);
        package(name, "1.4.0", images, &format!("{to}\n  {more}"))
    }

    /// What stands under the tag that all want.
    async fn standing(&self) -> Option<Document> {
        self.registry.repository("shop").manifest("1.4.0").await.unwrap()
    }
}

/// What the Ready condition of an image says.
fn said(image: &JackalImage) -> String {
    let status = image.status.as_ref().unwrap();
    condition(&status.conditions, "Ready").unwrap().message.clone()
}

async fn a_package_keeps_its_tag_beside_anothers_image() {
    let shared = Shared::new().await;
    let (cluster, image) = (&shared.cluster, format!("{{image: '{}'}}", shared.image(0)));
    cluster.apply(&shared.package("shop", &[], "naming: Jackal"));
    cluster.ready("shop").await;
    let standing = shared.standing().await.unwrap();
    cluster.apply(&shared.package("another", &[&image], "naming: Jackal"));
    let resource = cluster.ready("another").await.status.unwrap().images[0]
        .resource
        .clone();
    let message = said(&cluster.image_ready(&resource).await);
    assert!(message.contains("the plain tag 1.4.0 belongs to "), "{message}");
    assert_eq!(shared.standing().await.unwrap(), standing);
}

async fn of_two_images_the_older_has_the_tag_until_it_goes() {
    let shared = Shared::new().await;
    let cluster = &shared.cluster;
    cluster.apply(&shared.lone("older", 0, "naming: Plain"));
    let digest = cluster.image_ready("older").await.status.unwrap().digest.unwrap();
    a_second_passes().await;
    cluster.apply(
        &[
            shared.lone("younger", 1, "naming: Plain"),
            shared.lone("plain", 1, "naming: Jackal"),
            shared.lone("same", 0, "naming: Plain"),
        ]
        .join("---\n"),
    );
    let message = image_stalled(cluster, "younger", "RepositoryConflict").await;
    let holder = format!(
        "{ADDRESS}/shop:1.4.0 belongs to the older image {}/older: ",
        cluster.namespace
    );
    assert!(message.starts_with(&holder), "{message}");
    let message = said(&cluster.image_ready("plain").await);
    assert!(
        message.contains("the plain tag 1.4.0 belongs to the older image "),
        "{message}"
    );
    cluster.image_ready("same").await;
    assert_eq!(shared.standing().await.unwrap().digest().as_str(), digest);
    cluster.kubectl(&["delete", "jkimg", "older", "same", "--timeout=30s"]);
    let digest = cluster.image_ready("younger").await.status.unwrap().digest.unwrap();
    assert_eq!(shared.standing().await.unwrap().digest().as_str(), digest);
}

async fn of_two_images_of_one_moment_one_has_the_tag() {
    let shared = Shared::new().await;
    let cluster = &shared.cluster;
    // Whichever of them is looked at first.
    cluster.apply(
        &[
            shared.lone("b", 0, "naming: Plain"),
            shared.lone("a", 1, "naming: Plain"),
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
        let standing = shared.standing().await.unwrap();
        (standing.digest().as_str() == digest)
            .then_some(())
            .ok_or_else(|| standing.digest().to_string())
    })
    .await;
}

async fn who_is_kept_from_its_name_keeps_nobody_from_a_tag() {
    let shared = Shared::new().await;
    let cluster = &shared.cluster;
    // The name that the second has in the cluster, besides the plain one.
    let name = format!("{}/shop", shared.sources[0].host);
    let named = format!("1.4.0-jackal-{}", crc32fast::hash(name.as_bytes()));
    let source = shared.sources[1].repository("shop");
    let document = image(&source, "linux/amd64", noise(3, 1000)).await;
    put(&source, &document, Some(&named)).await;
    let to = registry_at(&shared.registry.host);
    let first = format!("{}/shop:{named}", shared.sources[1].host);
    cluster.apply(&lone("first", &first, &format!("{to}\n  naming: Plain")));
    cluster.image_ready("first").await;
    a_second_passes().await;
    cluster.apply(&shared.lone("second", 0, "naming: Jackal"));
    let message = image_stalled(cluster, "second", "RepositoryConflict").await;
    assert!(message.contains(&format!("{}/first: ", cluster.namespace)), "{message}");
    a_second_passes().await;
    cluster.apply(&shared.lone("third", 1, "naming: Plain"));
    let digest = cluster.image_ready("third").await.status.unwrap().digest.unwrap();
    assert_eq!(shared.standing().await.unwrap().digest().as_str(), digest);
    // The second gets its names, and is older than the third.
    cluster.kubectl(&["delete", "jkimg", "first", "--timeout=30s"]);
    let digest = cluster.image_ready("second").await.status.unwrap().digest.unwrap();
    let message = image_stalled(cluster, "third", "RepositoryConflict").await;
    assert!(
        message.contains(&format!("{}/second: ", cluster.namespace)),
        "{message}"
    );
    assert_eq!(shared.standing().await.unwrap().digest().as_str(), digest);
}

async fn a_package_waits_for_an_image_to_leave_its_tag() {
    let shared = Shared::new().await;
    let cluster = &shared.cluster;
    cluster.apply(&shared.lone("older", 0, "naming: Plain"));
    cluster.image_ready("older").await;
    a_second_passes().await;
    cluster.apply(&shared.package("shop", &[], ""));
    let message = package_stalled(cluster, "shop", "RepositoryConflict").await;
    let holder = format!("belongs to the older image {}/older: ", cluster.namespace);
    assert!(message.contains(&holder), "{message}");
    // What it wrote stays when it goes, and is nobody's to replace before somebody deletes it.
    cluster.kubectl(&["delete", "jkimg", "older", "--timeout=30s"]);
    let left = shared.standing().await.unwrap();
    cluster
        .package_where("shop", "told of what stands there", |package| {
            let ready = condition(&package.status.as_ref()?.conditions, "Ready")?;
            ready
                .message
                .contains("exists already and is not a package")
                .then_some(())
        })
        .await;
    assert_eq!(shared.standing().await.unwrap(), left);
    let repository = shared.registry.repository("shop");
    repository.delete_manifest(left.digest()).await.unwrap();
    cluster.ready("shop").await;
}

async fn an_engines_image_leaves_a_tag_to_an_older_object() {
    let shared = Shared::new().await;
    let cluster = &shared.cluster;
    let [real, ..] = Real::all();
    let name = crate::cluster::unique("shop:1.4.0");
    real.load(&crate::cluster::layered(&name, "engine").archive());
    let _agent = cluster.agent("n1", &real.host, &[]);
    let to = registry_at(&shared.registry.host);
    let engine = |object: &str, more: &str| lone(object, &name, &format!("{to}\n  source: Docker\n  {more}"));
    cluster.apply(&engine("older", "compression: Zstd"));
    cluster.image_ready("older").await;
    a_second_passes().await;
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
    let shared = Shared::new().await;
    let cluster = &shared.cluster;
    let to = registry_at(&shared.registry.host);
    for version in ["1.2.0", "1.3.0"] {
        cluster.apply(&package("release", version, &[], &to));
        cluster.ready("release").await;
    }
    let told = eventually(SOON, "both versions are told", async || {
        let events = cluster.events("release").await;
        (events.len() >= 2)
            .then(|| events.clone())
            .ok_or_else(|| events.join("\n"))
    })
    .await;
    for version in ["1.2.0", "1.3.0"] {
        let of = format!("Succeeded: oci://{ADDRESS}/release:{version} is sha256:");
        assert_eq!(
            told.iter().filter(|event| event.starts_with(&of)).count(),
            1,
            "{told:?}"
        );
    }
    // A tag that is wrong, and another one.
    let absent = |tag: &str| lone("absent", &shared.image(0).replace("1.4.0", tag), &to);
    for tag in ["1.4.1", "1.4.2"] {
        cluster.apply(&absent(tag));
        eventually(SOON, "the missing tag is told", async || {
            let events = cluster.events("absent").await;
            let told = events
                .iter()
                .filter(|event| event.starts_with("SourceNotFound: ") && event.contains(tag));
            (told.count() == 1).then_some(()).ok_or_else(|| events.join("\n"))
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
    // As a version named its object that went by the order of writing.
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

async fn what_another_object_is_to_have_stays() {
    let shared = Shared::new().await;
    let cluster = &shared.cluster;
    cluster.apply(&shared.lone("mine", 0, "deletionPolicy: Delete"));
    cluster.image_ready("mine").await;
    cluster.apply(&shared.lone("next", 0, "suspend: true"));
    let standing = shared.standing().await;
    assert!(standing.is_some());
    cluster.kubectl(&["delete", "jkimg", "mine", "--timeout=30s"]);
    assert_eq!(shared.standing().await, standing);
}

/// Runs `case` on a thread of its own: what waits for a cluster cannot go from one to another.
fn apart<F: Future<Output = ()> + 'static>(case: fn() -> F) -> BoxFuture<'static, ()> {
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
        expected: "both are Ready, the tag is the package's, and the image says so",
        run: || apart(a_package_keeps_its_tag_beside_anothers_image),
    },
    Case {
        report: "dogestry/dogestry#48",
        input: "two JackalImages of one name from two registries",
        expected: "the younger is stalled and names the older, until that goes; a plain tag is left out",
        run: || apart(of_two_images_the_older_has_the_tag_until_it_goes),
    },
    Case {
        report: "dogestry/dogestry#48",
        input: "the same, applied at once",
        expected: "one of them has the tag and the other is stalled",
        run: || apart(of_two_images_of_one_moment_one_has_the_tag),
    },
    Case {
        report: "dogestry/dogestry#48",
        input: "three JackalImages, the second of which is kept from its name by the first, and the third wants its plain tag",
        expected: "the third has it while the second writes nothing",
        run: || apart(who_is_kept_from_its_name_keeps_nobody_from_a_tag),
    },
    Case {
        report: "helm/helm#9985",
        input: "a package whose name and version an older JackalImage has",
        expected: "it is stalled and names the image, and is built by itself when the tag is free",
        run: || apart(a_package_waits_for_an_image_to_leave_its_tag),
    },
    Case {
        report: "dogestry/dogestry#48",
        input: "two JackalImages that ask a docker engine for one image in two compressions",
        expected: "the younger is stalled until the older goes",
        run: || apart(an_engines_image_leaves_a_tag_to_an_older_object),
    },
    Case {
        report: "kube-rs/kube#1655",
        input: "events that differ in their note only",
        expected: "each has an event of its own",
        run: || apart(each_fact_has_its_own_event),
    },
    Case {
        report: "OCI image specification, Image Index",
        input: "platforms in another order, or as linux/arm64/v8",
        expected: "the same object, under the name that an earlier version gave it",
        run: || apart(platforms_in_another_order_are_the_same_request),
    },
    Case {
        report: "OCI distribution specification, Deleting Manifests",
        input: "an object with deletionPolicy: Delete goes while another is to have the same name",
        expected: "the manifest stays",
        run: || apart(what_another_object_is_to_have_stays),
    },
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_cluster() {
    check(&OBJECTS).await;
}
