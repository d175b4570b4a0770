//! A syft that is missing, fails, uses too many resources or never ends.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jackal_operator::fault::{Disposition, Fault, Reason};
use jackal_operator::oci::{Digest, Document, Manifest};
use jackal_operator::sbom::{Isolation, Limits, find_claimed, generate};

use super::{at, put_alpine, remaining_files, syft_with};
use crate::support::program;
use crate::support::registry::{TestRegistry, Version};
use crate::support::wait::{SOON, eventually};

/// An executable shell script in `folder` with these lines.
pub fn script(folder: &Path, lines: &str) -> PathBuf {
    let file = folder.join(format!("syft-{:x}", fastrand::u64(..)));
    std::fs::write(&file, format!("#!/bin/sh\n{lines}\n")).unwrap();
    std::fs::set_permissions(&file, Permissions::from_mode(0o755)).unwrap();
    file
}

/// The failure for an image with `program` as syft, which leaves no files behind.
async fn fault_with(program: PathBuf, limits: Limits) -> Fault {
    let registry = TestRegistry::start(Version::V31);
    let image = put_alpine(&registry.repository("a"), "1", &[("musl", "1")]).await;
    fault_of(&registry, &image, program, limits).await
}

/// The same for this image of the repository `a`.
pub async fn fault_of(registry: &TestRegistry, image: &Document, program: PathBuf, limits: Limits) -> Fault {
    let root = tempfile::tempdir().unwrap();
    let destination = at(registry.repository("a"));
    let syft = syft_with(program, root.path(), limits).await;
    let first = generate(&syft, &destination, image).await.unwrap_err();
    assert_eq!(find_claimed(&destination, image.digest()).await.unwrap(), None);
    assert_eq!(remaining_files(root.path()).await, 0);
    // The message is the same in each attempt.
    assert_eq!(generate(&syft, &destination, image).await.unwrap_err(), first);
    assert_eq!(first.reason, Reason::SbomFailed, "{first}");
    first
}

fn assert_message(fault: &Fault, texts: &[&str]) {
    for text in texts {
        assert!(fault.message.contains(text), "`{text}` is not in `{}`", fault.message);
    }
}

#[tokio::test]
async fn an_unusable_syft_program_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("syft");
    assert_message(
        &fault_with(missing.clone(), Limits::default()).await,
        &["does not exist", "correct --syft"],
    );
    std::fs::write(&missing, "x").unwrap();
    assert_message(
        &fault_with(missing.clone(), Limits::default()).await,
        &["is not executable"],
    );
    std::fs::set_permissions(&missing, Permissions::from_mode(0o755)).unwrap();
    std::fs::write(&missing, [0x7f, b'E', b'L', b'F', 0, 0]).unwrap();
    assert_message(
        &fault_with(missing, Limits::default()).await,
        &["cannot be started", "for this machine"],
    );
}

#[tokio::test]
async fn the_last_error_output_of_syft_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let crashes = script(
        folder.path(),
        "echo \"goroutine 1: $TMPDIR/x\" >&2; echo \"read tcp 127.0.0.1:$$->10.0.0.1:5000: broken\" >&2; exit 3",
    );
    let fault = fault_with(crashes, Limits::default()).await;
    assert_message(&fault, &["ended with code 3", "read tcp 10.0.0.1:5000: broken"]);
    assert!(matches!(fault.disposition, Disposition::Waiting { after } if after > Duration::from_secs(60)));
    let silent = script(folder.path(), "exit 1");
    assert_message(&fault_with(silent, Limits::default()).await, &["code 1 without output"]);
    let killed = script(folder.path(), "kill -9 $$");
    assert_message(&fault_with(killed, Limits::default()).await, &["killed by signal 9"]);
    // Its output is endless and is not stored.
    let talks = script(folder.path(), "head -c 50000000 /dev/zero | tr '\\0' x >&2; exit 1");
    assert!(fault_with(talks, Limits::default()).await.message.len() < 600);
}

#[tokio::test]
async fn output_that_is_not_an_sbom_of_the_image_is_rejected() {
    let folder = tempfile::tempdir().unwrap();
    let nothing = script(folder.path(), "exit 0");
    assert_message(&fault_with(nothing, Limits::default()).await, &["cannot be read"]);
    let nonsense = script(
        folder.path(),
        "cd \"$TMPDIR\" && for form in syft spdx cyclonedx; do echo '{\"a\":1}' >$form.json; done",
    );
    assert_message(
        &fault_with(nonsense, Limits::default()).await,
        &["syft wrote an invalid SBOM", "check that --syft names syft"],
    );
    let endless = script(folder.path(), "head -c 70000000 /dev/zero >\"$TMPDIR/syft.json\"");
    assert_message(
        &fault_with(endless, Limits::default()).await,
        &["more than 67108864 bytes"],
    );
    // The SBOM of another image.
    let other = script(
        folder.path(),
        &format!(
            "cd \"$TMPDIR\" && echo '{{\"descriptor\":{{\"name\":\"syft\",\"version\":\"1\"}},\"source\":{{\"metadata\":{{\"manifestDigest\":\"{}\"}}}}}}' >syft.json",
            Digest::of(b"other")
        ),
    );
    assert_message(
        &fault_with(other, Limits::default()).await,
        &["about the manifest", "instead of"],
    );
}

