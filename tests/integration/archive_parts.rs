//! Package files in parts: `pack --max-part-size`, `split`, `join`, `repair`, `verify FILE`, and `load` of parts.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};

use crate::archive::{Packages, digests, tags};
use crate::support::image::noise;
use crate::support::registry::{TestRegistry, Version};
use crate::support::wait::SOON;
use crate::support::workspace::{CommandResult as _, Workspace, stderr, stdout};

const LIST: &str = "shop.tar.zst.part000";

/// The files of the workspace whose names begin like this, with their content.
fn files(workspace: &Workspace, prefix: &str) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(workspace.path(".")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let names = names.filter(|name| name.starts_with(prefix));
    names
        .map(|name| (name.clone(), fs::read(workspace.path(&name)).unwrap()))
        .collect()
}

/// A part size that gives seven parts of the package.
fn part_size(packages: &Packages) -> String {
    packages.pack(&packages.reference, "whole.tar.zst", &[]).succeeded();
    let length = fs::metadata(packages.workspace.path("whole.tar.zst")).unwrap().len();
    (length / 7 + 64).to_string()
}

fn load(workspace: &Workspace, file: &str, to: &str) -> std::process::Output {
    workspace.run(&["load", file, "--to", to, "--insecure", "--output", "json"])
}

#[tokio::test]
async fn parts_are_loaded_as_the_whole_is() {
    let packages = Packages::new().await;
    let workspace = &packages.workspace;
    let size = part_size(&packages);
    let flags = ["--max-part-size", &size, "--parity", "2", "--format", "json"];
    let report = packages.pack(&packages.reference, "shop.tar.zst", &flags);
    report.succeeded();
    let report: Value = serde_json::from_slice(&report.stdout).unwrap();
    let named = |end: &str, numbers: std::ops::RangeInclusive<usize>| -> Vec<String> {
        numbers.map(|number| format!("shop.tar.zst.{end}{number:03}")).collect()
    };
    assert_eq!(report["list"], LIST);
    assert_eq!(
        (&report["parts"], &report["parity"]),
        (&json!(named("part", 1..=7)), &json!(named("parity", 1..=2)))
    );
    let written = files(workspace, "shop.tar.zst");
    let names: Vec<&String> = written.keys().collect();
    assert_eq!(
        names,
        [named("parity", 0..=2), named("part", 0..=7)]
            .concat()
            .iter()
            .collect::<Vec<_>>()
    );
    assert_eq!(written["shop.tar.zst.parity000"], written[LIST]);

    // The parts are the file, and the same package gives the same parts, wherever it lies and however they are made.
    let whole = fs::read(workspace.path("whole.tar.zst")).unwrap();
    let parts: Vec<u8> = named("part", 1..=7)
        .iter()
        .flat_map(|name| written[name].clone())
        .collect();
    assert!(parts == whole);
    let list: Value = serde_json::from_slice(&written[LIST]).unwrap();
    assert_eq!((&list["Bytes"], &list["Count"]), (&json!(whole.len()), &json!(7)));
    packages.pack("oci:out:shop:1.4.0", "shop.tar.zst", &flags).succeeded();
    assert!(files(workspace, "shop.tar.zst") == written);
    workspace
        .run(&[&["split", "whole.tar.zst"], &flags[..4]].concat())
        .succeeded();
    let split = files(workspace, "whole.tar.zst.");
    assert!(split.values().eq(written.values()));
    workspace.run(&["join", LIST, "--output", "joined.tar.zst"]).succeeded();
    assert!(fs::read(workspace.path("joined.tar.zst")).unwrap() == whole);
    let piped = workspace.run(&["join", LIST, "--output", "-"]);
    piped.succeeded();
    assert!(piped.stdout == whole);

    let to = TestRegistry::start(Version::V31);
    let expected = digests(&packages.registry, "");
    for (prefix, file) in [("whole", "whole.tar.zst"), ("parts", LIST), ("name", "shop.tar.zst")] {
        let loaded = load(workspace, file, &format!("{}/{prefix}", to.host));
        loaded.succeeded();
        assert_eq!(digests(&to, &format!("{prefix}/")), expected);
        let report: Value = serde_json::from_slice(&loaded.stdout).unwrap();
        assert_eq!(report["digest"], expected[0].trim());
    }
    // Parts through a pipe, as far as they come in order.
    let arguments = ["load", "-", "--to", &format!("{}/pipe", to.host), "--insecure"];
    workspace.run_with(&arguments, &parts).succeeded();
    assert_eq!(digests(&to, "pipe/"), expected);

    let verified = workspace.run(&["verify", LIST, "--output", "json"]);
    verified.succeeded();
    let report: Value = serde_json::from_slice(&verified.stdout).unwrap();
    assert_eq!(report["parts"], 9);
    assert!(report["files"].as_u64().unwrap() > 8, "{report}");
    for part in [
        "shop.tar.zst.part003",
        "shop.tar.zst.parity001",
        "shop.tar.zst.parity000",
        "whole.tar.zst",
    ] {
        let verified = workspace.run(&["verify", part]);
        verified.succeeded();
        assert!(stdout(&verified).starts_with(&format!("{part} is sound")));
    }
}

