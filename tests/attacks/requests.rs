//! A tenant, or the operator of a registry that a tenant names, makes the operator send requests to services that they
//! cannot reach themselves.

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
/// Content of an internal service that must not be disclosed.
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
            run: || on_one_thread(plain_http_by_a_tenant),
        },
        Attack {
            attacker: TENANT,
            capabilities: OBJECTS,
            attempt: "loopback and link-local addresses as a registry, in every notation",
            expected: "PolicyDenied, which names --allow-network",
            final_state: "the service got no request",
            run: || on_one_thread(reserved_addresses),
        },
        Attack {
            attacker: TENANT,
            capabilities: OBJECTS,
            attempt: "names that resolve to the loopback, as with DNS rebinding",
            expected: "PolicyDenied, which names --allow-network",
            final_state: "the service got no request",
            run: || on_one_thread(names_resolving_to_the_loopback),
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
            attempt: "a redirect to a reachable host, whose response is an error, JSON of other types, or other content",
            expected: "the response status, and that the content differs",
            final_state: "no word and no digest of the content is in a status or an event",
            run: || on_one_thread(responses_of_redirect_targets),
        },
        Attack {
            attacker: REGISTRY,
            capabilities: ANSWERS,
            attempt: "the Location of an upload at an internal service, also if it may be reached by plain HTTP",
            expected: "PolicyDenied, which names --upload-host",
            final_state: "the service got no PUT, PATCH or DELETE",
            run: || on_one_thread(upload_locations_elsewhere),
        },
        Attack {
            attacker: REGISTRY,
            capabilities: ANSWERS,
            attempt: "a token realm at an internal service that returns access tokens",
            expected: "PolicyDenied, which names --insecure-registry",
            final_state: "the service got no request, and the registry got no token",
            run: || on_one_thread(token_realm_of_an_internal_service),
        },
    ])
    .await;
}

/// An operator that allows objects no more than a production cluster does, except for servers at 127.0.0.1 itself.
struct Setup {
    cluster: Cluster,
    /// The operator's own registry.
    operator_registry: TestRegistry,
    /// The registry of an image that may be read.
    source: TestRegistry,
    image: String,
    operator: Option<Operator>,
}

impl Setup {
    async fn new() -> Self {
        let (operator_registry, source) = (TestRegistry::start(Version::V28), TestRegistry::start(Version::V31));
        let repository = source.repository("team/app");
        let document = image(&repository, "linux/amd64", noise(1, 10_000)).await;
        put(&repository, &document, Some("1")).await;
        Self {
            cluster: Cluster::new().await,
            image: format!("{}/team/app:1", source.host),
            operator_registry,
            source,
            operator: None,
        }
    }

    /// Starts the operator; it may reach `insecure` hosts by plain HTTP, and addresses of `networks`. Set by variables,
    /// which an operator version without them ignores.
    fn start(&mut self, insecure: &[&str], networks: &str) {
        let insecure = [&[self.source.host.as_str()], insecure].concat().join(",");
        let operator_registry = [
            "--registry-address",
            ADDRESS,
            "--registry-endpoint",
            &self.operator_registry.host,
            "--registry-insecure",
        ];
        let variables = [
            ("JACKAL_INSECURE_REGISTRIES", insecure.as_str()),
            ("JACKAL_ALLOWED_NETWORKS", networks),
        ];
        self.operator = Some(self.cluster.guarded_controller(&operator_registry, &variables));
    }

    /// The message of the image's Ready condition, once its reason is `reason`.
    async fn ready_message(&self, name: &str, reason: &str) -> String {
        let found = self.cluster.image_where(name, reason, |image| {
            let ready = condition(&image.status.as_ref()?.conditions, "Ready")?;
            (ready.reason == reason).then_some(())
        });
        let status = found.await.status.unwrap();
        condition(&status.conditions, "Ready").unwrap().message.clone()
    }

