//! `proxy`: the registry of the cluster at the loopback addresses of a node.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jackal_operator::oci::Digest;
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::containerd::node::Node;
use crate::docker::engines::DockerEngine;
use crate::support::image::{multi_platform, noise, of_layer, put};
use crate::support::independent::pull_and_verify;
use crate::support::install_tls;
use crate::support::process::{Server, output, run};
use crate::support::registry::{Options, TestRegistry, VERSIONS, Version, unused_port};
use crate::support::wait::{SOON, eventually};
use crate::support::workspace::Workspace;

const LOGIN: (&str, &str) = ("reader", "secret");

/// A running proxy.
pub struct Proxy {
    port: u16,
    health: String,
    pub server: Server,
    workspace: Workspace,
    log: PathBuf,
}

impl Proxy {
    /// A proxy for `registry`, with its authority and a login if it demands these.
    pub async fn of(registry: &TestRegistry, options: Options) -> Self {
        let workspace = Workspace::new();
        let mut arguments = vec![format!("--registry={}", registry.host)];
        match options.tls {
            true => {
                workspace.write("ca.crt", registry.authority());
                arguments.push(format!("--ca-file={}", workspace.path("ca.crt").display()));
            }
            false => arguments.push("--plain-http".to_owned()),
        }
        if let Some((name, password)) = options.login {
            write_login(&workspace, &registry.host, name, password);
            arguments.push(format!("--credentials={}", workspace.path("config.json").display()));
        }
        let proxy = Self::start(workspace, unused_port(), arguments);
        proxy.ready().await;
        proxy
    }

    pub fn start(workspace: Workspace, port: u16, more: Vec<String>) -> Self {
        let health = format!("127.0.0.1:{}", unused_port());
        let own = [
            format!("--port={port}"),
            format!("--health-listen={health}"),
            "--log=debug".to_owned(),
        ];
        let arguments: Vec<&str> = ["proxy"]
            .into_iter()
            .chain(own.iter().chain(&more).map(String::as_str))
            .collect();
        let log = workspace.path("proxy.log");
        let program = PathBuf::from(env!("CARGO_BIN_EXE_jackal-operator"));
        let server = Server::start(&program, &arguments, &log);
        Self {
            port,
            health,
            server,
            workspace,
            log,
        }
    }

    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    async fn readiness(&self) -> Result<(), String> {
        let asked = client().get(format!("http://{}/readyz", self.health)).send().await;
        let answer = asked.map_err(|error| error.to_string())?;
        match answer.status() {
            StatusCode::OK => Ok(()),
            _ => Err(answer.text().await.unwrap()),
        }
    }

    pub async fn ready(&self) {
        eventually(SOON, "the proxy is ready", async || {
            self.readiness()
                .await
                .map_err(|error| format!("{error}: {}", self.read_log()))
        })
        .await;
    }

    fn read_log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    pub async fn request(&self, method: Method, scheme: &str, path: &str, fields: &[(&str, &str)]) -> Response {
        let mut request = client().request(method, format!("{scheme}://{}{path}", self.host()));
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap()
    }

    pub async fn get(&self, path: &str) -> Response {
        self.request(Method::GET, "http", path, &[]).await
    }

    /// What it answers to these bytes until it closes the connection.
    pub fn raw(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.host()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(50))).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }
}

fn write_login(workspace: &Workspace, host: &str, name: &str, password: &str) {
    let auth = STANDARD.encode(format!("{name}:{password}"));
    let login = json!({ "auths": { host: { "auth": auth } } }).to_string();
    // As the kubelet replaces files.
    workspace.write("config.json.new", login);
    std::fs::rename(workspace.path("config.json.new"), workspace.path("config.json")).unwrap();
}

fn client() -> reqwest::Client {
    install_tls();
    let builder = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none());
    // Like container runtimes on loopback addresses.
    builder
        .danger_accept_invalid_certs(true)
        .timeout(Duration::from_secs(60))
        .build()
        .unwrap()
}

fn field<'r>(response: &'r Response, name: &str) -> &'r str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

async fn code(response: Response) -> (u16, String) {
    let status = response.status().as_u16();
    let body: Value = response.json().await.unwrap();
    (status, body["errors"][0]["code"].as_str().unwrap().to_owned())
}

pub const SECURE: Options = Options {
    login: Some(LOGIN),
    tls: true,
};

