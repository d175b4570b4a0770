//! Requests that a tenant, or the operator of a registry that a tenant names, would have the operator send to services that
//! they cannot reach themselves.

use std::sync::Arc;

use jackal_operator::oci::Digest;
use serde_json::json;

use super::{Attack, check};
use crate::support::cluster::{Cluster, condition, image_stalled};
use crate::support::fault_proxy::{Action, FaultProxy};
use crate::support::image::{image, noise, put};
use crate::support::objects::{ADDRESS, standalone_image};
use crate::support::operator::Operator;
use crate::support::registry::{TestRegistry, Version};
use crate::support::scripted::{RecordedRequest, ScriptedServer, reply};
use crate::support::table::on_one_thread;
use crate::support::wait::{SOON, eventually};

const TENANT: &str = "a tenant";
const REGISTRY: &str = "the operator of a registry that a tenant names";
const OBJECTS: &str = "creates JackalImages and JackalPackages in a namespace";
const ANSWERS: &str = "answers requests of the operator as it likes";
/// What an internal service says and nobody outside is to know.
const SECRET: &str = "the-words-of-an-internal-service";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn internal_services_are_not_reached_and_their_responses_not_disclosed() {
    check(&[
        Attack {
            attacker: TENANT,
            capabilities: OBJECTS,
            attempt: "registry.insecure for a service that speaks plain HTTP",
            expected: "PolicyDenied, which names --insecure-registry",
            final_state: "the service got no request",
            run: || on_one_thread(insecure_by_a_tenant),
        },
        Attack {
            attacker: TENANT,
            capabilities: OBJECTS,
            attempt: "loopback and link-local addresses as a registry, in every way to write them",
            expected: "PolicyDenied, which names --allow-network",
            final_state: "the service got no request",
            run: || on_one_thread(reserved_addresses),
        },
        Attack {
            attacker: TENANT,
            capabilities: OBJECTS,
            attempt: "names that resolve to the loopback, as DNS rebinding makes them",
            expected: "PolicyDenied, which names --allow-network",
            final_state: "the service got no request",
            run: || on_one_thread(names_of_the_loopback),
        },
        Attack {
            attacker: REGISTRY,
            capabilities: ANSWERS,
            attempt: "redirects of manifests and blobs to plain HTTP of an internal service",
            expected: "PolicyDenied, which names --insecure-registry",
            final_state: "the service got no request",
            run: || on_one_thread(redirects_to_plain_http),
        },
        Attack {
            attacker: REGISTRY,
            capabilities: ANSWERS,
            attempt: "a redirect to a reserved address",
            expected: "PolicyDenied, which names --allow-network",
            final_state: "the service got no request",
            run: || on_one_thread(redirect_to_a_reserved_address),
        },
        Attack {
            attacker: REGISTRY,
            capabilities: ANSWERS,
            attempt: "a redirect to a host that may be reached, whose answer is an error, JSON of other types, or other content",
            expected: "the status that it answered, and that the content is another",
            final_state: "no word and no digest of it is in a status or an event",
            run: || on_one_thread(answers_of_where_it_leads),
        },
        Attack {
            attacker: REGISTRY,
            capabilities: ANSWERS,
            attempt: "the Location of an upload at an internal service, also where it may be reached by plain HTTP",
            expected: "PolicyDenied, which names --upload-host",
            final_state: "the service got no PUT, PATCH or DELETE",
            run: || on_one_thread(uploads_elsewhere),
        },
        Attack {
            attacker: REGISTRY,
            capabilities: ANSWERS,
            attempt: "a token realm at an internal service that gives access tokens",
            expected: "PolicyDenied, which names --insecure-registry",
            final_state: "the service got no request, and the registry no token",
            run: || on_one_thread(realm_of_an_internal_service),
        },
    ])
    .await;
}

/// Where an operator works that allows objects no more than a cluster does, but for servers at 127.0.0.1 itself.
struct Setup {
    cluster: Cluster,
    /// The operator's own.
    home: TestRegistry,
    /// Where an image lies that may be read.
    source: TestRegistry,
    image: String,
    operator: Option<Operator>,
}

