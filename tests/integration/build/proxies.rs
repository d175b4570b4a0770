//! Registries are reached through the proxy of the environment; docker engines never are.

use std::time::Duration;

use super::seeded;
use crate::docker::engines::{DockerEngine, Image, tar};
use crate::support::fault_proxy::{Action, FaultProxy};
use crate::support::image::{image, put};
use crate::support::operator::Operator;
use crate::support::registry::{TestRegistry, Version};
use crate::support::workspace::shop;

const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxies_are_read_from_the_environment() {
    let registry = TestRegistry::start(Version::V31);
    let repository = registry.repository("team/app");
    let document = image(&repository, "linux/amd64", seeded(5, 10_000)).await;
    put(&repository, &document, Some("1")).await;
    let [engine, ..] = DockerEngine::all();
    let local = format!("jackal-proxies-{:012x}/local:dev", fastrand::u64(..1 << 48));
    engine.load(&Image::new(&local, vec![tar(&[("name", &local)])]).archive());
    let folder = tempfile::tempdir().unwrap();

    let build = async |host: &str, to: &str, proxy: &str, none: &str| {
        let images = [
            format!("{{image: '{host}/team/app:1'}}"),
            format!("{{image: '{local}', source: Docker}}"),
        ];
        let file = folder.path().join("package.yaml");
        std::fs::write(&file, shop(&images)).unwrap();
        let arguments = [
            "build",
            file.to_str().unwrap(),
            "--to",
            to,
            "--insecure",
            "--insecure-registry",
            host,
        ];
        let proxy = format!("http://{proxy}");
        let environment = [
            ("HTTP_PROXY", proxy.as_str()),
            ("HTTPS_PROXY", &proxy),
            ("NO_PROXY", none),
            ("no_proxy", none),
            ("DOCKER_HOST", &engine.host),
            ("DOCKER_CONFIG", folder.path().to_str().unwrap()),
        ];
        let log = folder.path().join("log");
        let mut operator = Operator::start(&arguments, &environment, log);
        let ended = operator.ends(LIMIT).await;
        (ended.success(), operator.log())
    };

    // Names that only the proxy resolves.
    let knowing = FaultProxy::to(&registry.host, |_| Action::Pass);
    let (done, log) = build("images.invalid", "packages.invalid", &knowing.host, "").await;
    assert!(done, "{log}");
    let requests = knowing.requests();
    for host in ["http://images.invalid/v2/team/app/", "http://packages.invalid/v2/shop/"] {
        assert!(
            requests.iter().any(|request| request.path.starts_with(host)),
            "{host} in {requests:#?}"
        );
    }
    assert!(
        requests.iter().all(|request| request.path.contains(".invalid/v2/")),
        "{requests:#?}"
    );
    let tag = registry.repository("shop").head_manifest("1.4.0").await.unwrap();
    assert!(tag.is_some());

    let refusing = || FaultProxy::to(&registry.host, |_| Action::Answer(403, Vec::new(), String::new()));
    let proxy = refusing();
    let (done, log) = build(&registry.host, &registry.host, &proxy.host, "example.com,127.0.0.1").await;
    assert!(done, "{log}");
    assert_eq!(proxy.requests().len(), 0, "NO_PROXY names the registry's host");
    let (done, log) = build(&registry.host, &registry.host, &proxy.host, "example.com").await;
    assert!(!done && log.contains("403"), "{log}");
}
