//! The program as a process, and clients that break off.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use jackal_seed::file_list::to_hex;
use jackal_seed::protocol::{self, Answer, Presence, Refusal, parse_greeting};
use jackal_seed::{FileList, ListedFile};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

/// The longest wait for something that happens.
const LIMIT: Duration = Duration::from_secs(20);

/// The file that the seed executes, and others. It says who it is and runs until it is killed.
fn files() -> Vec<(&'static str, Vec<u8>)> {
    let noise = |seed: u32, length: u32| {
        (0..length).map(move |n| (n.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 13) as u8)
    };
    vec![
        ("empty", Vec::new()),
        ("layout/blobs/one", noise(1, 300).collect()),
        ("layout/blobs/two", noise(2, 70).collect()),
        (
            "program",
            b"#!/bin/sh\necho $$ >\"$1.new\"\nmv \"$1.new\" \"$1\"\nexec sleep 1000\n".to_vec(),
        ),
    ]
}

struct Case {
    directory: TempDir,
    contents: Vec<Vec<u8>>,
    text: String,
    process: Option<Child>,
    address: SocketAddr,
}

impl Case {
    fn new(files: Vec<(&str, Vec<u8>)>) -> Self {
        let listed = files.iter().map(|(name, content)| ListedFile {
            name: (*name).to_owned(),
            size: content.len() as u64,
            digest: Sha256::digest(content).into(),
        });
        let list = FileList::new(listed.collect()).unwrap();
        let content = |file: &ListedFile| files.iter().find(|(name, _)| *name == file.name).unwrap().1.clone();
        let mut case = Self {
            directory: tempfile::tempdir().unwrap(),
            contents: list.files().iter().map(content).collect(),
            text: list.to_text(),
            process: None,
            address: free_address(),
        };
        case.start();
        case
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn start(&mut self) {
        let digest: [u8; 32] = Sha256::digest(&self.text).into();
        let process = Command::new(env!("CARGO_BIN_EXE_jackal-seed"))
            .args([
                "--listen",
                &self.address.to_string(),
                "--list",
                &format!("sha256:{}", to_hex(&digest)),
                "--directory",
            ])
            .args([
                self.path("files"),
                "--".into(),
                self.path("files/program"),
                self.path("started"),
            ])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.process = Some(process);
    }

    fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    fn connect(&self) -> Client {
        Client::connect(self.address)
    }

    /// Everything that a client sends that is not interrupted.
    fn session(&self) -> Vec<u8> {
        let mut bytes = format!("list {}\n{}", self.text.len(), self.text).into_bytes();
        for (index, content) in self.contents.iter().enumerate() {
            bytes.extend(format!("file {index} 0\n").bytes());
            bytes.extend(content);
        }
        bytes
    }

    /// What the seed has of each file, when it has all that was sent: `expected` bytes in all.
    fn presence_of(&self, expected: usize) -> Vec<Presence> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let presence = self.connect().files().unwrap_or_default();
            let present = presence
                .iter()
                .zip(&self.contents)
                .map(|(presence, content)| match presence {
                    Presence::Partial(length) => usize::try_from(*length).unwrap(),
                    Presence::Complete => content.len(),
                });
            let present: usize = present.sum();
            if present == expected {
                return presence;
            }
            assert!(
                present < expected && Instant::now() < deadline,
                "{present} of {expected} bytes are there"
            );
        }
    }

    /// Sends what is missing by one connection.
    fn finish(&self) {
        let mut client = self.connect();
        let presence = match client.files() {
            Some(presence) => presence,
            None => {
                client.send(format!("list {}\n{}", self.text.len(), self.text).as_bytes());
                assert_eq!(client.answer(), Answer::Done);
                client.files().unwrap()
            }
        };
        for (index, presence) in presence.iter().enumerate() {
            if let Presence::Partial(offset) = presence {
                client.send(format!("file {index} {offset}\n").as_bytes());
                client.send(&self.contents[index][usize::try_from(*offset).unwrap()..]);
                assert_eq!(client.answer(), Answer::Done);
            }
        }
    }

    /// Waits until the program was executed, in the process of the seed.
    fn assert_executed(&self) {
        let path = self.path("started");
        until(|| path.exists());
        let process: u32 = fs::read_to_string(&path).unwrap().trim().parse().unwrap();
        assert_eq!(process, self.process.as_ref().unwrap().id());
        for (line, content) in self.text.lines().skip(1).zip(&self.contents) {
            let name = line.split(' ').nth(2).unwrap();
            assert_eq!(&fs::read(self.path("files").join(name)).unwrap(), content, "{name}");
        }
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        if self.process.is_some() {
            self.kill();
        }
    }
}

