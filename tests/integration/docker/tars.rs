//! Tars that are difficult to reproduce.

use tokio_tar::{EntryType, Header};

/// A tar built entry by entry, with PAX records.
#[derive(Default)]
pub struct Tar(Vec<u8>);

impl Tar {
    pub fn entry(mut self, kind: EntryType, path: &[u8], mode: u32, link: &str, content: &[u8]) -> Self {
        let mut header = Header::new_ustar();
        header.as_old_mut().name[..path.len()].copy_from_slice(path);
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        header.set_mtime(1_500_000_000);
        if !link.is_empty() {
            header.set_link_name(link).unwrap();
        }
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn file(self, path: &str, content: &[u8]) -> Self {
        self.entry(EntryType::Regular, path.as_bytes(), 0o644, "", content)
    }

    pub fn folder(self, path: &str) -> Self {
        self.entry(EntryType::Directory, path.as_bytes(), 0o755, "", b"")
    }

    /// Records of an extension header for the entry that follows.
    pub fn pax(self, records: &[(&str, &str)]) -> Self {
        let mut text = String::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while rest + length.to_string().len() != length {
                length += 1;
            }
            text.push_str(&format!("{length} {key}={value}\n"));
        }
        self.entry(EntryType::XHeader, b"PaxHeaders/0", 0o644, "", text.as_bytes())
    }

    pub fn end(mut self, zeros: usize) -> Vec<u8> {
        self.0.resize(self.0.len() + zeros, 0);
        self.0
    }
}

/// A tar with all features that are difficult to reproduce.
pub fn unusual_entries() -> Vec<u8> {
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(140));
    Tar::default()
        .folder("d/")
        .file("d/a", b"first")
        .entry(EntryType::Link, b"d/hard", 0o644, "d/a", b"")
        .entry(EntryType::Symlink, b"d/soft", 0o777, "/etc/passwd", b"")
        .entry(EntryType::Symlink, b"up", 0o777, "../../..", b"")
        .entry(EntryType::Fifo, b"d/fifo", 0o600, "", b"")
        .entry(EntryType::Char, b"d/null", 0o600, "", b"")
        .pax(&[("path", &long), ("mtime", "1500000000.123456789")])
        .file("short", b"of a long name")
        .entry(EntryType::Regular, b"d/\xff\xfe-raw", 0o644, "", b"not UTF-8")
        .file("d/\u{e4}<&>\u{2028}\"\\", b"escaped in JSON")
        .entry(EntryType::Regular, b"d/suid", 0o4755, "", b"setuid")
        .pax(&[
            ("SCHILY.xattr.user.colour", "red"),
            // cap_net_bind_service
            (
                "SCHILY.xattr.security.capability",
                "\0\0\0\u{2}\0\u{4}\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
            ),
        ])
        .file("d/attributes", b"with attributes")
        .file("d/empty", b"")
        .file("d/zeros", &vec![0; 5 << 20])
        .entry(EntryType::Regular, b"./d/dotted", 0o644, "", b"dotted")
        .folder("e/")
        .file("e/.wh..wh..opq", b"")
        .file(".wh.gone", b"")
        // GNU tar fills a record; others write more than that.
        .end(1024 * 1024 + 10_240)
}

pub fn many_files(files: usize) -> Vec<u8> {
    let mut tar = Tar::default();
    for at in 0..files {
        if at % 100 == 0 {
            tar = tar.folder(&format!("many/{}/", at / 100));
        }
        let content = vec![at as u8; at % 3000];
        tar = tar.file(&format!("many/{}/{at}", at / 100), &content);
    }
    tar.end(1024)
}