/// A fault of parts: what is done to the files, and what is said about it.
struct Failure {
    name: &'static str,
    fail: fn(&Workspace),
    words: &'static str,
}

fn path(workspace: &Workspace, part: &str) -> std::path::PathBuf {
    workspace.path(format!("shop.tar.zst.{part}"))
}

fn flip(workspace: &Workspace, part: &str) {
    let mut bytes = fs::read(path(workspace, part)).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path(workspace, part), bytes).unwrap();
}

const FAILURES: [Failure; 8] = [
    Failure {
        name: "missing",
        fail: |workspace| fs::remove_file(path(workspace, "part002")).unwrap(),
        words: "shop.tar.zst.part002 is missing",
    },
    Failure {
        name: "duplicate",
        fail: |workspace| {
            drop(fs::write(
                path(workspace, "part003"),
                fs::read(path(workspace, "part005")).unwrap(),
            ))
        },
        words: "shop.tar.zst.part003 has the content of shop.tar.zst.part005",
    },
    Failure {
        name: "swapped",
        fail: |workspace| {
            let (one, other) = (path(workspace, "part004"), path(workspace, "part006"));
            let kept = fs::read(&one).unwrap();
            fs::rename(&other, &one).unwrap();
            fs::write(&other, kept).unwrap();
        },
        words: "shop.tar.zst.part006 has the content of shop.tar.zst.part004",
    },
    Failure {
        name: "truncated",
        fail: |workspace| {
            let bytes = fs::read(path(workspace, "part007")).unwrap();
            fs::write(path(workspace, "part007"), &bytes[..bytes.len() - 1]).unwrap();
        },
        words: "shop.tar.zst.part007 has ",
    },
    Failure {
        name: "foreign",
        fail: |workspace| {
            fs::copy(workspace.path("other.tar.zst.part001"), path(workspace, "part001")).unwrap();
        },
        words: "shop.tar.zst.part001 is damaged, or a part of another archive",
    },
    Failure {
        name: "unlisted",
        fail: |workspace| {
            fs::copy(path(workspace, "part001"), path(workspace, "part008")).unwrap();
        },
        words: "shop.tar.zst.part008 does not belong to it: it has 7 parts; delete what does not belong to it",
    },
    Failure {
        name: "list",
        fail: |workspace| flip(workspace, "part000"),
        words: "shop.tar.zst.part000: the list of the parts is damaged",
    },
    Failure {
        name: "flipped",
        fail: |workspace| flip(workspace, "part005"),
        words: "shop.tar.zst.part005 is damaged",
    },
];