struct Client(BufReader<TcpStream>);

impl Client {
    /// Connects, also while the seed starts.
    fn connect(address: SocketAddr) -> Self {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Ok(stream) = TcpStream::connect(address) {
                stream.set_read_timeout(Some(LIMIT)).unwrap();
                let mut client = Self(BufReader::new(stream));
                // A connection that was accepted while the seed executed its program breaks.
                if parse_greeting(&client.line()).is_some() {
                    return client;
                }
            }
            assert!(Instant::now() < deadline, "{address} does not answer");
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        let _ = self.0.read_line(&mut line);
        line.trim_end_matches('\n').to_owned()
    }

    fn answer(&mut self) -> Answer {
        let line = self.line();
        Answer::parse(&line).unwrap_or_else(|| panic!("{line:?} is no answer"))
    }

    /// `None` if the seed has no list yet.
    fn files(&mut self) -> Option<Vec<Presence>> {
        self.send(b"files\n");
        match self.answer() {
            Answer::Files(count) => Some((0..count).map(|_| Presence::parse(&self.line()).unwrap()).collect()),
            Answer::Refused(Refusal::NoList, _) => None,
            other => panic!("{other:?}"),
        }
    }

    /// Whether the seed ends the connection.
    fn is_ended(&mut self) -> bool {
        match self.0.read(&mut [0]) {
            Ok(read) => read == 0,
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        }
    }
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "it did not happen in {LIMIT:?}");
        std::thread::yield_now();
    }
}

/// The files in a directory, with its directories.
fn listing(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(listing(&path));
        } else {
            found.push(path.display().to_string());
        }
    }
    found.sort();
    found
}

#[test]
fn after_a_client_breaks_off_at_any_byte_another_one_continues_there() {
    let case = Case::new(files());
    let session = case.session();
    drop(case);
    for cut in (0..session.len()).step_by(11) {
        let mut case = Case::new(files());
        let mut client = case.connect();
        client.send(&session[..cut]);
        client.0.get_ref().shutdown(Shutdown::Write).unwrap();
        // It reads all that was sent.
        let mut answers = String::new();
        client.0.read_to_string(&mut answers).unwrap();
        if cut % 2 == 1 {
            case.kill();
            case.start();
        }
        let presence = case.connect().files();
        let accepted = cut >= format!("list {}\n{}", case.text.len(), case.text).len();
        assert_eq!(presence.is_some(), accepted, "at {cut}");
        if accepted {
            case.presence_of(content_before(&case, cut));
        }
        case.finish();
        case.assert_executed();
        assert_eq!(listing(&case.path("files")).len(), case.contents.len() + 1, "at {cut}");
    }
}

/// The bytes of files among the first `cut` bytes of a session.
fn content_before(case: &Case, cut: usize) -> usize {
    let mut position = format!("list {}\n{}", case.text.len(), case.text).len();
    let mut found = 0;
    for (index, content) in case.contents.iter().enumerate() {
        position += format!("file {index} 0\n").len();
        found += cut.saturating_sub(position).min(content.len());
        position += content.len();
    }
    found
}

#[test]
fn a_seed_whose_directory_has_all_files_executes_its_program_at_once() {
    let mut case = Case::new(files());
    case.finish();
    case.assert_executed();
    for _ in 0..2 {
        case.kill();
        fs::remove_file(case.path("started")).unwrap();
        case.start();
        case.assert_executed();
    }
    // A damaged file is received again.
    case.kill();
    fs::remove_file(case.path("started")).unwrap();
    fs::remove_file(case.path("files/layout/blobs/one")).unwrap();
    fs::write(case.path("files/layout/blobs/one"), vec![0; 300]).unwrap();
    case.start();
    let presence = case.connect().files().unwrap();
    assert_eq!(
        presence
            .iter()
            .filter(|presence| **presence == Presence::Partial(0))
            .count(),
        1
    );
    assert!(!case.path("started").exists());
    case.finish();
    case.assert_executed();
}

#[test]
fn clients_are_answered_while_the_program_runs_and_no_longer() {
    let mut case = Case::new(files());
    case.finish();
    case.assert_executed();
    let presence = case.connect().files().unwrap();
    assert!(
        presence.iter().all(|presence| *presence == Presence::Complete),
        "{presence:?}"
    );
    let mut client = case.connect();
    client.send(b"file 0 0\n");
    assert!(matches!(client.answer(), Answer::Refused(Refusal::Offset, _)));
    case.kill();
    until(|| TcpStream::connect(case.address).is_err());
}

