use std::os::unix::fs::symlink;

use super::*;

const CONTENT: &[u8] = b"the content of a file";

fn digest(bytes: &[u8]) -> Sha256Digest {
    Sha256::digest(bytes).into()
}

/// The text of a list of files with their contents.
fn list(files: &[(&str, &[u8])]) -> String {
    let listed = files.iter().map(|(name, content)| ListedFile {
        name: (*name).to_owned(),
        size: content.len() as u64,
        digest: digest(content),
    });
    FileList::new(listed.collect()).unwrap().to_text()
}

fn open(directory: &Path, list: &str) -> Store {
    Store::open(directory, digest(list.as_bytes())).unwrap()
}

/// Receives `content` as the rest of the file.
fn receive(store: &mut Store, index: u64, offset: u64, content: &[u8]) -> Result<(), Refused> {
    let (mut partial, missing) = store.receive(index, offset)?;
    assert_eq!(missing, content.len() as u64);
    partial.write(content)?;
    store.finish(partial.verify()?)
}

#[test]
fn files_are_received_in_pieces_and_verified_again_when_opened() {
    let directory = tempfile::tempdir().unwrap();
    let list = list(&[("bin/program", CONTENT), ("empty", b"")]);
    let mut store = open(directory.path(), &list);
    assert_eq!(store.presence().unwrap(), None);
    store.set_list(list.as_bytes()).unwrap();
    let (mut partial, missing) = store.receive(0, 0).unwrap();
    assert_eq!((partial.name(), missing), ("bin/program", CONTENT.len() as u64));
    partial.write(&CONTENT[..5]).unwrap();
    drop(partial);

    let mut store = open(directory.path(), &list);
    assert_eq!(
        store.presence().unwrap().unwrap(),
        [Presence::Partial(5), Presence::Partial(0)]
    );
    assert!(matches!(store.receive(0, 4), Err((Refusal::Offset, _))));
    assert!(matches!(store.receive(2, 0), Err((Refusal::Command, _))));
    receive(&mut store, 0, 5, &CONTENT[5..]).unwrap();
    assert!(!store.is_complete() && !directory.path().join("empty").exists());
    receive(&mut store, 1, 0, b"").unwrap();
    assert!(store.is_complete());
    assert!(matches!(
        store.receive(0, CONTENT.len() as u64),
        Err((Refusal::Offset, _))
    ));
    let program = directory.path().join("bin/program");
    assert_eq!(fs::read(&program).unwrap(), CONTENT);
    assert_eq!(fs::metadata(&program).unwrap().permissions().mode() & 0o777, 0o555);
    assert!(open(directory.path(), &list).is_complete());

    fs::remove_file(&program).unwrap();
    fs::write(&program, vec![b'x'; CONTENT.len()]).unwrap();
    let store = open(directory.path(), &list);
    assert_eq!(
        store.presence().unwrap().unwrap(),
        [Presence::Partial(0), Presence::Complete]
    );
    assert!(!program.exists());
}

#[test]
fn a_wrong_digest_discards_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let list = list(&[("a", CONTENT)]);
    let mut store = open(directory.path(), &list);
    store.set_list(list.as_bytes()).unwrap();
    let wrong = vec![b'x'; CONTENT.len()];
    assert!(matches!(receive(&mut store, 0, 0, &wrong), Err((Refusal::Digest, _))));
    assert_eq!(store.presence().unwrap().unwrap(), [Presence::Partial(0)]);
    assert!(!directory.path().join("a").exists());
    receive(&mut store, 0, 0, CONTENT).unwrap();
    assert!(store.is_complete());
}

/// A machine that crashes may have all bytes of a file that has no name yet, or others, or more.
#[test]
fn what_was_received_is_finished_or_discarded_when_opened() {
    let more = [CONTENT, b"x"].concat();
    for (received, complete) in [(CONTENT, true), (&[b'x'; CONTENT.len()], false), (&more, false)] {
        let directory = tempfile::tempdir().unwrap();
        let list = list(&[("a/b", CONTENT)]);
        open(directory.path(), &list).set_list(list.as_bytes()).unwrap();
        fs::write(directory.path().join(".seed/0"), received).unwrap();
        let store = open(directory.path(), &list);
        assert_eq!(store.is_complete(), complete, "{received:?}");
        let left = directory.path().join(".seed/0");
        assert!(!left.exists());
    }
}

#[test]
fn links_and_directories_are_no_files() {
    let directory = tempfile::tempdir().unwrap();
    let list = list(&[("a", CONTENT), ("b", CONTENT)]);
    let elsewhere = directory.path().join("elsewhere");
    fs::write(&elsewhere, CONTENT).unwrap();
    symlink(&elsewhere, directory.path().join("a")).unwrap();
    fs::create_dir(directory.path().join("b")).unwrap();
    let mut store = open(directory.path(), &list);
    store.set_list(list.as_bytes()).unwrap();
    receive(&mut store, 0, 0, CONTENT).unwrap();
    receive(&mut store, 1, 0, CONTENT).unwrap();
    for name in ["a", "b"] {
        assert!(fs::symlink_metadata(directory.path().join(name)).unwrap().is_file());
    }
}

#[test]
fn another_list_is_refused_and_does_not_keep_what_belonged_to_one() {
    let directory = tempfile::tempdir().unwrap();
    let one = list(&[("a", CONTENT)]);
    let other = list(&[("a", b"other content")]);
    let mut store = open(directory.path(), &one);
    assert!(matches!(store.set_list(other.as_bytes()), Err((Refusal::List, _))));
    assert!(matches!(store.set_list(b""), Err((Refusal::List, _))));
    store.set_list(one.as_bytes()).unwrap();
    let (mut partial, _) = store.receive(0, 0).unwrap();
    partial.write(b"the").unwrap();
    drop(partial);
    let mut store = open(directory.path(), &other);
    assert_eq!(store.presence().unwrap(), None);
    store.set_list(other.as_bytes()).unwrap();
    assert_eq!(store.presence().unwrap().unwrap(), [Presence::Partial(0)]);
}

#[test]
fn a_list_whose_names_lead_elsewhere_is_refused_whatever_its_digest() {
    let directory = tempfile::tempdir().unwrap();
    let text = format!("jackal-seed-files 1\n{} 1 ../a\n", "ab".repeat(32));
    let mut store = open(directory.path(), &text);
    assert!(matches!(store.set_list(text.as_bytes()), Err((Refusal::List, _))));
}

#[test]
fn files_that_do_not_fit_are_refused_before_anything_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let files = (0..1000).map(|number| ListedFile {
        name: number.to_string(),
        size: 1 << 40,
        digest: [1; 32],
    });
    let text = FileList::new(files.collect()).unwrap().to_text();
    let mut store = open(directory.path(), &text);
    let refused = store.set_list(text.as_bytes());
    assert!(
        matches!(&refused, Err((Refusal::NoSpace, why)) if why.contains("1099511627776000 bytes")),
        "{refused:?}"
    );
    assert_eq!(store.presence().unwrap(), None);
}
