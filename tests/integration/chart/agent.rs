//! The chart's mounts and capabilities of an agent suffice for reading an engine's folder: the binary reads real
//! engines with only these.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::{environment, find, render};
use crate::docker::engines::DockerEngine;

/// The report of `build` for `image` of the engine, in a mount namespace with the volumes of the DaemonSet mounted
/// below `folder`, as root with only these capabilities.
fn build(agent: &Value, capabilities: &[&str], image: &str, folder: &Path) -> Value {
    let pod = &agent["spec"]["template"]["spec"];
    let here = folder.display();
    let mut script = "set -eu\n".to_owned();
    let mounts = pod["containers"][0]["volumeMounts"].as_array().unwrap();
    for (mount, volume) in mounts.iter().zip(pod["volumes"].as_array().unwrap()) {
        let from = volume["hostPath"]["path"].as_str().unwrap();
        let to = format!("{here}{}", mount["mountPath"].as_str().unwrap());
        let place = match volume["hostPath"]["type"].as_str().unwrap() {
            "Directory" => format!("mkdir -p {to}"),
            _ => format!("mkdir -p $(dirname {to}); touch {to}"),
        };
        script += &format!("{place}; mount --bind {from} {to}; mount -o remount,bind,ro {to}\n");
    }
    let package = json!({
        "apiVersion": "jackal.dev/v1alpha1", "kind": "JackalPackage", "metadata": { "name": "shop" },
        "spec": { "version": "1", "components": [{ "name": "a", "images": [{ "image": image, "source": "Docker" }] }] },
    });
    std::fs::write(folder.join("package.json"), package.to_string()).unwrap();
    let left: Vec<String> = capabilities
        .iter()
        .map(|name| format!(",+{}", name.to_lowercase()))
        .collect();
    let left = format!("-all{}", left.concat());
    script += &format!(
        "exec setpriv --inh-caps={left} --bounding-set={left} --no-new-privs {} build {here}/package.json --to oci:{here}/to-{} --output json",
        env!("CARGO_BIN_EXE_jackal-operator"),
        capabilities.len(),
    );
    let mut command = Command::new("timeout");
    command.args(["-k", "1", "60", "unshare", "--mount", "bash", "-c", &script]);
    for (name, value) in environment(agent) {
        if name == "DOCKER_HOST" || name.ends_with("_ROOT") {
            command.env(name, value.replacen("/node", &format!("{here}/node"), 1));
        }
    }
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}\n{script}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    report["images"][0].clone()
}

#[test]
fn an_agent_can_read_its_engines_folder_and_has_no_unneeded_capability() {
    let cases = [
        ("overlay2", "DockerGraph"),
        ("overlay2", "DockerGraph"),
        ("system-containerd", "ContainerdContent"),
    ];
    for (engine, (store, method)) in DockerEngine::all().iter().zip(cases) {
        let folder = tempfile::tempdir().unwrap();
        let tar = folder.path().join("image.tar");
        std::fs::write(folder.path().join("secret"), store).unwrap();
        // A file that only its owner may read.
        let made = Command::new("tar")
            .args(["--owner=999", "--group=999", "--mode=0600", "-C"])
            .arg(folder.path())
            .arg("-cf")
            .args([tar.as_os_str(), "secret".as_ref()])
            .status();
        assert!(made.unwrap().success());
        let image = crate::cluster::unique("secret:1");
        engine.run(&["import", tar.to_str().unwrap(), &image]);

        let root = engine.output(&["info", "--format", "{{.DockerRootDir}}"]);
        let root = root.trim();
        let values = json!({ "agent": {
            "enabled": true,
            "docker": { "socket": engine.host.strip_prefix("unix://").unwrap(), "root": root, "store": store },
            // The folder in the stack of the tests.
            "containerd": { "root": Path::new(root).with_file_name("containerd") },
        } });
        let objects = render(&values);
        let agent = find(&objects, "DaemonSet", "shop-agent");
        let capabilities = &agent["spec"]["template"]["spec"]["containers"][0]["securityContext"]["capabilities"];
        assert_eq!(capabilities["drop"], json!(["ALL"]));
        let added: Vec<&str> = capabilities["add"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|name| name.as_str().unwrap())
            .collect();
        let read = build(agent, &added, &image, folder.path());
        assert_eq!(read["method"], method, "{read}");
        assert_eq!(read["methodReason"], Value::Null, "{read}");
        if store == "overlay2" {
            let read = build(agent, &[], &image, folder.path());
            assert_eq!(read["method"], "DockerSave", "{read}");
            let message = read["methodMessage"].as_str().unwrap();
            assert!(message.contains("needs CAP_DAC_READ_SEARCH"), "{message}");
        }
    }
}