impl Setup {
    async fn new() -> Self {
        let (home, source) = (TestRegistry::start(Version::V28), TestRegistry::start(Version::V31));
        let repository = source.repository("team/app");
        let document = image(&repository, "linux/amd64", noise(1, 10_000)).await;
        put(&repository, &document, Some("1")).await;
        Self {
            cluster: Cluster::new().await,
            image: format!("{}/team/app:1", source.host),
            home,
            source,
            operator: None,
        }
    }

    /// Starts the operator, to which `insecure` hosts may be reached by plain HTTP, and addresses of `networks`. By
    /// variables, which an operator that does not know them passes over.
    fn start(&mut self, insecure: &[&str], networks: &str) {
        let insecure = [&[self.source.host.as_str()], insecure].concat().join(",");
        let home = [
            "--registry-address",
            ADDRESS,
            "--registry-endpoint",
            &self.home.host,
            "--registry-insecure",
        ];
        let variables = [
            ("JACKAL_INSECURE_REGISTRIES", insecure.as_str()),
            ("JACKAL_ALLOWED_NETWORKS", networks),
        ];
        self.operator = Some(self.cluster.guarded_controller(&home, &variables));
    }

    /// What is said of the image `name` in `reason`, once it is.
    async fn said(&self, name: &str, reason: &str) -> String {
        let found = self.cluster.image_where(name, reason, |image| {
            let ready = condition(&image.status.as_ref()?.conditions, "Ready")?;
            (ready.reason == reason).then_some(())
        });
        let status = found.await.status.unwrap();
        condition(&status.conditions, "Ready").unwrap().message.clone()
    }

    /// All that a tenant can read of the image `name`, once it has an event.
    async fn told(&self, name: &str) -> String {
        let events = eventually(SOON, &format!("{name} has an event"), async || {
            let events = self.cluster.events(name).await;
            (!events.is_empty())
                .then_some(events.clone())
                .ok_or_else(|| format!("{events:?}"))
        })
        .await;
        let object = self.cluster.kubectl(&["get", "jkimg", name, "-o", "json"]);
        format!("{object}\n{events:?}")
    }
}

/// A registry at `host`, over plain HTTP.
fn at(host: &str) -> String {
    format!("registry: {{address: '{host}', insecure: true}}")
}

/// A part of the operator's registry of its own, since a tag belongs to one object.
fn below(prefix: &str) -> String {
    format!("registry: {{repositoryPrefix: {prefix}}}")
}

async fn silent(address: &str) -> ScriptedServer {
    ScriptedServer::start_at(address, |_: &RecordedRequest| reply(200, &[], "")).await
}

async fn insecure_by_a_tenant() {
    let mut setup = Setup::new().await;
    let service = silent("127.0.0.1").await;
    setup.start(&[], "127.0.0.1/32");
    setup
        .cluster
        .apply(&standalone_image("address", &setup.image, &at(&service.host)));
    let endpoint = format!(
        "registry: {{address: 'r.example.com', endpoint: '{}', insecure: true}}",
        service.host
    );
    setup
        .cluster
        .apply(&standalone_image("endpoint", &setup.image, &endpoint));
    for name in ["address", "endpoint"] {
        let said = image_stalled(&setup.cluster, name, "PolicyDenied").await;
        assert!(
            said.contains("--insecure-registry") && said.contains(&service.host),
            "{said}"
        );
    }
    assert!(service.requests().is_empty());
    // What says nothing of a registry goes to the operator's own as before.
    setup.cluster.apply(&standalone_image("own", &setup.image, ""));
    setup.cluster.image_ready("own").await;
}

async fn reserved_addresses() {
    let mut setup = Setup::new().await;
    let service = silent("127.0.0.2").await;
    let (_, port) = service.host.rsplit_once(':').unwrap();
    setup.start(
        &["127.0.0.2:*", "169.254.169.254", "0.0.0.0:*", "[::1]:*"],
        "127.0.0.1/32",
    );
    let hosts = [
        service.host.clone(),
        format!("127.2:{port}"),
        format!("0x7f000002:{port}"),
        format!("2130706434:{port}"),
        format!("127.0.0.2.:{port}"),
        format!("[::ffff:127.0.0.2]:{port}"),
        "169.254.169.254".to_owned(),
        format!("0.0.0.0:{port}"),
        format!("[::1]:{port}"),
    ];
    for (number, host) in hosts.iter().enumerate() {
        let registry = format!("registry: {{address: 'r{number}.example.com', endpoint: '{host}', insecure: true}}");
        setup
            .cluster
            .apply(&standalone_image(&format!("image-{number}"), &setup.image, &registry));
    }
    for (number, host) in hosts.iter().enumerate() {
        let said = setup.said(&format!("image-{number}"), "PolicyDenied").await;
        assert!(said.contains("--allow-network"), "{host}: {said}");
    }
    assert!(service.requests().is_empty(), "{:?}", service.requests());
}