#[tokio::test]
async fn runtimes_pull_over_http_and_https_without_a_login() {
    for version in VERSIONS {
        let registry = TestRegistry::start_with(version, SECURE);
        let (index, _) = multi_platform(&registry.repository("team/app"), "1").await;
        let digest = index.digest().to_string();
        let proxy = Proxy::of(&registry, SECURE).await;
        let name = format!("{}/team/app:1", proxy.host());
        assert_eq!(pull_and_verify(&proxy.host(), "team/app", "1").await.digest, digest);
        // Docker tries HTTPS first, and does not verify certificates of loopback addresses.
        for engine in DockerEngine::all() {
            engine.run(&["pull", "--quiet", &name]);
            let format = ["image", "inspect", "--format", "{{json .RepoDigests}}", &name];
            let digests = engine.output(&format);
            assert!(digests.contains(&digest), "{}: {digests}", engine.host);
            engine.run(&["image", "rm", &name]);
        }
        for node in Node::all() {
            for flag in ["--plain-http", "--skip-verify"] {
                node.ctr(&["images", "pull", "--local", flag, "--all-platforms", &name]);
                assert_eq!(node.digest(&name).as_str(), digest, "{flag}");
                node.ctr(&["images", "rm", &name]);
            }
        }
        // Without its own login, the client is told that it needs one.
        let bare = TestRegistry::start_with(version, SECURE);
        let without = Proxy::of(&bare, Options { login: None, ..SECURE }).await;
        let refused = without.get("/v2/").await;
        assert_eq!(
            (
                refused.status().as_u16(),
                field(&refused, "www-authenticate").is_empty()
            ),
            (401, false)
        );
        let own = format!("Basic {}", STANDARD.encode("reader:secret"));
        let allowed = without
            .request(Method::GET, "https", "/v2/", &[("authorization", &own)])
            .await;
        assert_eq!(allowed.status(), StatusCode::OK);
        // A client's own login is not replaced.
        let wrong = format!("Basic {}", STANDARD.encode("reader:wrong"));
        let refused = proxy
            .request(Method::GET, "http", "/v2/", &[("authorization", &wrong)])
            .await;
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test]
async fn both_loopback_addresses_answer_with_http_and_https() {
    let registry = TestRegistry::start(Version::V31);
    let proxy = Proxy::of(&registry, Options::default()).await;
    let has_ipv6 = std::net::TcpListener::bind("[::1]:0").is_ok();
    for host in ["127.0.0.1", "[::1]"] {
        if host == "[::1]" && !has_ipv6 {
            assert!(proxy.read_log().contains("the node has no such address"));
            continue;
        }
        for scheme in ["http", "https"] {
            let url = format!("{scheme}://{host}:{}/v2/", proxy.port);
            assert_eq!(client().get(url).send().await.unwrap().status(), StatusCode::OK);
        }
    }
    // The certificate names the loopback addresses.
    let authority = proxy.workspace.path("proxy.pem");
    let shown = output(
        "sh".as_ref(),
        &[
            "-c",
            &format!("openssl s_client -connect {} </dev/null | openssl x509", proxy.host()),
        ],
    );
    std::fs::write(&authority, shown.stdout).unwrap();
    let url = format!("https://{}/v2/", proxy.host());
    let flags = [
        "--silent",
        "--fail",
        "--noproxy",
        "*",
        "--max-time",
        "20",
        "--cacert",
        authority.to_str().unwrap(),
        &url,
    ];
    assert_eq!(run("curl", &flags), "{}");
}

#[tokio::test]
async fn blobs_have_ranges_and_heads() {
    let registry = TestRegistry::start_with(Version::V31, SECURE);
    let content = noise(3, 3_000_000);
    let repository = registry.repository("team/app");
    let image = of_layer(&repository, "linux/amd64", &content).await;
    put(&repository, &image, Some("1")).await;
    let layer = &image.manifest().unwrap().layers[0];
    let proxy = Proxy::of(&registry, SECURE).await;
    let path = format!("/v2/team/app/blobs/{}", layer.digest);
    let whole = proxy.get(&path).await;
    assert_eq!(field(&whole, "content-length"), layer.size.to_string());
    assert_eq!(field(&whole, "docker-content-digest"), layer.digest.as_str());
    let whole = whole.bytes().await.unwrap();
    assert_eq!(Digest::of(&whole), layer.digest);
    for scheme in ["http", "https"] {
        let part = proxy
            .request(Method::GET, scheme, &path, &[("range", "bytes=1000-1000999")])
            .await;
        assert_eq!(
            (part.status().as_u16(), field(&part, "content-length")),
            (206, "1000000")
        );
        assert!(part.bytes().await.unwrap() == whole[1000..1_001_000]);
        let head = proxy.request(Method::HEAD, scheme, &path, &[]).await;
        assert_eq!(field(&head, "content-length"), layer.size.to_string());
        let beyond = proxy
            .request(Method::GET, scheme, &path, &[("range", "bytes=99999999-")])
            .await;
        assert_eq!(beyond.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    }
    assert_eq!(
        code(proxy.get("/v2/team/app/manifests/2").await).await,
        (404, "MANIFEST_UNKNOWN".to_owned())
    );
    assert_eq!(
        code(proxy.get("/metrics").await).await,
        (404, "NAME_UNKNOWN".to_owned())
    );
    for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
        let refused = proxy.request(method, "http", "/v2/team/app/blobs/uploads/", &[]).await;
        assert_eq!(
            (field(&refused, "allow"), field(&refused, "connection")),
            ("GET, HEAD", "close")
        );
        assert_eq!(code(refused).await, (405, "UNSUPPORTED".to_owned()));
    }
}

#[tokio::test]
async fn a_registry_that_starts_is_waited_for() {
    let registry = TestRegistry::start(Version::V31);
    multi_platform(&registry.repository("team/app"), "1").await;
    let proxy = Proxy::of(&registry, Options::default()).await;
    assert_eq!(proxy.get("/v2/").await.status(), StatusCode::OK);
    run("kill", &["-KILL", &registry.id().to_string()]);
    // Its connection was kept for the next request.
    let refused = proxy.get("/v2/").await;
    assert_eq!(field(&refused, "retry-after"), "1");
    assert_eq!(code(refused).await, (503, "UNAVAILABLE".to_owned()));
    proxy.readiness().await.unwrap();
    let waiting = tokio::spawn({
        let url = format!("http://{}/v2/team/app/manifests/1", proxy.host());
        async move { client().get(url).header("accept", "*/*").send().await.unwrap().status() }
    });
    registry.start_again();
    assert_eq!(waiting.await.unwrap(), StatusCode::OK);
    let log = proxy.read_log();
    assert_eq!(log.matches("cannot be reached").count(), 1, "{log}");
}

#[tokio::test]
async fn renewed_credentials_and_authorities_are_used() {
    let registry = TestRegistry::start_with(Version::V31, SECURE);
    let proxy = Proxy::of(&registry, SECURE).await;
    let status = async || proxy.get("/v2/").await.status().as_u16();
    let becomes = async |expected: u16| {
        eventually(SOON, &format!("the status is {expected}"), async || {
            let found = status().await;
            if found == expected {
                Ok(())
            } else {
                Err(found.to_string())
            }
        })
        .await;
    };
    assert_eq!(status().await, 200);
    write_login(&proxy.workspace, &registry.host, LOGIN.0, "old");
    becomes(401).await;
    write_login(&proxy.workspace, &registry.host, LOGIN.0, LOGIN.1);
    becomes(200).await;
    // A mistake does not replace what works.
    proxy.workspace.write("config.json", "{");
    let log = eventually(SOON, "the mistake is logged", async || {
        assert_eq!(status().await, 200);
        let log = proxy.read_log();
        if log.contains("the previous version stays in use") {
            Ok(log)
        } else {
            Err(log)
        }
    })
    .await;
    assert!(
        log.contains("the registry refuses the login") && !log.contains("secret"),
        "{log}"
    );
    let other = TestRegistry::start_with(Version::V31, SECURE);
    proxy.workspace.write("ca.crt", other.authority());
    becomes(502).await;
    let refused: Value = proxy.get("/v2/").await.json().await.unwrap();
    let message = refused["errors"][0]["message"].as_str().unwrap();
    assert!(
        message.contains("check that --ca-file has the authority of its certificate"),
        "{message}"
    );
    proxy.workspace.write("ca.crt", registry.authority());
    becomes(200).await;
}

#[tokio::test]
async fn the_port_is_taken_over_from_another_process() {
    let registry = TestRegistry::start(Version::V31);
    let seed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = seed.local_addr().unwrap().port();
    let arguments = vec![format!("--registry={}", registry.host), "--plain-http".to_owned()];
    let proxy = Proxy::start(Workspace::new(), port, arguments);
    eventually(SOON, "the proxy says why it is not ready", async || {
        match proxy.readiness().await {
            Err(why) if why.contains("Address already in use") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let alive = client()
        .get(format!("http://{}/healthz", proxy.health))
        .send()
        .await
        .unwrap();
    assert_eq!(alive.status(), StatusCode::OK);
    drop(seed);
    proxy.ready().await;
    assert_eq!(proxy.get("/v2/").await.status(), StatusCode::OK);
    let log = proxy.read_log();
    assert_eq!(log.matches("cannot listen").count(), 1, "{log}");
}

#[tokio::test]
async fn files_and_flags_that_cannot_be_used_are_named() {
    let workspace = Workspace::new();
    workspace.write("empty.pem", "");
    workspace.write("list.json", "[]");
    let file = |name: &str| workspace.path(name).display().to_string();
    for (flags, words) in [
        (vec!["--registry=http://r".to_owned()], "write host:port"),
        (
            vec!["--registry=r:1".to_owned(), format!("--ca-file={}", file("empty.pem"))],
            "is empty; set the CA certificate",
        ),
        (
            vec![
                "--registry=r:1".to_owned(),
                format!("--credentials={}", file("list.json")),
            ],
            "list.json: not a docker config.json",
        ),
        (
            vec![
                "--registry=r:1".to_owned(),
                format!("--tls-cert={}", file("none")),
                format!("--tls-key={}", file("none")),
            ],
            "a file does not exist",
        ),
    ] {
        let arguments: Vec<&str> = ["proxy"].into_iter().chain(flags.iter().map(String::as_str)).collect();
        let ended = workspace.run(&arguments);
        let text = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.code() == Some(2) && text.contains(words), "{text}");
    }
}
