//! `serve`: TLS, how it ends, and what its connections take.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

use jackal_operator::oci::Digest;
use serde_json::json;

use crate::archive::Packages;
use crate::archive_serve::{Serving, layer, packed};
use crate::support::image::{noise, of_layer, put};
use crate::support::process::{output, run};
use crate::support::registry::make_certificates;
use crate::support::workspace::CommandResult as _;

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
