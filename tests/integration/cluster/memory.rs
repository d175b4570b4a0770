//! Large images are transferred with little memory.

use std::path::PathBuf;

use super::{ADDRESS, TIMING_LOCK, package, unique};
use crate::docker::engines::DockerEngine;
use crate::support::cluster::{Cluster, required};
use crate::support::operator::Operator;
use crate::support::process::run;
use crate::support::registry::{TestRegistry, Version};
use crate::support::wait::SOON;

/// The peak resident memory of a process, in bytes.
const LIMIT: u64 = 100_000_000;
/// Bytes of code that the unoptimised program of the tests has in memory in addition to an optimised one, at least: its file has
/// 95 MB of code, an optimised one a third of that, and the pages that run count.
const UNOPTIMISED_CODE: u64 = 20_000_000;
/// The size of the layer in mebibytes.
const SIZE: usize = 1024;

/// Loads an image with a layer of one gigabyte into docker 20.10 under `name`; most of it is zeros, which take little
/// disk space.
fn import(engine: &DockerEngine, name: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let large = std::fs::File::create(path("large")).unwrap();
    for mebibyte in (0..SIZE as u64).step_by(16) {
        let content = crate::support::image::noise(mebibyte, 4096);
        std::os::unix::fs::FileExt::write_all_at(&large, &content, mebibyte << 20).unwrap();
    }
    large.set_len((SIZE as u64) << 20).unwrap();
    run(
        "tar",
        &[
            "-C",
            folder.path().to_str().unwrap(),
            "-cf",
            &path("layer.tar"),
            "large",
        ],
    );
    engine.run(&["import", &path("layer.tar"), name]);
}

fn check(who: &str, peak: u64) {
    println!("{who}: {} MB", peak / 1_000_000);
    assert!(
        peak > 1_000_000 && peak < LIMIT + UNOPTIMISED_CODE,
        "{who} needed {peak} bytes"
    );
}

#[tokio::test]
async fn a_layer_of_one_gigabyte_is_copied_with_less_than_100_megabytes_of_memory() {
    let _busy = TIMING_LOCK.lock().await;
    let [engine, ..] = DockerEngine::all();
    let name = unique("large:1");
    import(&engine, &name);
    let cluster = Cluster::new().await;
    let (first, second) = (TestRegistry::start(Version::V28), TestRegistry::start(Version::V31));
    let controller = cluster.controller(&["--insecure-registry", &first.host]);
    let agent = cluster.agent("n1", &engine.host, &[]);

    let docker = format!("{{image: '{name}', source: Docker}}");
    cluster.apply(&package(
        "engine",
        &first.host,
        &[&docker],
        "naming: Plain\n  compression: None",
    ));
    let status = cluster.ready("engine").await.status.unwrap();
    assert!(status.artifact.unwrap().size > (SIZE as i64) << 20);
    check("the agent, docker to registry", agent.peak_memory());

    let copy = format!("{{image: '{}/{name}'}}", first.host);
    // The first package owns the tag, so the copy gets a name with a checksum.
    cluster.apply(&package("registry", &second.host, &[&copy], "naming: Jackal"));
    let copied = cluster.ready("registry").await.status.unwrap();
    assert_eq!(copied.images[0].digest, status.images[0].digest);
    check("the controller, registry to registry", controller.peak_memory());
    drop((first, second));

    let (third, folder) = (TestRegistry::start(Version::V31), tempfile::tempdir().unwrap());
    let file = folder.path().join("package.yaml");
    std::fs::write(
        &file,
        package(
            "engine",
            "unused.invalid",
            &[&docker],
            "naming: Plain\n  compression: None",
        ),
    )
    .unwrap();
    let log: PathBuf = folder.path().join("log");
    let arguments = [
        "build",
        file.to_str().unwrap(),
        "--to",
        &third.host,
        "--insecure",
        // The agent read from the engine's folder; this process reads its export.
        "--docker-root",
        "/nowhere",
        "--docker-host",
    ];
    let docker = required("JACKAL_DOCKER20");
    let mut build = Operator::start(&[&arguments[..], &[&docker]].concat(), &[], log);
    let (code, peak) = build.ends_with_peak(SOON).await;
    assert!(code.success(), "{}", build.log());
    check("build, docker's export to registry", peak);
    let place = status.images[0].name.strip_prefix(&format!("{ADDRESS}/")).unwrap();
    let existing = third.crane("digest", place);
    assert_eq!(Some(existing.trim()), status.images[0].digest.as_deref());
    engine.run(&["image", "rm", "--force", &name]);
}
