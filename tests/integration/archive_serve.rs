//! `serve`: a read-only registry directly from package files.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use jackal_operator::oci::Digest;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::archive::Packages;
use crate::containerd::node::Node;
use crate::docker::engines::DockerEngine;
use crate::support::image::{noise, of_layer, put};
use crate::support::independent::pull_and_verify;
use crate::support::process::{Server, output, run};
use crate::support::registry::{TestRegistry, Version, make_certificates};
use crate::support::workspace::{CommandResult as _, Workspace};
use crate::support::{install_tls, program};

/// A running `serve`.
struct Serving {
    host: String,
    report: Value,
    server: Server,
    log: PathBuf,
}

impl Serving {
    /// Serves files of `workspace` on a free port.
    fn start(workspace: &Workspace, arguments: &[&str]) -> Self {
        let log = workspace.path(format!("serve-{:08x}.log", fastrand::u32(..)));
        let files = arguments.iter().map(
            |argument| match argument.contains(".tar") || argument.contains(".pem") {
                true => workspace.path(argument).to_str().unwrap().to_owned(),
                false => (*argument).to_owned(),
            },
        );
        let flags = ["serve", "--listen", "127.0.0.1:0", "--output", "json", "--log", "debug"];
        let arguments: Vec<String> = flags.iter().map(ToString::to_string).chain(files).collect();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let program = PathBuf::from(env!("CARGO_BIN_EXE_jackal-operator"));
        let mut server = Server::start(&program, &arguments, &log);
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let text = std::fs::read_to_string(&log).unwrap();
            let from = text.find("{\n").map(|at| &text[at..]);
            let report = from.and_then(|text| serde_json::Deserializer::from_str(text).into_iter::<Value>().next());
            if let Some(Ok(report)) = report {
                let host = report["address"].as_str().unwrap().to_owned();
                return Self {
                    host,
                    report,
                    server,
                    log,
                };
            }
            assert!(
                !server.has_ended() && Instant::now() < deadline,
                "it does not start: {text}"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    async fn request(&self, method: Method, path: &str, fields: &[(&'static str, &str)]) -> Response {
        install_tls();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let fields = fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()));
        let request = client
            .request(method, format!("http://{}{path}", self.host))
            .headers(HeaderMap::from_iter(fields))
            .timeout(Duration::from_secs(60));
        request.send().await.unwrap()
    }

    async fn get(&self, path: &str) -> Response {
        self.request(Method::GET, path, &[]).await
    }

    /// The status and the JSON of a response.
    async fn json(&self, path: &str) -> (u16, Value) {
        let response = self.get(path).await;
        (response.status().as_u16(), response.json().await.unwrap())
    }

    /// Its exit code after SIGTERM.
    fn ended(&mut self) -> i32 {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(status) = self.server.ended() {
                return status.code().unwrap();
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn field<'r>(response: &'r Response, name: &str) -> &'r str {
    response
        .headers()
        .get(name)
        .map(|value| value.to_str().unwrap())
        .unwrap_or_default()
}

/// Packages for two architectures, each in a file; the digests of the package and its image as a registry has them.
async fn packed() -> (Packages, [String; 2]) {
    let packages = Packages::new().await;
    let text = std::fs::read_to_string(packages.workspace.path("package.yaml")).unwrap();
    let other = text.replace("\"spec\":{", "\"spec\":{\"architecture\":\"arm64\",");
    let host = &packages.registry.host;
    packages.workspace.text_report(&other, host, &[host], &[]);
    for architecture in ["amd64", "arm64"] {
        let file = format!("{architecture}.tar.zst");
        packages
            .pack(&packages.reference, &file, &["--architecture", architecture])
            .succeeded();
    }
    let digests = ["shop:1.4.0", "team/app:1"].map(|name| packages.registry.crane("digest", name).trim().to_owned());
    (packages, digests)
}

#[tokio::test]
async fn other_clients_pull_the_original_digests() {
    let (packages, [package, image]) = packed().await;
    let serving = Serving::start(&packages.workspace, &["amd64.tar.zst", "arm64.tar.zst"]);
    assert_eq!(serving.report["images"], 1);
    assert_eq!(serving.report["packages"], 1);
    assert_eq!(serving.report["repositories"], json!(["shop", "team/app"]));
    for (repository, tag, digest) in [("team/app", "1", &image), ("shop", "1.4.0", &package)] {
        for identifier in [tag, digest] {
            let pulled = pull_and_verify(&serving.host, repository, identifier).await;
            let original = pull_and_verify(&packages.registry.host, repository, identifier).await;
            assert_eq!((&pulled.digest, pulled.manifests), (digest, original.manifests));
            assert_eq!(pulled.blobs, original.blobs);
        }
    }
    let app = format!("{}/team/app:1", serving.host);
    run(
        program("JACKAL_BIN_CRANE"),
        &["validate", "--insecure", "--remote", &app],
    );
    let copy = packages.workspace.path("copy").to_str().unwrap().to_owned();
    let from = format!("docker://{app}");
    let flags = ["copy", "--src-tls-verify=false", "--all", "--preserve-digests"];
    run("skopeo", &[&flags[..], &[&from, &format!("oci:{copy}:1")]].concat());
    let index = std::fs::read(format!("{copy}/index.json")).unwrap();
    let index: Value = serde_json::from_slice(&index).unwrap();
    assert_eq!(index["manifests"][0]["digest"], image);

    // Our own commands read it too.
    let to = TestRegistry::start(Version::V31);
    let workspace = Workspace::new();
    let text = json!({
        "apiVersion": "jackal.dev/v1alpha1", "kind": "JackalPackage", "metadata": { "name": "again" },
        "spec": { "version": "1", "components": [{ "name": "web", "images": [app] }] },
    });
    let report = workspace.text_report(&text.to_string(), &to.host, &[&serving.host], &[]);
    assert_eq!(report["images"][0]["digest"], image);
    let reference = format!("{}/shop:1.4.0", serving.host);
    packages
        .pack(&reference, "again.tar.zst", &["--architecture", "arm64"])
        .succeeded();
    let read = |file: &str| Digest::of(&std::fs::read(packages.workspace.path(file)).unwrap());
    assert_eq!(read("again.tar.zst"), read("arm64.tar.zst"));
}

#[tokio::test]
async fn names_depend_on_prefix_and_naming() {
    let (packages, [package, image]) = packed().await;
    let arguments = ["amd64.tar.zst", "--prefix", "site", "--naming", "zarf"];
    let serving = Serving::start(&packages.workspace, &arguments);
    assert_eq!(
        serving.report["repositories"],
        json!(["site/shop", "site/team/app", "team/app"])
    );
    let (_, tags) = serving.json("/v2/site/team/app/tags/list").await;
    let suffixed = tags["tags"][1].as_str().unwrap();
    assert!(suffixed.starts_with("1-zarf-"), "{tags}");
    let response = serving.get(&format!("/v2/site/team/app/manifests/{suffixed}")).await;
    assert_eq!(field(&response, "docker-content-digest"), image);
    // One of two architectures: the index lists it alone, as after `load`.
    let response = serving.get("/v2/site/shop/manifests/1.4.0").await;
    assert_ne!(field(&response, "docker-content-digest"), package);
    let to = TestRegistry::start(Version::V31);
    let load = ["load", "amd64.tar.zst", "--to", &to.host, "--insecure"];
    packages.workspace.run(&load).succeeded();
    assert_eq!(
        field(&response, "docker-content-digest"),
        to.crane("digest", "shop:1.4.0").trim()
    );
}

#[tokio::test]
async fn listings_have_pages_and_errors_have_codes() {
    let (packages, [_, image]) = packed().await;
    let serving = Serving::start(&packages.workspace, &["amd64.tar.zst", "--prefix", "site"]);
    assert_eq!(serving.json("/v2/").await, (200, json!({})));
    let response = serving.get("/v2/_catalog?n=1").await;
    let next = field(&response, "link").to_owned();
    assert_eq!(
        response.json::<Value>().await.unwrap(),
        json!({ "repositories": ["site/shop"] })
    );
    let next = next
        .strip_prefix('<')
        .and_then(|next| next.split_once(">; rel=\"next\""))
        .unwrap()
        .0;
    assert_eq!(serving.json(next).await.1["repositories"], json!(["site/team/app"]));
    let (status, tags) = serving.json("/v2/team/app/tags/list").await;
    assert_eq!((status, tags), (200, json!({ "name": "team/app", "tags": ["1"] })));
    assert_eq!(serving.json("/v2/team/app/tags/list?last=1").await.1["tags"], json!([]));
    let none = Digest::of(b"none");
    let (status, referrers) = serving.json(&format!("/v2/team/app/referrers/{none}")).await;
    assert_eq!((status, &referrers["manifests"]), (200, &json!([])));
    for (path, status, code) in [
        ("/v2/team/none/tags/list".to_owned(), 404, "NAME_UNKNOWN"),
        ("/v3/".to_owned(), 404, "NAME_UNKNOWN"),
        ("/v2/team/app/manifests/2".to_owned(), 404, "MANIFEST_UNKNOWN"),
        (format!("/v2/team/app/manifests/{none}"), 404, "MANIFEST_UNKNOWN"),
        ("/v2/team/app/manifests/sha256:1".to_owned(), 400, "DIGEST_INVALID"),
        (format!("/v2/team/app/blobs/{none}"), 404, "BLOB_UNKNOWN"),
        ("/v2/team/app/blobs/x".to_owned(), 400, "DIGEST_INVALID"),
        ("/v2/team/app/referrers/x".to_owned(), 400, "DIGEST_INVALID"),
        ("/v2/_catalog?n=x".to_owned(), 400, "PAGINATION_NUMBER_INVALID"),
        // A mirror of another registry has no such image.
        ("/v2/team/app/manifests/1?ns=quay.io".to_owned(), 404, "NAME_UNKNOWN"),
    ] {
        let (found, body) = serving.json(&path).await;
        assert_eq!(
            (found, body["errors"][0]["code"].as_str()),
            (status, Some(code)),
            "{path}: {body}"
        );
    }
    let mirrored = format!("/v2/team/app/manifests/1?ns={}", packages.registry.host);
    assert_eq!(field(&serving.get(&mirrored).await, "docker-content-digest"), image);
    for (method, path) in [
        (Method::POST, "/v2/team/app/blobs/uploads/"),
        (Method::PUT, "/v2/team/app/manifests/2"),
        (Method::DELETE, "/v2/team/app/manifests/1"),
    ] {
        let refused = serving.request(method, path, &[]).await;
        assert_eq!(
            (refused.status().as_u16(), field(&refused, "allow")),
            (405, "GET, HEAD")
        );
        assert_eq!(
            refused.json::<Value>().await.unwrap()["errors"][0]["code"],
            "UNSUPPORTED"
        );
    }
}

/// The largest layer of the image, by its digest and its content in the registry.
fn layer(packages: &Packages) -> (String, Vec<u8>) {
    let index: Value = serde_json::from_str(&packages.registry.crane("manifest", "team/app:1")).unwrap();
    let first = index["manifests"][0]["digest"].as_str().unwrap();
    let manifest = packages.registry.crane("manifest", &format!("team/app@{first}"));
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    let digest = manifest["layers"][0]["digest"].as_str().unwrap().to_owned();
    let blob = format!("{}/team/app@{digest}", packages.registry.host);
    let read = output(&program("JACKAL_BIN_CRANE"), &["blob", "--insecure", &blob]);
    assert_eq!(Digest::of(&read.stdout).as_str(), digest);
    (digest, read.stdout)
}

#[tokio::test]
async fn parts_of_blobs_are_served() {
    let (packages, _) = packed().await;
    let serving = Serving::start(&packages.workspace, &["amd64.tar.zst"]);
    let (digest, content) = layer(&packages);
    let (path, etag) = (format!("/v2/team/app/blobs/{digest}"), format!("\"{digest}\""));
    let size = content.len();
    let last = size - 1;
    for (range, begin, end) in [
        ("bytes=0-0".to_owned(), 0, 1),
        ("bytes=100-".to_owned(), 100, size),
        ("bytes=-10".to_owned(), size - 10, size),
        ("bytes=131000-140000".to_owned(), 131_000, 140_001),
        (format!("bytes=0-{last}"), 0, size),
    ] {
        let response = serving
            .request(Method::GET, &path, &[("range", &range), ("if-range", &etag)])
            .await;
        assert_eq!(response.status(), StatusCode::PARTIAL_CONTENT, "{range}");
        assert_eq!(
            field(&response, "content-range"),
            format!("bytes {begin}-{}/{size}", end - 1)
        );
        assert!(response.bytes().await.unwrap() == content[begin..end], "{range}");
    }
    let changed = [("range", "bytes=0-0"), ("if-range", "\"other\"")];
    let response = serving.request(Method::GET, &path, &changed).await;
    assert_eq!(
        (response.status().as_u16(), field(&response, "content-length")),
        (200, &*size.to_string())
    );
    assert!(response.bytes().await.unwrap() == content);
    let beyond = format!("bytes={size}-");
    let refused = serving.request(Method::GET, &path, &[("range", &beyond)]).await;
    assert_eq!(refused.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(field(&refused, "content-range"), format!("bytes */{size}"));
    let known = serving.request(Method::GET, &path, &[("if-none-match", &etag)]).await;
    assert_eq!(known.status(), StatusCode::NOT_MODIFIED);
    assert!(known.bytes().await.unwrap().is_empty());
    // HEAD has the fields of GET, and no content.
    for path in [
        &path,
        "/v2/team/app/manifests/1",
        "/v2/team/app/tags/list",
        "/v2/",
        "/v2/none/tags/list",
    ] {
        let (head, get) = (serving.request(Method::HEAD, path, &[]).await, serving.get(path).await);
        assert_eq!(head.status(), get.status());
        let fields = |response: &Response| {
            let mut fields = response.headers().clone();
            fields.remove("date");
            fields
        };
        assert_eq!(fields(&head), fields(&get), "{path}");
        assert!(!field(&head, "content-length").is_empty());
        assert!(head.bytes().await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn damaged_content_is_never_sent_to_its_end() {
    let (packages, _) = packed().await;
    let (digest, content) = layer(&packages);
    let file = packages.workspace.path("amd64.tar.zst");
    let sound = std::fs::read(&file).unwrap();
    let piece = &content[content.len() - 5000..content.len() - 4000];
    let at = sound.windows(piece.len()).position(|window| window == piece).unwrap();
    let mut damaged = sound.clone();
    damaged[at] ^= 1;
    std::fs::write(&file, &damaged).unwrap();
    let serving = Serving::start(&packages.workspace, &["amd64.tar.zst"]);
    let path = format!("/v2/team/app/blobs/{digest}");
    for range in [&[][..], &[("range", "bytes=0-")]] {
        let response = serving.request(Method::GET, &path, range).await;
        assert!(response.status().is_success());
        assert!(response.bytes().await.is_err());
    }
    // The file is cut while it is served.
    std::fs::write(&file, &sound).unwrap();
    let whole = serving.get(&path).await.bytes().await;
    assert!(whole.unwrap() == content);
    std::fs::File::options()
        .write(true)
        .open(&file)
        .unwrap()
        .set_len(at as u64)
        .unwrap();
    assert!(serving.get(&path).await.bytes().await.is_err());
    assert_eq!(serving.get("/v2/team/app/manifests/1").await.status(), StatusCode::OK);

    for (bytes, words) in [
        (&sound[..sound.len() / 2], "its end is missing"),
        (&sound[..4], "it ends early"),
        (b"not a package at all", "it does not begin as files of `pack` do"),
    ] {
        std::fs::write(&file, bytes).unwrap();
        packages
            .workspace
            .run(&["serve", "amd64.tar.zst"])
            .failed(2, &["amd64.tar.zst", words]);
    }
    packages
        .workspace
        .run(&["serve", "none.tar.zst"])
        .failed(2, &["none.tar.zst"]);
    let taken = ["serve", "arm64.tar.zst", "--listen", &serving.host];
    packages.workspace.run(&taken).failed(1, &["Address already in use"]);
    packages
        .workspace
        .run(&["serve", "arm64.tar.zst", "--listen", "x"])
        .failed(2, &["write an IP address"]);
}

#[tokio::test]
async fn engines_pull_from_it() {
    let (packages, [_, image]) = packed().await;
    let serving = Serving::start(&packages.workspace, &["amd64.tar.zst"]);
    let name = format!("{}/team/app:1", serving.host);
    for engine in DockerEngine::all() {
        engine.run(&["pull", "--quiet", &name]);
        let format = ["image", "inspect", "--format", "{{json .RepoDigests}}", &name];
        let digests = engine.output(&format);
        assert!(digests.contains(&image), "{}: {digests}", engine.host);
        engine.run(&["image", "rm", &name]);
    }
    // As the mirror of a registry that is gone.
    let Packages {
        workspace, registry, ..
    } = packages;
    let original = format!("{}/team/app:1", registry.host);
    let hosts = format!("hosts/{}/hosts.toml", registry.host);
    let mirror = format!(
        "[host.\"http://{}\"]\n  capabilities = [\"pull\", \"resolve\"]\n",
        serving.host
    );
    workspace.write(&hosts, mirror);
    drop(registry);
    let hosts = workspace.path("hosts").to_str().unwrap().to_owned();
    for node in Node::all() {
        let pull = ["images", "pull", "--local", "--hosts-dir", &hosts, "--all-platforms"];
        node.ctr(&[&pull[..], &[&original]].concat());
        assert_eq!(node.digest(&original).as_str(), image);
        node.ctr(&["images", "rm", &original]);
    }
    let log = std::fs::read_to_string(&serving.log).unwrap();
    assert!(
        log.contains(&format!("?ns={}", original.split('/').next().unwrap()).replace(':', "%3A")),
        "{log}"
    );
}

#[tokio::test]
async fn tls_is_served() {
    let (packages, [_, image]) = packed().await;
    let folder = packages.workspace.path(".");
    make_certificates(&folder);
    for (from, to) in [("tls.crt", "tls.crt.pem"), ("tls.key", "tls.key.pem")] {
        std::fs::rename(folder.join(from), folder.join(to)).unwrap();
    }
    let arguments = ["arm64.tar.zst", "--tls-cert", "tls.crt.pem", "--tls-key", "tls.key.pem"];
    let serving = Serving::start(&packages.workspace, &arguments);
    let url = format!("https://{}/v2/team/app/manifests/1", serving.host);
    let authority = folder.join("ca.crt");
    let curl = [
        "--silent",
        "--fail",
        "--max-time",
        "20",
        "--noproxy",
        "*",
        "--include",
        &url,
    ];
    let trusted = ["--cacert", authority.to_str().unwrap()];
    let head = run("curl", &[&curl[..], &trusted].concat());
    assert!(head.contains(&image), "{head}");
    assert!(!output(&PathBuf::from("curl"), &curl).status.success());
    let (digest, content) = layer(&packages);
    let url = format!("https://{}/v2/team/app/blobs/{digest}", serving.host);
    let to = packages.workspace.path("blob").to_str().unwrap().to_owned();
    let flags = [
        "--silent",
        "--fail",
        "--max-time",
        "20",
        "--noproxy",
        "*",
        "--output",
        &to,
        &url,
    ];
    run("curl", &[&flags[..], &trusted].concat());
    assert!(std::fs::read(&to).unwrap() == content);
    let swapped = [
        "serve",
        "arm64.tar.zst",
        "--tls-cert",
        "tls.key.pem",
        "--tls-key",
        "tls.crt.pem",
    ];
    packages.workspace.run(&swapped).failed(2, &["jackal-operator serve: "]);
    let alone = ["serve", "arm64.tar.zst", "--tls-cert", "tls.crt.pem"];
    packages.workspace.run(&alone).failed(2, &["--tls-key"]);
}

/// A package `large.tar.zst` with a layer of 30 MB, which no socket buffers; the layer's digest.
async fn large(packages: &Packages) -> String {
    let content = noise(9, 30_000_000);
    let repository = packages.registry.repository("team/large");
    let image = of_layer(&repository, "linux/amd64", &content).await;
    put(&repository, &image, Some("1")).await;
    let text = json!({
        "apiVersion": "jackal.dev/v1alpha1", "kind": "JackalPackage", "metadata": { "name": "large" },
        "spec": { "version": "1", "components": [{ "name": "web", "images": [format!("{}/team/large:1", packages.registry.host)] }] },
    });
    let host = &packages.registry.host;
    packages.workspace.text_report(&text.to_string(), host, &[host], &[]);
    packages
        .pack(&format!("{host}/large:1"), "large.tar.zst", &[])
        .succeeded();
    image.manifest().unwrap().layers[0].digest.to_string()
}

/// A connection that asked for `blob` and reads only the first bytes of the response.
fn begun(serving: &Serving, blob: &str) -> TcpStream {
    let mut stream = TcpStream::connect(&serving.host).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let request = format!("GET /v2/team/large/blobs/{blob} HTTP/1.1\r\nHost: a\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut start = [0; 15];
    stream.read_exact(&mut start).unwrap();
    assert_eq!(&start, b"HTTP/1.1 200 OK");
    stream
}

#[tokio::test]
async fn a_stop_lets_responses_end() {
    let packages = Packages::new().await;
    let blob = large(&packages).await;
    let mut serving = Serving::start(&packages.workspace, &["large.tar.zst"]);
    let mut stream = begun(&serving, &blob);
    let idle = TcpStream::connect(&serving.host).unwrap();
    serving.server.signal("TERM");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    let head = rest.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    assert_eq!(Digest::of(&rest[head..]).as_str(), blob);
    assert_eq!(serving.ended(), 0);
    drop(idle);
    // Nobody takes this one.
    let mut serving = Serving::start(&packages.workspace, &["large.tar.zst"]);
    let _stuck = begun(&serving, &blob);
    serving.server.signal("INT");
    assert_eq!(serving.ended(), 130);
    let log = std::fs::read_to_string(&serving.log).unwrap();
    assert!(log.contains("stopped before some responses were complete"), "{log}");
}

/// The largest resident memory of a process in bytes.
fn peak_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[tokio::test]
async fn many_clients_take_bounded_memory() {
    let packages = Packages::new().await;
    let blob = large(&packages).await;
    let serving = Serving::start(&packages.workspace, &["large.tar.zst"]);
    let before = peak_memory(serving.server.id());
    let idle: Vec<TcpStream> = (0..200).map(|_| TcpStream::connect(&serving.host).unwrap()).collect();
    let slow: Vec<TcpStream> = (0..20).map(|_| begun(&serving, &blob)).collect();
    let whole = serving
        .get(&format!("/v2/team/large/blobs/{blob}"))
        .await
        .bytes()
        .await
        .unwrap();
    assert_eq!(Digest::of(&whole).as_str(), blob);
    let grown = peak_memory(serving.server.id()) - before;
    assert!(grown < 90 << 20, "{} MiB", grown >> 20);
    drop((idle, slow));
}

#[tokio::test]
async fn two_images_with_one_name_are_refused() {
    let packages = Packages::new().await;
    packages.pack(&packages.reference, "a.tar.zst", &[]).succeeded();
    let other = Packages::new().await;
    let text = std::fs::read_to_string(other.workspace.path("package.yaml")).unwrap();
    // The same package with other content.
    let host = &other.registry.host;
    other
        .workspace
        .text_report(&text.replace("a page", "one page"), host, &[host], &[]);
    other.pack(&other.reference, "b.tar.zst", &[]).succeeded();
    let from = other.workspace.path("b.tar.zst");
    std::fs::copy(from, packages.workspace.path("b.tar.zst")).unwrap();
    let refused = packages.workspace.run(&["serve", "a.tar.zst", "b.tar.zst"]);
    refused.failed(2, &["a.tar.zst and b.tar.zst have different packages of the same name"]);
}