#[tokio::test]
async fn a_syft_that_never_ends_is_killed_with_its_children() {
    let folder = tempfile::tempdir().unwrap();
    let children = folder.path().join("children");
    let hangs = script(
        folder.path(),
        &format!(
            "sleep 1000 & echo $! >>'{0}'; (sleep 1000 & echo $! >>'{0}'; wait); wait",
            children.display()
        ),
    );
    // The script writes where syft must not.
    let isolation = Isolation::None;
    let limits = Limits {
        time: Duration::from_secs(1),
        isolation,
        ..Limits::default()
    };
    assert_message(
        &fault_with(hangs.clone(), limits).await,
        &["took longer than 1 s", "--sbom-timeout"],
    );
    wait_for_processes(&children, 4).await;

    // The same when the request is cancelled.
    std::fs::remove_file(&children).unwrap();
    let registry = TestRegistry::start(Version::V31);
    let image = put_alpine(&registry.repository("a"), "1", &[("musl", "1")]).await;
    let (root, destination) = (tempfile::tempdir().unwrap(), at(registry.repository("a")));
    let free = Limits {
        isolation,
        ..Limits::default()
    };
    let syft = syft_with(hangs, root.path(), free).await;
    let started = eventually(SOON, "both children run", async || {
        let fault = std::fs::read_to_string(&children).unwrap_or_default();
        if fault.lines().count() == 2 { Ok(()) } else { Err(fault) }
    });
    tokio::select! {
        made = generate(&syft, &destination, &image) => panic!("{made:?}"),
        () = started => {}
    }
    wait_for_processes(&children, 2).await;
    assert_eq!(remaining_files(root.path()).await, 0);
}

/// Waits until the processes end whose ids are the lines of a file, `count` of them.
async fn wait_for_processes(file: &Path, count: usize) {
    let ids = std::fs::read_to_string(file).unwrap();
    assert_eq!(ids.lines().count(), count, "{ids}");
    eventually(SOON, "the children end", async || {
        // A zombie counts as ended.
        let lives = |id: &&str| {
            let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
            status.contains("sleep") && !status.contains("State:\tZ")
        };
        match ids.lines().find(lives) {
            Some(id) => Err(format!("{id} runs")),
            None => Ok(()),
        }
    })
    .await;
}

#[tokio::test]
async fn memory_and_disk_usage_are_limited() {
    let little = Limits {
        memory: 64 << 20,
        ..Limits::default()
    };
    // The real syft.
    let fault = fault_with(program("JACKAL_BIN_SYFT"), little).await;
    assert_message(&fault, &["more than 64Mi of memory", "--sbom-memory"]);
    let folder = tempfile::tempdir().unwrap();
    let fills = script(
        folder.path(),
        "head -c 100000000 /dev/zero >\"$TMPDIR/layer\"; sleep 1000",
    );
    let little = Limits {
        scratch: 50 << 20,
        ..Limits::default()
    };
    assert_message(
        &fault_with(fills, little).await,
        &["more than 50Mi of disk", "--sbom-scratch-limit"],
    );
}

#[tokio::test]
async fn an_unreadable_image_is_reported() {
    let registry = TestRegistry::start(Version::V31);
    let image = put_alpine(&registry.repository("a"), "1", &[("musl", "1")]).await;
    // Its layer is deleted from the registry's disk.
    let layer = &image.manifest().unwrap().layers[0].digest;
    let hex = layer.hex();
    let blob = format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]);
    std::fs::remove_file(registry.storage().join(blob)).unwrap();
    let fault = fault_of(&registry, &image, program("JACKAL_BIN_SYFT"), Limits::default()).await;
    assert_message(&fault, &["does not contain the blob", "copy the image again"]);
}

#[tokio::test]
async fn the_urls_of_a_foreign_layer_are_not_requested() {
    let registry = TestRegistry::start(Version::V31);
    let image = put_alpine(&registry.repository("a"), "1", &[("musl", "1")]).await;
    let mut manifest: Manifest = image.manifest().unwrap().clone();
    manifest.layers[0].media_type = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip".to_owned();
    manifest.layers[0].digest = Digest::of(b"elsewhere");
    let image = Document::of_manifest(manifest).unwrap();
    let fault = fault_of(&registry, &image, "/nowhere".into(), Limits::default()).await;
    assert_message(&fault, &["is only at its publisher"]);
    assert_eq!(fault.disposition, Disposition::Stalled);
}