#[tokio::test]
async fn a_wrong_part_is_named_and_nothing_is_published() {
    let packages = Packages::new().await;
    let workspace = &packages.workspace;
    let size = part_size(&packages);
    packages
        .pack(&packages.reference, "shop.tar.zst", &["--max-part-size", &size])
        .succeeded();
    workspace.write(
        "other.tar.zst",
        noise(3, fs::read(path(workspace, "part001")).unwrap().len() * 7),
    );
    workspace
        .run(&["split", "other.tar.zst", "--max-part-size", &size])
        .succeeded();
    let sound = files(workspace, "shop.tar.zst");
    let to = TestRegistry::start(Version::V31);
    for Failure { name, fail, words } in FAILURES {
        fail(workspace);
        let destination = format!("{}/{name}", to.host);
        let loaded = load(workspace, LIST, &destination);
        // A flipped bit shows when the blob is read; the message names the parts with the blob.
        loaded.failed(2, &["shop.tar.zst.part0"]);
        assert!(
            name == "flipped" || stderr(&loaded).contains(words),
            "{name}: {}",
            stderr(&loaded)
        );
        assert!(tags(&to).await.is_empty(), "{name}");
        workspace.run(&["verify", LIST]).failed(2, &[words]);
        workspace
            .run(&["join", LIST, "--output", "joined.tar.zst"])
            .failed(2, &[words]);
        assert!(!workspace.path("joined.tar.zst").exists());
        for (name, content) in &sound {
            workspace.write(name, content);
        }
        let _ = fs::remove_file(path(workspace, "part008"));
    }
    let part = |part: &str| workspace.run(&["verify", &format!("shop.tar.zst.{part}")]);
    flip(workspace, "part005");
    part("part004").succeeded();
    part("part005").failed(2, &["shop.tar.zst.part005 is damaged", "copy it again"]);
    part("part009").failed(2, &["shop.tar.zst.part009 is not in shop.tar.zst.part000"]);
    fs::remove_file(path(workspace, "part000")).unwrap();
    part("part004").failed(2, &["shop.tar.zst.part000 is missing: it lists the parts; copy it"]);
    load(workspace, "shop.tar.zst", &to.host).failed(2, &["shop.tar.zst.part000 is missing"]);
    load(workspace, "shop.tar.zst.part004", &to.host)
        .failed(2, &["it is one part of an archive; name shop.tar.zst.part000"]);
    assert!(tags(&to).await.is_empty());
}

#[tokio::test]
async fn lost_parts_are_replaced() {
    let packages = Packages::new().await;
    let workspace = &packages.workspace;
    let size = part_size(&packages);
    let flags = ["--max-part-size", &size, "--parity", "2"];
    packages.pack(&packages.reference, "shop.tar.zst", &flags).succeeded();
    let sound = files(workspace, "shop.tar.zst");
    workspace.run(&["repair", LIST]).succeeded();
    let to = TestRegistry::start(Version::V31);
    for lost in [
        ["part001", "part007"],
        ["part003", "parity002"],
        ["parity001", "parity002"],
        ["part000", "part004"],
    ] {
        for part in lost {
            fs::remove_file(path(workspace, part)).unwrap();
        }
        if lost[1].starts_with("part0") {
            let advice = "run `jackal-operator repair shop.tar.zst.part000`";
            load(workspace, LIST, &to.host).failed(2, &[lost[1], advice]);
        }
        let repaired = workspace.run(&["repair", LIST, "--output", "json"]);
        repaired.succeeded();
        let report: Value = serde_json::from_slice(&repaired.stdout).unwrap();
        assert_eq!(
            report["written"],
            json!(lost.map(|part| format!("shop.tar.zst.{part}")))
        );
        assert!(files(workspace, "shop.tar.zst") == sound, "{lost:?}");
    }
    // A damaged part counts as a lost one.
    flip(workspace, "part002");
    flip(workspace, "part005");
    workspace.run(&["verify", LIST]).failed(
        2,
        &[
            "part002 is damaged",
            "part005 is damaged",
            "run `jackal-operator repair",
        ],
    );
    workspace.run(&["repair", LIST]).succeeded();
    assert!(files(workspace, "shop.tar.zst") == sound);
    load(workspace, LIST, &to.host).succeeded();
    assert_eq!(digests(&to, ""), digests(&packages.registry, ""));

    for part in ["part002", "part005", "part006"] {
        fs::remove_file(path(workspace, part)).unwrap();
    }
    let words = [
        "part002 is missing",
        "part005 is missing",
        "part006 is missing",
        "copy them again: 3 parts are lost, and there is parity for 2",
    ];
    workspace.run(&["repair", LIST]).failed(2, &words);
    load(workspace, LIST, &to.host).failed(2, &words);
}

