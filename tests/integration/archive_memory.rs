//! The memory that commands need for a large image.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use bytes::Bytes;
use jackal_operator::archive::format::{SeekTable, header as header_frame, stored};
use jackal_operator::archive::{Header, Packed};
use jackal_operator::oci::{Descriptor, Digest, Document, Hasher, Manifest, media_type};
use serde_json::json;

use crate::support::workspace::Workspace;

/// The content of the longest frames that are read.
const FRAME: usize = 8 << 20;
/// The frames of the layer.
const FRAMES: usize = 75;
/// The most resident memory in bytes, that of the code of an unoptimised program included.
const LIMIT: u64 = 128_000_000;

/// The content of a frame: text that can be compressed.
fn text(frame: usize) -> Vec<u8> {
    let line = |at: usize| format!("{frame} {at} the layer of an image\n").into_bytes();
    let mut text: Vec<u8> = (0..FRAME / 24).flat_map(line).collect();
    text.truncate(FRAME);
    text
}

/// The header of a file in a tar (POSIX pax, "ustar Interchange Format").
fn tar_header(path: &str, size: usize) -> Vec<u8> {
    let mut header = vec![0; 512];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, path);
    put(100, "0000644\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{size:011o}\0"));
    put(136, "00000000000\0");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

/// Writes a package file with the image `r.example/big:1` into `shop.tar.zst`. Its layer is compressed in the longest frames.
fn write_package(workspace: &Workspace) {
    let frames: Vec<Vec<u8>> = (0..FRAMES).map(text).collect();
    let size = FRAMES * FRAME;
    let mut hasher = Hasher::sha256();
    frames.iter().for_each(|frame| hasher.update(frame));
    let layer = hasher.finish();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {}, "rootfs": { "type": "layers", "diff_ids": [layer] },
    });
    let config = Bytes::from(config.to_string());
    let described = Descriptor::new(media_type::OCI_CONFIG, Digest::of(&config), config.len() as u64);
    let layer_blob = Descriptor::new("application/vnd.oci.image.layer.v1.tar", layer.clone(), size as u64);
    let manifest = Document::of_manifest(Manifest::new(described, vec![layer_blob])).unwrap();
    let mut entry = serde_json::to_value(&manifest.descriptor).unwrap();
    entry["annotations"] = json!({ "org.opencontainers.image.ref.name": "r.example/big:1" });
    let index = Bytes::from(json!({ "schemaVersion": 2, "manifests": [entry] }).to_string());
    let blob = |digest: &Digest| format!("images/blobs/sha256/{}", digest.hex());
    let small = [
        ("images/index.json".to_owned(), index),
        (blob(manifest.digest()), manifest.raw.clone()),
        (blob(&Digest::of(&config)), config),
    ];
    let mut tar = Vec::new();
    let mut files: Vec<(String, Digest, u64)> = Vec::new();
    for (path, content) in small {
        tar.extend(tar_header(&path, content.len()));
        tar.extend_from_slice(&content);
        tar.resize(tar.len().next_multiple_of(512), 0);
        files.push((path, Digest::of(&content), content.len() as u64));
    }
    tar.extend(tar_header(&blob(&layer), size));
    files.push((blob(&layer), layer.clone(), size as u64));
    let layers = files.into_iter().map(|(path, digest, size)| Descriptor {
        annotations: [("org.opencontainers.image.title".to_owned(), path)].into(),
        ..Descriptor::new("application/vnd.zarf.layer.v1.blob", digest, size)
    });
    let package = json!({ "metadata": { "name": "shop", "version": "1", "architecture": "amd64" } }).to_string();
    let config = Descriptor::new(
        "application/vnd.zarf.config.v1+json",
        Digest::of(package.as_bytes()),
        package.len() as u64,
    );
    let header = Header {
        packages: vec![Packed {
            manifest: Document::of_manifest(Manifest::new(config, layers.collect())).unwrap(),
            config: package.into(),
            omitted: Default::default(),
        }],
    };
    let (mut file, mut table) = (
        File::create(workspace.path("shop.tar.zst")).unwrap(),
        SeekTable::default(),
    );
    let mut write = |frame: &[u8], content: usize| {
        table.push(frame.len(), content).unwrap();
        file.write_all(frame).unwrap();
    };
    write(&header_frame(&header.encode()).unwrap(), 0);
    write(&stored(&tar), tar.len());
    for frame in &frames {
        write(&zstd::bulk::compress(frame, 1).unwrap(), FRAME);
    }
    write(&stored(&[0; 1024]), 1024);
    file.write_all(&table.frame().unwrap()).unwrap();
}

/// The largest resident memory of a process until now, in bytes.
fn peak(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[test]
fn unpack_needs_bounded_memory_whatever_the_frames_are() {
    let workspace = Workspace::new();
    write_package(&workspace);
    for format in ["oci-archive", "docker-archive"] {
        let mut unpack = Command::new(env!("CARGO_BIN_EXE_jackal-operator"))
            .args([
                "unpack",
                "shop.tar.zst",
                "--format",
                format,
                "--platform",
                "linux/amd64",
                "-",
            ])
            .current_dir(workspace.path("."))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut output = unpack.stdout.take().unwrap();
        // Before its end it waits for its reader, so its memory can be read.
        let most = (FRAMES - 2) * FRAME;
        let read = std::io::copy(&mut (&mut output).take(most as u64), &mut std::io::sink()).unwrap();
        assert_eq!(read, most as u64, "{format}");
        let needed = peak(unpack.id());
        std::io::copy(&mut output, &mut std::io::sink()).unwrap();
        assert!(unpack.wait().unwrap().success(), "{format}");
        println!("{format}: {} MB", needed / 1_000_000);
        assert!(needed > 1_000_000 && needed < LIMIT, "{format} needed {needed} bytes");
    }
}
