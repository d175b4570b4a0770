//! A syft that is missing, fails, takes too much or never ends.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jackal_operator::fault::{Disposition, Fault, Reason};
use jackal_operator::oci::{Digest, Document, Manifest};
use jackal_operator::sbom::{Isolation, Limits, find_claimed, generate};

use super::{at, left, put_alpine, syft_with};
use crate::support::program;
use crate::support::registry::{TestRegistry, Version};
use crate::support::wait::{SOON, eventually};

/// A program in `folder` that does what the lines of a shell say.
pub fn script(folder: &Path, lines: &str) -> PathBuf {
    let file = folder.join(format!("syft-{:x}", fastrand::u64(..)));
    std::fs::write(&file, format!("#!/bin/sh\n{lines}\n")).unwrap();
    std::fs::set_permissions(&file, Permissions::from_mode(0o755)).unwrap();
    file
}

/// What `make` says of an image with the syft of `program`, which leaves nothing behind.
async fn fault(program: PathBuf, limits: Limits) -> Fault {
    let registry = TestRegistry::start(Version::V31);
    let image = put_alpine(&registry.repository("a"), "1", &[("musl", "1")]).await;
    fault_of(&registry, &image, program, limits).await
}

/// The same of this image of the repository `a`.
pub async fn fault_of(registry: &TestRegistry, image: &Document, program: PathBuf, limits: Limits) -> Fault {
    let root = tempfile::tempdir().unwrap();
    let destination = at(registry.repository("a"));
    let syft = syft_with(program, root.path(), limits).await;
    let first = generate(&syft, &destination, image).await.unwrap_err();
    assert_eq!(find_claimed(&destination, image.digest()).await.unwrap(), None);
    assert_eq!(left(root.path()).await, 0);
    // Nothing in it differs from one try to the next.
    assert_eq!(generate(&syft, &destination, image).await.unwrap_err(), first);
    assert_eq!(first.reason, Reason::SbomFailed, "{first}");
    first
}

fn says(fault: &Fault, texts: &[&str]) {
    for text in texts {
        assert!(fault.message.contains(text), "`{text}` is not in `{}`", fault.message);
    }
}

#[tokio::test]
async fn a_syft_that_is_no_program_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("syft");
    says(
        &fault(missing.clone(), Limits::default()).await,
        &["does not exist", "correct --syft"],
    );
    std::fs::write(&missing, "x").unwrap();
    says(&fault(missing.clone(), Limits::default()).await, &["is not executable"]);
    std::fs::set_permissions(&missing, Permissions::from_mode(0o755)).unwrap();
    std::fs::write(&missing, [0x7f, b'E', b'L', b'F', 0, 0]).unwrap();
    says(
        &fault(missing, Limits::default()).await,
        &["cannot be started", "for this machine"],
    );
}

#[tokio::test]
async fn what_syft_says_at_its_end_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let crashes = script(
        folder.path(),
        "echo \"goroutine 1: $TMPDIR/x\" >&2; echo \"read tcp 127.0.0.1:$$->10.0.0.1:5000: broken\" >&2; exit 3",
    );
    let said = fault(crashes, Limits::default()).await;
    says(&said, &["ended with code 3", "read tcp 10.0.0.1:5000: broken"]);
    assert!(matches!(said.disposition, Disposition::Waiting { after } if after > Duration::from_secs(60)));
    let silent = script(folder.path(), "exit 1");
    says(&fault(silent, Limits::default()).await, &["code 1 without output"]);
    let killed = script(folder.path(), "kill -9 $$");
    says(&fault(killed, Limits::default()).await, &["killed by signal 9"]);
    // It talks without end, which is not kept.
    let talks = script(folder.path(), "head -c 50000000 /dev/zero | tr '\\0' x >&2; exit 1");
    assert!(fault(talks, Limits::default()).await.message.len() < 600);
}

#[tokio::test]
async fn what_is_no_sbom_of_the_image_is_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let nothing = script(folder.path(), "exit 0");
    says(&fault(nothing, Limits::default()).await, &["cannot be read"]);
    let nonsense = script(
        folder.path(),
        "cd \"$TMPDIR\" && for form in syft spdx cyclonedx; do echo '{\"a\":1}' >$form.json; done",
    );
    says(
        &fault(nonsense, Limits::default()).await,
        &["syft wrote an invalid SBOM", "check that --syft names syft"],
    );
    let endless = script(folder.path(), "head -c 70000000 /dev/zero >\"$TMPDIR/syft.json\"");
    says(&fault(endless, Limits::default()).await, &["more than 67108864 bytes"]);
    // The SBOM of another image.
    let other = script(
        folder.path(),
        &format!(
            "cd \"$TMPDIR\" && echo '{{\"descriptor\":{{\"name\":\"syft\",\"version\":\"1\"}},\"source\":{{\"metadata\":{{\"manifestDigest\":\"{}\"}}}}}}' >syft.json",
            Digest::of(b"other")
        ),
    );
    says(
        &fault(other, Limits::default()).await,
        &["about the manifest", "instead of"],
    );
}

