//! Components with other content than images, without a cluster.

use std::process::Output;

use jackal_operator::oci::Digest;
use serde_json::{Value, json};

use super::crane;
use crate::support::image::{multi_platform, noise};
use crate::support::process::run;
use crate::support::registry::{TestRegistry, Version};
use crate::support::workspace::{Workspace, stderr, stdout};
use crate::support::{charts, file_server::FileServer};

/// The content of a package in these tests.
struct Setup {
    source: TestRegistry,
    file_server: FileServer,
    folder: Workspace,
    tool: Digest,
}

impl Setup {
    async fn new() -> Self {
        let (source, file_server, folder) = (
            TestRegistry::start(Version::V31),
            FileServer::new().await,
            Workspace::new(),
        );
        multi_platform(&source.repository("team/app"), "1").await;
        let stable = folder.path("charts");
        std::fs::create_dir(&stable).unwrap();
        let proxy = charts::package(
            &stable,
            "front",
            "1.2.3+x",
            &format!("{}/team/app:1", source.host),
            "first",
        );
        charts::push(&proxy, &source.host);
        std::fs::remove_file(&proxy).unwrap();
        let back = charts::package(
            &stable,
            "back",
            "4.5.6",
            &format!("{}/team/back:2", source.host),
            "first",
        );
        file_server.put("/stable/back-4.5.6.tgz", std::fs::read(&back).unwrap());
        file_server.put("/stable/index.yaml", charts::index(&stable));
        let tool = noise(5, 300_000);
        file_server.put("/tool", tool.clone());
        file_server.put("/chunked/tool", tool.clone());
        Self {
            source,
            file_server,
            folder,
            tool: Digest::of(&tool),
        }
    }

    fn package(&self) -> Value {
        let (source, file_server) = (&self.source.host, &self.file_server.host);
        let pod = |image: &str| {
            format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: a}}\nspec: {{containers: [{{name: a, image: '{image}'}}]}}\n"
            )
        };
        json!({
            "apiVersion": "jackal.dev/v1alpha1", "kind": "JackalPackage", "metadata": {"name": "shop"},
            "spec": {"version": "1.4.0", "naming": "Zarf", "components": [{
                "name": "web", "required": true,
                "images": [{"image": format!("{source}/team/app:1")}],
                "manifests": [
                    {"name": "own", "namespace": "web", "inline": pod(&format!("{source}/team/app:1"))},
                    {"name": "all", "configMapRef": {"name": "manifests"}},
                ],
                "charts": [
                    {"name": "front", "version": "1.2.3+x", "namespace": "web", "url": format!("oci://{source}/charts/front"),
                     "values": {"replicas": 2, "text": "yes"}, "valuesFrom": [{"configMapRef": {"name": "values"}}]},
                    {"name": "back", "version": "4.5.6", "namespace": "web", "releaseName": "rear", "url": format!("http://{file_server}/stable")},
                ],
                "files": [
                    {"target": "/usr/local/bin/tool", "executable": true, "url": format!("http://{file_server}/tool?key=secret"), "sha256": self.tool.hex()},
                    {"target": "etc/the tool.conf", "inline": "hello\n"},
                    {"target": "/opt/tool", "url": format!("http://{file_server}/chunked/tool"), "sha256": self.tool.hex()},
                ],
            }]},
        })
    }

    fn write(&self, package: &Value) {
        let image = format!("{}/library/redis:7", self.source.host);
        let pod = format!("apiVersion: v1\nkind: Pod\nspec: {{containers: [{{image: '{image}'}}]}}\n");
        let manifests = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "manifests"},
            "data": {"b.yaml": pod, "a.yaml": "apiVersion: v1\nkind: Namespace\nmetadata: {name: web}\n"},
        });
        let values = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "values"}, "data": {"values.yaml": "replicas: 3\n"},
        });
        self.folder
            .write("shop.yaml", format!("{package}\n---\n{manifests}\n---\n{values}\n"));
    }

    fn arguments<'a>(&'a self, hosts: &'a str, to: &'a str) -> Vec<&'a str> {
        vec!["shop.yaml", "--to", to, "--insecure", "--insecure-registry", hosts]
    }

    fn hosts(&self) -> String {
        format!("{},{}", self.source.host, self.file_server.host)
    }
}