async fn names_of_the_loopback() {
    let mut setup = Setup::new().await;
    let service = silent("127.0.0.1").await;
    let (_, port) = service.host.rsplit_once(':').unwrap();
    // The operator's own registry is where it was before, by its number.
    setup.start(&["localhost:*", &format!("localhost:{port}")], "127.0.0.2/32");
    setup
        .cluster
        .apply(&standalone_image("source", &format!("localhost:{port}/team/app:1"), ""));
    let said = setup.said("source", "PolicyDenied").await;
    assert!(said.contains("--allow-network"), "{said}");
    let file = json!({
        "apiVersion": "jackal.dev/v1alpha1", "kind": "JackalPackage", "metadata": { "name": "file" },
        "spec": { "version": "1", "components": [{ "name": "a", "files": [
            { "target": "/x", "url": format!("http://LOCALHOST:{port}/x"), "sha256": "a".repeat(64) },
        ]}]},
    });
    setup.cluster.apply(&file.to_string());
    setup
        .cluster
        .package_where("file", "denied", |package| {
            let ready = condition(&package.status.as_ref()?.conditions, "Ready")?;
            (ready.reason == "PolicyDenied" && ready.message.contains("--allow-network")).then_some(())
        })
        .await;
    assert!(service.requests().is_empty(), "{:?}", service.requests());
}

/// A registry of the ground's image that leads requests to `part` to `to`.
fn leading(setup: &Setup, part: &'static str, to: String) -> FaultProxy {
    FaultProxy::to(&setup.source.host, move |request| {
        match matches!(request.method.as_str(), "GET" | "HEAD") && request.path.contains(part) {
            true => Action::Answer(307, vec![("Location", to.clone())], String::new()),
            false => Action::Pass,
        }
    })
}

async fn redirects_to_plain_http() {
    let mut setup = Setup::new().await;
    let service = silent("127.0.0.1").await;
    let to = format!("http://{}/latest/meta-data", service.host);
    let proxies = ["/manifests/", "/blobs/"].map(|part| leading(&setup, part, to.clone()));
    setup.start(&[&proxies[0].host, &proxies[1].host], "127.0.0.1/32");
    for (name, proxy) in ["manifests", "blobs"].iter().zip(&proxies) {
        setup.cluster.apply(&standalone_image(
            name,
            &format!("{}/team/app:1", proxy.host),
            &below(name),
        ));
        let said = setup.said(name, "PolicyDenied").await;
        assert!(
            said.contains("--insecure-registry") && said.contains(&service.host),
            "{said}"
        );
    }
    assert!(service.requests().is_empty(), "{:?}", service.requests());
}

async fn redirect_to_a_reserved_address() {
    let mut setup = Setup::new().await;
    let service = silent("127.0.0.2").await;
    let proxy = leading(&setup, "/blobs/", format!("http://{}/x", service.host));
    setup.start(&[&proxy.host, &service.host], "127.0.0.1/32");
    setup
        .cluster
        .apply(&standalone_image("app", &format!("{}/team/app:1", proxy.host), ""));
    let said = setup.said("app", "PolicyDenied").await;
    assert!(said.contains("--allow-network"), "{said}");
    assert!(service.requests().is_empty(), "{:?}", service.requests());
}

