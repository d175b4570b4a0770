use super::*;

fn member(kind: EntryType, path: &str, content: &[u8]) -> Vec<u8> {
    let mut header = Header::new_ustar();
    header.set_path(path).unwrap();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_entry_type(kind);
    header.set_cksum();
    let mut member = header.as_bytes().to_vec();
    member.extend_from_slice(content);
    member.resize(member.len().next_multiple_of(BLOCK), 0);
    member
}

fn file(path: &str, content: &[u8]) -> Vec<u8> {
    member(EntryType::Regular, path, content)
}

fn end() -> Vec<u8> {
    vec![0; 2 * BLOCK]
}

// In chunks of an odd length, so that boundaries of chunks and blocks differ.
fn archive(parts: &[Vec<u8>]) -> Archive {
    let chunks: Vec<_> = parts
        .concat()
        .chunks(97)
        .map(|chunk| Ok(Bytes::copy_from_slice(chunk)))
        .collect();
    Archive::new(futures::stream::iter(chunks).boxed())
}

async fn read(parts: &[Vec<u8>]) -> Result<Vec<(Entry, Bytes)>, Fault> {
    let mut archive = archive(parts);
    let mut entries = Vec::new();
    while let Some(entry) = archive.next().await? {
        let content = archive.read_content(None).await?;
        entries.push((entry, content));
    }
    Ok(entries)
}

async fn refused(parts: &[Vec<u8>]) -> String {
    let fault = read(parts).await.unwrap_err();
    assert_eq!(fault.reason, Reason::SourceFailed);
    fault.message
}

#[tokio::test]
async fn returns_complete_entries_in_order() {
    let long = format!("{}/layer.tar", "d".repeat(180));
    let content = vec![7; 5000];
    let pax = format!("{} path={long}\n", long.len() + 10);
    let parts = [
        member(EntryType::Directory, "blobs/", b""),
        file("./a", &content),
        member(EntryType::XHeader, "pax", pax.as_bytes()),
        file("short", b"x"),
        member(EntryType::GNULongName, "././@LongLink", format!("{long}\0").as_bytes()),
        member(EntryType::Symlink, "short", b""),
        end(),
        vec![0; 8192],
    ];
    let entries = read(&parts).await.unwrap();
    let seen: Vec<_> = entries
        .iter()
        .map(|(e, c)| (e.path.as_str(), e.kind, c.len()))
        .collect();
    let expected = [
        ("blobs/", EntryKind::Other, 0),
        ("a", EntryKind::File, 5000),
        (long.as_str(), EntryKind::File, 1),
        (long.as_str(), EntryKind::Link, 0),
    ];
    assert_eq!(seen, expected);
    assert_eq!(entries[1].1, content);
}

#[tokio::test]
async fn an_extension_header_sets_the_size() {
    let mut huge = file("huge", b"12345");
    huge[124..136].copy_from_slice(b"00000000000\0");
    let mut header = Header::new_ustar();
    header.as_mut_bytes().copy_from_slice(&huge[..BLOCK]);
    header.set_cksum();
    huge[..BLOCK].copy_from_slice(header.as_bytes());
    let parts = [member(EntryType::XHeader, "pax", b"9 size=5\n"), huge, end()];
    assert_eq!(read(&parts).await.unwrap()[0].1, "12345");
}

#[tokio::test]
async fn unread_content_is_skipped() {
    let mut archive = archive(&[file("a", &[1; 3000]), file("b", b"b"), end()]);
    archive.next().await.unwrap();
    archive.chunk().await.unwrap();
    assert_eq!(archive.next().await.unwrap().unwrap().path, "b");
    assert!(archive.next().await.unwrap().is_none());
}

#[tokio::test]
async fn a_truncated_archive_is_an_error() {
    let whole = [file("a", &[1; 700]), file("b", b"b"), end()].concat();
    for length in (0..whole.len())
        .step_by(61)
        .chain([BLOCK, whole.len() - BLOCK, whole.len() - 1])
    {
        let message = refused(&[whole[..length].to_vec()]).await;
        assert!(message.contains("not a complete tar"), "{length}: {message}");
    }
}

#[tokio::test]
async fn an_appended_error_is_reported() {
    let error = b"{\"errorDetail\":{\"message\":\"disk is gone\"},\"error\":\"disk is gone\"}\r\n".to_vec();
    let cut = file("a", &[1; 4000])[..1000].to_vec();
    for parts in [
        [cut, error.clone()],
        [file("a", b"a"), error.clone()],
        [[file("a", b"a"), end()].concat(), error],
    ] {
        let message = refused(&parts).await;
        assert!(message.contains("broke off the export: disk is gone"), "{message}");
    }
}

#[tokio::test]
async fn malformed_archives_are_refused() {
    let path = "p".repeat(PATH_LIMIT + 1);
    let long = member(EntryType::GNULongName, "x", path.as_bytes());
    let pax = |text: &[u8]| member(EntryType::XHeader, "pax", text);
    let mut flipped = file("a", b"a");
    flipped[0] ^= 1;
    for (parts, expected) in [
        (vec![file("e", b""); ENTRY_LIMIT + 1], "more entries"),
        (vec![long, file("a", b"")], "an invalid path"),
        (
            vec![pax(&vec![b'x'; EXTENSION_LIMIT as usize + 1])],
            "longer than any image needs",
        ),
        (vec![pax(b"not a record"), file("a", b"")], "cannot be read"),
        (vec![pax(b"0 "), file("a", b"")], "cannot be read"),
        (vec![pax(b"9 size=x\n"), file("a", b"")], "the size"),
        (vec![pax(b""), end()], "followed by the end"),
        (vec![member(EntryType::GNUSparse, "a", b"")], "sparse"),
        (vec![flipped], "checksum"),
        (vec![end(), file("a", b"")], "after its end"),
    ] {
        let message = refused(&parts).await;
        assert!(message.contains(expected), "{message}");
    }
}