    /// Everything that a tenant can read about the image `name`, once it has an event.
    async fn visible_to_tenant(&self, name: &str) -> String {
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
fn registry_at_host(host: &str) -> String {
    format!("registry: {{address: '{host}', insecure: true}}")
}

/// A prefix in the operator's registry, because a tag belongs to one object.
fn prefix(prefix: &str) -> String {
    format!("registry: {{repositoryPrefix: {prefix}}}")
}

async fn empty_service(address: &str) -> ScriptedServer {
    ScriptedServer::start_at(address, |_: &RecordedRequest| reply(200, &[], "")).await
}

async fn plain_http_by_a_tenant() {
    let mut setup = Setup::new().await;
    let service = empty_service("127.0.0.1").await;
    setup.start(&[], "127.0.0.1/32");
    setup.cluster.apply(&standalone_image(
        "address",
        &setup.image,
        &registry_at_host(&service.host),
    ));
    let endpoint = format!(
        "registry: {{address: 'r.example.com', endpoint: '{}', insecure: true}}",
        service.host
    );
    setup
        .cluster
        .apply(&standalone_image("endpoint", &setup.image, &endpoint));
    for name in ["address", "endpoint"] {
        let message = image_stalled(&setup.cluster, name, "PolicyDenied").await;
        assert!(
            message.contains("--insecure-registry") && message.contains(&service.host),
            "{message}"
        );
    }
    assert!(service.requests().is_empty());
    // An object without registry fields is copied to the operator's own registry as before.
    setup.cluster.apply(&standalone_image("own", &setup.image, ""));
    setup.cluster.image_ready("own").await;
}

async fn reserved_addresses() {
    let mut setup = Setup::new().await;
    let service = empty_service("127.0.0.2").await;
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
        let message = setup.ready_message(&format!("image-{number}"), "PolicyDenied").await;
        assert!(message.contains("--allow-network"), "{host}: {message}");
    }
    assert!(service.requests().is_empty(), "{:?}", service.requests());
}

async fn names_resolving_to_the_loopback() {
    let mut setup = Setup::new().await;
    let service = empty_service("127.0.0.1").await;
    let (_, port) = service.host.rsplit_once(':').unwrap();
    // The operator's own registry is still reached by its address.
    setup.start(&["localhost:*", &format!("localhost:{port}")], "127.0.0.2/32");
    setup
        .cluster
        .apply(&standalone_image("source", &format!("localhost:{port}/team/app:1"), ""));
    let message = setup.ready_message("source", "PolicyDenied").await;
    assert!(message.contains("--allow-network"), "{message}");
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

/// A proxy for the registry of the image that redirects requests for `part` to `to`.
fn redirecting(setup: &Setup, part: &'static str, to: String) -> FaultProxy {
    FaultProxy::to(&setup.source.host, move |request| {
        match matches!(request.method.as_str(), "GET" | "HEAD") && request.path.contains(part) {
            true => Action::Answer(307, vec![("Location", to.clone())], String::new()),
            false => Action::Pass,
        }
    })
}

async fn redirects_to_plain_http() {
    let mut setup = Setup::new().await;
    let service = empty_service("127.0.0.1").await;
    let to = format!("http://{}/latest/meta-data", service.host);
    let proxies = ["/manifests/", "/blobs/"].map(|part| redirecting(&setup, part, to.clone()));
    setup.start(&[&proxies[0].host, &proxies[1].host], "127.0.0.1/32");
    for (name, proxy) in ["manifests", "blobs"].iter().zip(&proxies) {
        setup.cluster.apply(&standalone_image(
            name,
            &format!("{}/team/app:1", proxy.host),
            &prefix(name),
        ));
        let message = setup.ready_message(name, "PolicyDenied").await;
        assert!(
            message.contains("--insecure-registry") && message.contains(&service.host),
            "{message}"
        );
    }
    assert!(service.requests().is_empty(), "{:?}", service.requests());
}

async fn redirect_to_a_reserved_address() {
    let mut setup = Setup::new().await;
    let service = empty_service("127.0.0.2").await;
    let proxy = redirecting(&setup, "/blobs/", format!("http://{}/x", service.host));
    setup.start(&[&proxy.host, &service.host], "127.0.0.1/32");
    setup
        .cluster
        .apply(&standalone_image("app", &format!("{}/team/app:1", proxy.host), ""));
    let message = setup.ready_message("app", "PolicyDenied").await;
    assert!(message.contains("--allow-network"), "{message}");
    assert!(service.requests().is_empty(), "{:?}", service.requests());
}

async fn responses_of_redirect_targets() {
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
            redirecting(&setup, "/manifests/", to("/error")),
            "AuthenticationFailed",
        ),
        (
            "types",
            redirecting(&setup, "/manifests/", to("/types")),
            "SourceFailed",
        ),
        (
            "text",
            redirecting(&setup, "/manifests/", to("/content")),
            "SourceFailed",
        ),
        (
            "content",
            redirecting(&setup, "/blobs/", to("/content")),
            "DigestMismatch",
        ),
    ];
    let hosts: Vec<&str> = cases.iter().map(|(_, proxy, _)| proxy.host.as_str()).collect();
    setup.start(&[&hosts[..], &[service.host.as_str()]].concat(), "127.0.0.1/32");
    for (name, proxy, _) in &cases {
        setup.cluster.apply(&standalone_image(
            name,
            &format!("{}/team/app:1", proxy.host),
            &prefix(name),
        ));
    }
    let digest = Digest::of(content.as_bytes());
    for (name, _, reason) in &cases {
        setup.ready_message(name, reason).await;
        let visible = setup.visible_to_tenant(name).await;
        assert!(
            !visible.contains(SECRET) && !visible.contains(digest.hex()),
            "{visible}"
        );
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
    let visible = serde_json::to_string(&package.await).unwrap();
    assert!(!visible.contains(digest.hex()), "{visible}");
    assert!(!service.requests().is_empty());
}

async fn upload_locations_elsewhere() {
    let mut setup = Setup::new().await;
    let service = empty_service("127.0.0.1").await;
    let destination = Arc::new(TestRegistry::start(Version::V31));
    let to = format!("http://{}/admin/delete", service.host);
    let proxy = FaultProxy::to(&destination.host, move |request| match request.method.as_str() {
        "POST" => {
            let to = to.clone();
            Action::Header("location", Box::new(move |_: &str| to.clone()))
        }
        _ => Action::Pass,
    });
    // Even if the service may be reached by plain HTTP.
    setup.start(&[&proxy.host, &service.host], "127.0.0.1/32");
    setup
        .cluster
        .apply(&standalone_image("app", &setup.image, &registry_at_host(&proxy.host)));
    let message = setup.ready_message("app", "PolicyDenied").await;
    assert!(
        message.contains("--upload-host") && message.contains(&service.host),
        "{message}"
    );
    let requests = service.requests();
    assert!(requests.is_empty(), "{requests:?}");
}

async fn token_realm_of_an_internal_service() {
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
    let message = setup.ready_message("app", "PolicyDenied").await;
    assert!(
        message.contains("--insecure-registry") && message.contains(&service.host),
        "{message}"
    );
    assert!(service.requests().is_empty(), "{:?}", service.requests());
    let sent = registry
        .requests()
        .into_iter()
        .find(|request| request.headers.contains_key("authorization"));
    assert!(sent.is_none(), "{sent:?}");
}