async fn answers_of_where_it_leads() {
    let mut setup = Setup::new().await;
    let content = format!("a document with {SECRET}");
    let served = content.clone();
    let service = ScriptedServer::start(move |request: &RecordedRequest| match request.path.as_str() {
        "/error" => reply(
            403,
            &[],
            json!({ "errors": [{ "code": "DENIED", "message": SECRET }] }).to_string(),
        ),
        "/types" => {
            let headers = [("content-type", "application/vnd.oci.image.manifest.v1+json")];
            reply(
                200,
                &headers,
                json!({ "schemaVersion": 2, "config": SECRET, "layers": SECRET }).to_string(),
            )
        }
        _ => reply(200, &[], served.clone()),
    })
    .await;
    let to = |path: &str| format!("http://{}{path}", service.host);
    let cases = [
        (
            "error",
            leading(&setup, "/manifests/", to("/error")),
            "AuthenticationFailed",
        ),
        ("types", leading(&setup, "/manifests/", to("/types")), "SourceFailed"),
        ("text", leading(&setup, "/manifests/", to("/content")), "SourceFailed"),
        ("content", leading(&setup, "/blobs/", to("/content")), "DigestMismatch"),
    ];
    let hosts: Vec<&str> = cases.iter().map(|(_, proxy, _)| proxy.host.as_str()).collect();
    setup.start(&[&hosts[..], &[service.host.as_str()]].concat(), "127.0.0.1/32");
    for (name, proxy, _) in &cases {
        setup.cluster.apply(&standalone_image(
            name,
            &format!("{}/team/app:1", proxy.host),
            &below(name),
        ));
    }
    let digest = Digest::of(content.as_bytes());
    for (name, _, reason) in &cases {
        setup.said(name, reason).await;
        let told = setup.told(name).await;
        assert!(!told.contains(SECRET) && !told.contains(digest.hex()), "{told}");
    }
    let file = json!({
        "apiVersion": "jackal.dev/v1alpha1", "kind": "JackalPackage", "metadata": { "name": "file" },
        "spec": { "version": "1", "components": [{ "name": "a", "files": [
            { "target": "/x", "url": format!("http://{}/v2/blobs/x", cases[3].1.host), "sha256": "a".repeat(64) },
        ]}]},
    });
    setup.cluster.apply(&file.to_string());
    let package = setup.cluster.package_where("file", "of another digest", |package| {
        let ready = condition(&package.status.as_ref()?.conditions, "Ready")?;
        (ready.reason == "DigestMismatch").then_some(())
    });
    let told = serde_json::to_string(&package.await).unwrap();
    assert!(!told.contains(digest.hex()), "{told}");
    assert!(!service.requests().is_empty());
}

async fn uploads_elsewhere() {
    let mut setup = Setup::new().await;
    let service = silent("127.0.0.1").await;
    let destination = Arc::new(TestRegistry::start(Version::V31));
    let to = format!("http://{}/admin/delete", service.host);
    let proxy = FaultProxy::to(&destination.host, move |request| match request.method.as_str() {
        "POST" => {
            let to = to.clone();
            Action::Header("location", Box::new(move |_: &str| to.clone()))
        }
        _ => Action::Pass,
    });
    // Even where the service may be reached by plain HTTP.
    setup.start(&[&proxy.host, &service.host], "127.0.0.1/32");
    setup
        .cluster
        .apply(&standalone_image("app", &setup.image, &at(&proxy.host)));
    let said = setup.said("app", "PolicyDenied").await;
    assert!(said.contains("--upload-host") && said.contains(&service.host), "{said}");
    let requests = service.requests();
    assert!(requests.is_empty(), "{requests:?}");
}

async fn realm_of_an_internal_service() {
    let mut setup = Setup::new().await;
    let service =
        ScriptedServer::start(|_: &RecordedRequest| reply(200, &[], json!({ "access_token": SECRET }).to_string()))
            .await;
    let challenge = format!("Bearer realm=\"http://{}/computeMetadata/v1/token\"", service.host);
    let registry =
        ScriptedServer::start(move |_: &RecordedRequest| reply(401, &[("www-authenticate", &challenge)], "")).await;
    setup.start(&[&registry.host], "127.0.0.1/32");
    setup
        .cluster
        .apply(&standalone_image("app", &format!("{}/team/app:1", registry.host), ""));
    let said = setup.said("app", "PolicyDenied").await;
    assert!(
        said.contains("--insecure-registry") && said.contains(&service.host),
        "{said}"
    );
    assert!(service.requests().is_empty(), "{:?}", service.requests());
    let sent = registry
        .requests()
        .into_iter()
        .find(|request| request.headers.contains_key("authorization"));
    assert!(sent.is_none(), "{sent:?}");
}