/// The layer of the package at `name` with this title: its digest and content.
fn layer(setup: &Setup, host: &str, repository: &str, digest: &str, title: &str) -> (String, Vec<u8>) {
    let manifest: Value = serde_json::from_str(&crane(&[
        "manifest",
        "--insecure",
        &format!("{host}/{repository}@{digest}"),
    ]))
    .unwrap();
    let layers = manifest["layers"].as_array().unwrap();
    let found = layers
        .iter()
        .find(|layer| layer["annotations"]["org.opencontainers.image.title"] == title);
    let found = found.unwrap_or_else(|| panic!("no {title} in {manifest}"))["digest"]
        .as_str()
        .unwrap()
        .to_owned();
    let file = setup.folder.path("layer");
    let blob = std::process::Command::new(crate::support::program("JACKAL_BIN_CRANE"))
        .args(["blob", "--insecure", &format!("{host}/{repository}@{found}")])
        .output()
        .unwrap();
    assert!(blob.status.success());
    std::fs::write(&file, &blob.stdout).unwrap();
    (found, blob.stdout)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_with_every_kind_of_content_is_built() {
    let setup = Setup::new().await;
    setup.write(&setup.package());
    let registry = TestRegistry::start(Version::V28);
    let (hosts, to) = (setup.hosts(), format!("{}/team", registry.host));
    let report = setup.folder.build_report(&setup.arguments(&hosts, &to));
    assert_eq!(report["changed"], true);
    let digest = report["digest"].as_str().unwrap();
    assert_eq!(report["charts"].as_array().unwrap().len(), 2, "{report}");
    let missing: Vec<(&str, &str)> = report["missingImages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["image"].as_str().unwrap(), one["foundIn"].as_str().unwrap()))
        .collect();
    assert_eq!(
        missing,
        [
            (&*format!("{}/library/redis:7", setup.source.host), "manifest all"),
            (&*format!("{}/team/back:2", setup.source.host), "chart back")
        ]
    );

    let (tar_digest, tar) = layer(&setup, &registry.host, "team/shop", digest, "components/web.tar");
    assert_eq!(Digest::of(&tar).as_str(), tar_digest);
    let file = setup.folder.path("layer");
    let listed = run("tar", &["-tvf", file.to_str().unwrap()]);
    let names: Vec<&str> = listed
        .lines()
        .map(|line| line.split_once("01-01 ").map_or(line, |(_, rest)| &rest[6..]))
        .collect();
    assert_eq!(
        names,
        [
            "web/charts/back-4.5.6.tgz",
            "web/charts/front-1.2.3+x.tgz",
            "web/files/0/tool",
            "web/files/1/the tool.conf",
            "web/files/2/tool",
            "web/manifests/all-0.yaml",
            "web/manifests/all-1.yaml",
            "web/manifests/own-0.yaml",
            "web/values/front-1.2.3+x-0",
            "web/values/front-1.2.3+x-1",
        ],
        "{listed}"
    );
    assert!(listed.lines().nth(2).unwrap().starts_with("-rwx------ 0/0"), "{listed}");
    let read = |path: &str| run("tar", &["-xOf", file.to_str().unwrap(), path]);
    assert_eq!(read("web/values/front-1.2.3+x-0"), "replicas: 3\n");
    assert_eq!(read("web/values/front-1.2.3+x-1"), "replicas: 2\ntext: 'yes'\n");
    assert!(read("web/manifests/all-1.yaml").contains("redis:7"));
    let (_, definition) = layer(&setup, &registry.host, "team/shop", digest, "zarf.yaml");
    let definition: Value = serde_saphyr::from_str(&String::from_utf8(definition).unwrap()).unwrap();
    let component = &definition["components"][0];
    assert_eq!(
        component["manifests"][1]["files"],
        json!(["manifests/all-0.yaml", "manifests/all-1.yaml"])
    );
    assert_eq!(component["charts"][1]["releaseName"], "rear");
    assert_eq!(component["files"][0]["shasum"], setup.tool.hex());

    // A repeat sends nothing. Anybody may have pushed the existing content, so files and charts are read again and
    // compared.
    let repeat = |more: &[&str]| {
        let before = setup.file_server.asked().len();
        let again = setup
            .folder
            .build_report(&[&setup.arguments(&hosts, &to), more].concat());
        let asked = setup.file_server.asked().split_off(before);
        (again, asked.iter().any(|path| path.contains("tool")))
    };
    let (again, read) = repeat(&[]);
    assert_eq!(
        (&again["changed"], &again["movedBytes"], &again["digest"]),
        (&json!(false), &json!(0), &report["digest"])
    );
    assert!(read);
    // Content that its own key signed is trusted and not read again.
    let key = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/signing/plain.key");
    let (signed, read) = repeat(&["--key", key]);
    assert!(read && signed["changed"] == true);
    let (again, read) = repeat(&["--key", key]);
    assert!(!read, "by the signature of the tar");
    assert_eq!(
        (&again["changed"], &again["digest"]),
        (&json!(false), &signed["digest"])
    );
    // It is the same in another destination.
    let layout = setup.folder.build_report(&setup.arguments(&hosts, "oci:out"));
    assert_eq!(layout["digest"], report["digest"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_reports_missing_images_and_transfers_nothing() {
    let setup = Setup::new().await;
    setup.write(&setup.package());
    let hosts = setup.hosts();
    let check = ["shop.yaml", "--check", "--insecure-registry", &hosts];
    let output = setup.folder.build(&check);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let host = &setup.source.host;
    assert_eq!(
        stdout(&output),
        format!(
            "component web: {host}/library/redis:7 of manifest all is not among images\n\
             component web: {host}/team/back:2 of chart back is not among images\n"
        )
    );
    // The missing images are requested like all others.
    let mut whole = setup.package();
    let images = whole["spec"]["components"][0]["images"].as_array_mut().unwrap();
    images.extend(["library/redis:7", "team/back:2"].map(|name| json!({"image": format!("{host}/{name}")})));
    setup.write(&whole);
    assert_eq!(setup.folder.build(&check).status.code(), Some(1), "they do not exist");
    multi_platform(&setup.source.repository("library/redis"), "7").await;
    multi_platform(&setup.source.repository("team/back"), "2").await;
    let output = setup.folder.build(&check);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(stdout(&output), "no image is missing\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn unavailable_content_is_reported_and_nothing_is_published() {
    let setup = Setup::new().await;
    let registry = TestRegistry::start(Version::V31);
    let hosts = setup.hosts();
    let component = "/spec/components/0";
    let file_server = &setup.file_server;
    file_server.put("/web/index.yaml", "<html>hello</html>");
    file_server.put(
        "/noise/index.yaml",
        "entries: {back: [{version: 4.5.6, urls: [back.tgz]}]}",
    );
    file_server.put("/noise/back.tgz", noise(6, 1000));
    let other = "f".repeat(64);
    for (path, value, words) in [
        ("charts/0/version", json!("9.9.9"), "charts/front:9.9.9 does not exist"),
        (
            "charts/1/version",
            json!("9.9.9"),
            "lists no version 9.9.9 of back, only for example 4.5.6",
        ),
        ("charts/1/name", json!("other"), "lists no chart other"),
        (
            "charts/1/url",
            json!(format!("http://{}/nowhere", file_server.host)),
            "answered 404",
        ),
        (
            "charts/1/url",
            json!(format!("http://{}/web", file_server.host)),
            "is not the index of a chart repository",
        ),
        (
            "charts/1/url",
            json!(format!("http://{}/noise", file_server.host)),
            "is not a Helm chart: it is not compressed by gzip",
        ),
        (
            "charts/0/url",
            json!(format!(
                "oci://{}/team/app@{}",
                setup.source.host,
                "sha256:".to_owned() + &other
            )),
            "does not exist",
        ),
        ("files/0/sha256", json!(other), "the content has the digest"),
        ("files/2/sha256", json!(other), "the content has the digest"),
        (
            "files/0/url",
            json!(format!("http://{}/gone", file_server.host)),
            "the server answered 404",
        ),
        ("files/0/url", json!("http://127.0.0.2:1/x"), "write https://"),
        (
            "files/1/target",
            json!("../../etc/passwd"),
            "its target contains '.' or '..'",
        ),
        (
            "manifests/1/configMapRef/name",
            json!("other"),
            "the ConfigMap other is not in the file",
        ),
        ("manifests/1/configMapRef/key", json!("c.yaml"), "has no entry c.yaml"),
        ("manifests/0/inline", json!("just: words"), "without apiVersion or kind"),
        (
            "charts/0/valuesFrom/0/configMapRef",
            json!({"name": "manifests"}),
            "has no entry values.yaml",
        ),
        (
            "charts/0/valuesFrom/0/configMapRef",
            json!({"name": "broken"}),
            "is YAML without fields",
        ),
    ] {
        let mut package = setup.package();
        let at = format!("{component}/{path}");
        match package.pointer_mut(&at) {
            Some(known) => *known = value,
            None => {
                let (parent, key) = at.rsplit_once('/').unwrap();
                package.pointer_mut(parent).unwrap()[key] = value;
            }
        }
        setup.write(&package);
        let broken = "\n---\n{kind: ConfigMap, metadata: {name: broken}, data: {values.yaml: 'words'}}\n";
        let file = setup.folder.path("shop.yaml");
        let text = std::fs::read_to_string(&file).unwrap() + broken;
        setup.folder.write("shop.yaml", &text);
        let to = format!("{}/team", registry.host);
        let output = setup.folder.build(&setup.arguments(&hosts, &to));
        let message = stderr(&output);
        assert!(!output.status.success() && message.contains(words), "{path}: {message}");
        let component = message.contains("component `web`") || message.contains("components/web.tar");
        assert!(component, "{path}: {message}");
        assert!(!message.contains("secret"), "{path}: {message}");
    }
    // Images may have been copied, but no package.
    assert_eq!(tags(&registry), "");
}

/// The tags of the package; none if it was never pushed.
fn tags(registry: &TestRegistry) -> String {
    let name = format!("{}/team/shop", registry.host);
    let output = std::process::Command::new(crate::support::program("JACKAL_BIN_CRANE"))
        .args(["ls", "--insecure", &name])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Runs `convert` for a golden definition.
fn converted(arguments: &[&str]) -> Output {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/convert");
    let mut command = Workspace::new().command(&[&["convert"], arguments].concat());
    command.current_dir(golden).output().unwrap()
}

#[test]
fn a_converted_definition_builds_the_same_content() {
    let output = converted(&["agent/zarf.yaml"]);
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{}",
        stderr(&output)
    );
    let folder = Workspace::new();
    folder.write("agent.yaml", stdout(&output));
    let report = folder.build_report(&["agent.yaml", "--to", "oci:out"]);
    let blobs = folder.path("out/blobs/sha256");
    let blob = |digest: &str| blobs.join(digest.trim_start_matches("sha256:"));
    let manifest = std::fs::read(blob(report["digest"].as_str().unwrap())).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let layer = |title: &str| {
        let layers = manifest["layers"].as_array().unwrap();
        let titled = |layer: &&Value| layer["annotations"]["org.opencontainers.image.title"] == title;
        blob(layers.iter().find(titled).unwrap()["digest"].as_str().unwrap())
    };
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/convert/agent");
    let original: Value =
        serde_saphyr::from_str(&std::fs::read_to_string(format!("{golden}/zarf.yaml")).unwrap()).unwrap();
    let ours: Value = serde_saphyr::from_str(&std::fs::read_to_string(layer("zarf.yaml")).unwrap()).unwrap();
    assert_eq!(ours["metadata"]["version"], original["metadata"]["version"]);
    let unpacked = folder.path("unpacked");
    std::fs::create_dir(&unpacked).unwrap();
    for component in ["objects", "machine"] {
        let tar = layer(&format!("components/{component}.tar"));
        run(
            "tar",
            &["-C", unpacked.to_str().unwrap(), "-xpf", tar.to_str().unwrap()],
        );
    }
    let read = |path: &str| std::fs::read_to_string(unpacked.join(path)).unwrap();
    let theirs = |path: &str| std::fs::read_to_string(format!("{golden}/{path}")).unwrap();
    assert_eq!(read("machine/files/0/agent.conf"), theirs("etc/agent.conf"));
    assert_eq!(read("machine/files/1/start-agent"), theirs("etc/start"));
    assert_eq!(read("objects/manifests/roles-0.yaml"), theirs("manifests/roles.yaml"));
    let documents = |text: &str| serde_saphyr::from_multiple::<Value>(text).unwrap();
    let both = ["manifests/namespace.yaml", "manifests/agent.yaml"].map(|path| documents(&theirs(path)));
    assert_eq!(documents(&read("objects/manifests/agent-0.yaml")), both.concat());
    assert_eq!(ours["components"][1]["files"][0]["target"], "/etc/machine/agent.conf");
}

#[test]
fn convert_fails_when_it_leaves_fields_out() {
    let output = converted(&["shop/jackal.yaml"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).starts_with("# Not converted:\n# - metadata.authors: "));
    assert!(stderr(&output).contains("not carried over: components[database].actions: commands are not run"));
    assert!(converted(&["shop/jackal.yaml", "--partial"]).status.success());
    let flavoured = converted(&["flavours/zarf.yaml", "--flavor", "hardened", "--partial"]);
    assert!(stdout(&flavoured).contains("registry.example.com/hardened/app:1.0"));
    for bad in ["nowhere.yaml", "agent/manifests/agent.yaml"] {
        let output = converted(&[bad]);
        assert_eq!(
            (output.status.code(), stdout(&output).as_str()),
            (Some(2), ""),
            "{}",
            stderr(&output)
        );
    }
}
