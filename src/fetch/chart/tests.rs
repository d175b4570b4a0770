use std::io::Write as _;

use super::*;

/// A chart's archive with these files.
async fn packed(files: &[(&str, &[u8])]) -> Bytes {
    let mut builder = tokio_tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tokio_tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, path, *content).await.unwrap();
    }
    let tar = builder.into_inner().await.unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar).unwrap();
    gzip.finish().unwrap().into()
}

async fn why(content: Bytes) -> String {
    let fault = read(&content, &ChartCache::default()).await.unwrap_err();
    assert_eq!(fault.reason, Reason::SourceFailed);
    fault.message
}

#[tokio::test]
async fn the_texts_of_a_chart_are_read() {
    let files: [(&str, &[u8]); 5] = [
        ("podinfo/Chart.yaml", b"name: podinfo\nversion: 1.0.0\nappVersion: 2"),
        ("podinfo/values.yaml", b"image: {repository: x/y}"),
        ("podinfo/templates/a.yaml", b"image: x/z:1"),
        ("podinfo/templates/logo.png", &[0xff; 100]),
        ("podinfo/README.md", b"image: no/no:1"),
    ];
    let content = packed(&files).await;
    let texts = read(&content, &ChartCache::default()).await.unwrap();
    assert_eq!(images_of_chart(&texts, &[]), ["x/y:2", "x/z:1"]);
}

#[tokio::test]
async fn an_invalid_archive_is_refused() {
    assert!(
        why(Bytes::from_static(b"<html>"))
            .await
            .contains("not compressed by gzip")
    );
    assert!(
        why(packed(&[("x/values.yaml", b"a: 1")]).await)
            .await
            .contains("it has no Chart.yaml")
    );
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&[b'x'; 2000]).unwrap();
    assert!(why(gzip.finish().unwrap().into()).await.contains("its tar is broken"));
    let large = vec![b'#'; FILE_LIMIT as usize + 1];
    assert!(
        why(packed(&[("x/values.yaml", &large)]).await)
            .await
            .contains("has more than")
    );
    // A decompression bomb: zeros in a file that is not read.
    let zeros = vec![0; UNPACKED_LIMIT as usize];
    let bomb = packed(&[("x/Chart.yaml", b"name: x\nversion: 1.0.0"), ("x/README.md", &zeros)]).await;
    assert!(why(bomb).await.contains("unpacks to more"));
}

#[test]
fn addresses_in_an_index_are_resolved_against_the_repository() {
    for (base, relative, url) in [
        ("https://h/charts", "index.yaml", "https://h/charts/index.yaml"),
        ("https://h", "a/b-1.0.0+c.tgz", "https://h/a/b-1.0.0+c.tgz"),
        (
            "https://h/charts?token=t",
            "index.yaml",
            "https://h/charts/index.yaml?token=t",
        ),
        ("https://h/charts/?token=t", "../a.tgz", "https://h/a.tgz?token=t"),
        (
            "https://h/charts?token=t",
            "a.tgz?sig=s",
            "https://h/charts/a.tgz?sig=s",
        ),
        ("https://h/charts?token=t", "/a.tgz", "https://h/a.tgz?token=t"),
        // A token is not sent to another host.
        ("https://h/charts?token=t", "https://other/a.tgz", "https://other/a.tgz"),
        ("https://h/charts?token=t", "http://h/a.tgz", "http://h/a.tgz"),
    ] {
        let base = as_directory(Url::parse(base).unwrap());
        assert_eq!(resolve(&base, relative).unwrap().as_str(), url);
    }
    for (written, reference) in [
        ("r.example:5000/a", "r.example:5000/a:1.0.0_b"),
        ("r.example/a:2.0.0+c", "r.example/a:2.0.0_c"),
        ("r.example/a@sha256:00", "r.example/a@sha256:00"),
    ] {
        assert_eq!(with_tag(written, "1.0.0+b"), reference);
    }
}