#[tokio::test]
async fn a_syft_that_never_ends_is_ended_with_all_that_it_started() {
    let folder = tempfile::tempdir().unwrap();
    let children = folder.path().join("children");
    let hangs = script(
        folder.path(),
        &format!(
            "sleep 1000 & echo $! >>'{0}'; (sleep 1000 & echo $! >>'{0}'; wait); wait",
            children.display()
        ),
    );
    // It writes where syft may not.
    let isolation = Isolation::None;
    let limits = Limits {
        time: Duration::from_secs(1),
        isolation,
        ..Limits::default()
    };
    says(
        &fault(hangs.clone(), limits).await,
        &["took longer than 1 s", "--sbom-timeout"],
    );
    all_end(&children, 4).await;

    // The same when nobody wants the SBOM any more.
    std::fs::remove_file(&children).unwrap();
    let registry = TestRegistry::start(Version::V31);
    let image = put_alpine(&registry.repository("a"), "1", &[("musl", "1")]).await;
    let (root, destination) = (tempfile::tempdir().unwrap(), at(registry.repository("a")));
    let free = Limits {
        isolation,
        ..Limits::default()
    };
    let syft = syft_with(hangs, root.path(), free).await;
    let begun = eventually(SOON, "both children run", async || {
        let said = std::fs::read_to_string(&children).unwrap_or_default();
        if said.lines().count() == 2 { Ok(()) } else { Err(said) }
    });
    tokio::select! {
        made = generate(&syft, &destination, &image) => panic!("{made:?}"),
        () = begun => {}
    }
    all_end(&children, 2).await;
    assert_eq!(left(root.path()).await, 0);
}

/// That the processes end whose ids are the lines of a file, `count` of them.
async fn all_end(file: &Path, count: usize) {
    let ids = std::fs::read_to_string(file).unwrap();
    assert_eq!(ids.lines().count(), count, "{ids}");
    eventually(SOON, "the children end", async || {
        // One that ended and was not waited for by its new parent yet is as good.
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
async fn memory_and_disk_are_bounded() {
    let little = Limits {
        memory: 64 << 20,
        ..Limits::default()
    };
    // The real one.
    let said = fault(program("JACKAL_BIN_SYFT"), little).await;
    says(&said, &["more than 64Mi of memory", "--sbom-memory"]);
    let folder = tempfile::tempdir().unwrap();
    let fills = script(
        folder.path(),
        "head -c 100000000 /dev/zero >\"$TMPDIR/layer\"; sleep 1000",
    );
    let little = Limits {
        scratch: 50 << 20,
        ..Limits::default()
    };
    says(
        &fault(fills, little).await,
        &["more than 50Mi of disk", "--sbom-scratch-limit"],
    );
}

#[tokio::test]
async fn an_image_that_cannot_be_read_says_so() {
    let registry = TestRegistry::start(Version::V31);
    let image = put_alpine(&registry.repository("a"), "1", &[("musl", "1")]).await;
    // Its layer is gone from the registry's disk.
    let layer = &image.manifest().unwrap().layers[0].digest;
    let hex = layer.hex();
    let blob = format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]);
    std::fs::remove_file(registry.storage().join(blob)).unwrap();
    let said = fault_of(&registry, &image, program("JACKAL_BIN_SYFT"), Limits::default()).await;
    says(&said, &["does not contain the blob", "copy the image again"]);
}

#[tokio::test]
async fn a_layer_that_lies_elsewhere_is_not_asked_for() {
    let registry = TestRegistry::start(Version::V31);
    let image = put_alpine(&registry.repository("a"), "1", &[("musl", "1")]).await;
    let mut manifest: Manifest = image.manifest().unwrap().clone();
    manifest.layers[0].media_type = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip".to_owned();
    manifest.layers[0].digest = Digest::of(b"elsewhere");
    let image = Document::of_manifest(manifest).unwrap();
    let said = fault_of(&registry, &image, "/nowhere".into(), Limits::default()).await;
    says(&said, &["is only at its publisher"]);
    assert_eq!(said.disposition, Disposition::Stalled);
}