#[tokio::test]
async fn flags_that_cannot_be_used_are_refused_before_anything_is_read() {
    let workspace = Workspace::new();
    workspace.write("shop.tar.zst", noise(1, 1000 * 64));
    let run = |line: &str| workspace.run(&line.split(' ').collect::<Vec<_>>());
    run("split shop.tar.zst").failed(2, &["--max-part-size"]);
    run("split shop.tar.zst --max-part-size 64")
        .failed(2, &["needs more than 999 parts of 64 bytes; allow larger parts"]);
    run("split shop.tar.zst --max-part-size 10X").failed(2, &["is not a size"]);
    run("split shop.tar.zst --max-part-size 1M --parity 100").failed(2, &["100"]);
    run("split absent.tar.zst --max-part-size 1M").failed(2, &["absent.tar.zst cannot be read"]);
    run("split shop.tar.zst.part000 --max-part-size 1M").failed(2, &["is a part already; join the parts first"]);
    run("pack example.com/a:1 --output - --max-part-size 1M").failed(2, &["--max-part-size needs a file"]);
    run("pack example.com/a:1 --output a.tar.zst --parity 1").failed(2, &["--max-part-size"]);
    run("join shop.tar.zst --output a").failed(2, &["shop.tar.zst is not a list of parts: name FILE.part000"]);
    run("repair shop.tar.zst.part001").failed(2, &["is not a list of parts"]);
    run("join shop.tar.zst.part000 --output a").failed(2, &["shop.tar.zst.part000 is missing"]);
    run("verify shop.tar.zst").failed(2, &["shop.tar.zst: the file is damaged"]);
    run("verify shop.tar.zst --key a.pub").failed(2, &["cannot read a.pub"]);
    run("verify example.com/a:1").failed(2, &["name the keys or the identity"]);
    assert_eq!(files(&workspace, "shop.tar.zst").len(), 1);
    assert!(files(&workspace, ".").is_empty());
}

/// The temporary files of the parts of `big.tar.zst`.
fn temporary(workspace: &Workspace) -> Vec<String> {
    let names = fs::read_dir(workspace.path(".")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(".big.tar.zst.")).collect()
}

#[test]
fn what_a_killed_process_left_is_removed_by_the_next() {
    let workspace = Workspace::new();
    let big = fs::File::create(workspace.path("big.tar.zst")).unwrap();
    big.set_len(1 << 30).unwrap();
    let split = ["split", "big.tar.zst", "--max-part-size", "2Mi", "--parity", "1"];
    let mut process = Command::new(env!("CARGO_BIN_EXE_jackal-operator"))
        .args(split)
        .current_dir(workspace.path("."))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + SOON;
    while temporary(&workspace).len() < 4 {
        assert!(
            process.try_wait().unwrap().is_none() && Instant::now() < deadline,
            "no parts are written"
        );
    }
    // SIGKILL.
    process.kill().unwrap();
    process.wait().unwrap();
    let left = temporary(&workspace);
    assert!(left.len() >= 4, "{left:?}");
    assert!(!workspace.path("big.tar.zst.part000").exists());
    big.set_len(6 << 20).unwrap();
    workspace.run(&split).succeeded();
    assert_eq!(temporary(&workspace), Vec::<String>::new());
    // The list and its copy, three parts, and the parity part.
    assert_eq!(files(&workspace, "big.tar.zst.pa").len(), 6);
}