#[test]
fn a_file_with_another_digest_is_discarded_and_reported() {
    let case = Case::new(files());
    let mut client = case.connect();
    client.send(format!("list {}\n{}", case.text.len(), case.text).as_bytes());
    assert_eq!(client.answer(), Answer::Done);
    client.send(b"file 1 0\n");
    client.send(&[7; 300]);
    let answer = client.answer();
    assert!(
        matches!(&answer, Answer::Refused(Refusal::Digest, why) if why.contains("layout/blobs/one")),
        "{answer:?}"
    );
    assert!(client.is_ended());
    assert_eq!(case.presence_of(0)[1], Presence::Partial(0));
    assert!(!case.path("files/layout/blobs/one").exists());
    case.finish();
    case.assert_executed();
}

#[test]
fn wrong_commands_are_refused() {
    let case = Case::new(files());
    let text = case.text.replacen(" 70 ", " 71 ", 1);
    for (sent, refusal) in [
        ("GET / HTTP/1.1\n".to_owned(), Refusal::Command),
        ("file 0 0\n".to_owned(), Refusal::Command),
        ("list 999999\n".to_owned(), Refusal::List),
        (format!("list {}\n{text}", text.len()), Refusal::List),
    ] {
        let mut client = case.connect();
        client.send(sent.as_bytes());
        let answer = client.answer();
        assert!(
            matches!(&answer, Answer::Refused(other, _) if *other == refusal),
            "{sent:?}: {answer:?}"
        );
        assert!(client.is_ended());
    }
    let mut client = case.connect();
    client.send(&[b'a'; protocol::MAX_LINE + 1]);
    assert!(client.is_ended());
    case.finish();
    // A connection that is accepted before ends with the execution.
    case.assert_executed();
    let mut client = case.connect();
    client.send(b"file 9 0\n");
    assert!(matches!(client.answer(), Answer::Refused(Refusal::Command, _)));
}

/// What broken tunnels leave behind is in nobody's way.
#[test]
fn a_new_connection_ends_the_oldest_and_the_one_that_receives() {
    let case = Case::new(files());
    let mut first = case.connect();
    first.send(format!("list {}\n{}file 1 0\n", case.text.len(), case.text).as_bytes());
    first.send(&case.contents[1][..100]);
    let mut second = case.connect();
    case.presence_of(100);
    second.send(b"file 1 100\n");
    assert_eq!(first.answer(), Answer::Done);
    assert!(first.is_ended());
    second.send(&case.contents[1][100..200]);
    case.presence_of(200);
    let mut others: Vec<Client> = (0..8).map(|_| case.connect()).collect();
    assert!(second.is_ended());
    assert_eq!(others[0].files().unwrap()[1], Presence::Partial(200));
    case.finish();
    case.assert_executed();
}

#[test]
fn a_signal_ends_the_seed_also_as_the_first_process_of_a_container() {
    let mut case = Case::new(files());
    drop(case.connect());
    let mut process = case.process.take().unwrap();
    let sent = Command::new("kill").arg(process.id().to_string()).status().unwrap();
    assert!(sent.success());
    assert_eq!(process.wait().unwrap().code(), Some(143));
}

#[test]
fn memory_is_bounded() {
    let large: Vec<u8> = (0..40_000_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 17) as u8)
        .collect();
    let mut all = files();
    all.push(("layout/blobs/large", large));
    let case = Case::new(all);
    let mut waiting: Vec<Client> = (0..7).map(|_| case.connect()).collect();
    let memory = format!("/proc/{}/status", case.process.as_ref().unwrap().id());
    // All files but the last one: the memory is read before the program is executed.
    let mut client = case.connect();
    client.send(format!("list {}\n{}", case.text.len(), case.text).as_bytes());
    assert_eq!(client.answer(), Answer::Done);
    for (index, content) in case.contents.iter().enumerate().skip(1) {
        client.send(format!("file {index} 0\n").as_bytes());
        client.send(content);
        assert_eq!(client.answer(), Answer::Done);
    }
    let status = fs::read_to_string(memory).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kilobytes: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kilobytes < 4096, "{kilobytes} kB");
    assert_eq!(waiting[0].files().unwrap()[0], Presence::Partial(0));
    case.finish();
    case.assert_executed();
}
