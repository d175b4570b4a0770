//! Opening files beneath a folder, and nowhere else.
//!
//! A layer is made by a stranger. Paths are walked component by component and no symbolic link is followed, so
//! whatever a layer holds, what is opened lies in it. `openat2` would say the same in one call, but kernels
//! before 5.6 and many seccomp profiles lack it, and files that follow each other in a tar mostly lie in one
//! folder, which is kept open here.

use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, openat, statat};
use rustix::io::Errno;

use super::unreadable::{UnreadableReason, shown};

/// Of a path in bytes: no system call takes a longer one.
const PATH_LIMIT: usize = 4096;

/// A folder, and the one beneath it that was used last.
#[derive(Debug)]
pub(crate) struct ConfinedDirectory {
    shown: PathBuf,
    root: OwnedFd,
    last: Option<(Vec<u8>, OwnedFd)>,
    // Reading leaves no trace where the kernel lets us: owners and CAP_FOWNER only.
    unnoticed: OFlags,
}

impl ConfinedDirectory {
    /// The folder at `path`, which is trusted: symbolic links in it are followed.
    pub fn at(path: &Path) -> Result<Self, UnreadableReason> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(root) => Ok(Self::of(path.to_owned(), root)),
            Err(errno) => Err(refused(path, errno)),
        }
    }

    /// A folder beneath this one.
    pub fn folder(&self, path: &str) -> Result<Self, UnreadableReason> {
        let shown = self.shown.join(path);
        let root = descend(&self.root, path.as_bytes()).map_err(|errno| refused(&shown, errno))?;
        match root {
            Some(root) => Ok(Self::of(shown, root)),
            None => Err(refused(&shown, Errno::INVAL)),
        }
    }

    /// The regular file at `name` and its length in bytes. A leading `/` or `./` means this folder, as it does
    /// in a tar.
    pub fn file(&mut self, name: &[u8]) -> Result<(File, u64), UnreadableReason> {
        self.open(name).map_err(|errno| {
            let name = shown(name);
            refused(&self.shown.join(name.trim_start_matches('/')), errno)
        })
    }

    /// The same, or `None` when there is nothing of that name.
    pub fn find(&mut self, name: &str) -> Result<Option<(File, u64)>, UnreadableReason> {
        match self.open(name.as_bytes()) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(refused(&self.shown.join(name), errno)),
        }
    }

    fn of(shown: PathBuf, root: OwnedFd) -> Self {
        Self {
            shown,
            root,
            last: None,
            unnoticed: OFlags::NOATIME,
        }
    }

    /// The same as [`ConfinedDirectory::file`], with the bare reason.
    pub fn open(&mut self, name: &[u8]) -> Result<(File, u64), Errno> {
        if name.len() > PATH_LIMIT {
            return Err(Errno::NAMETOOLONG);
        }
        let end = name.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
        let (parent, base) = name.split_at(end);
        if matches!(base, b"" | b"." | b"..") {
            return Err(Errno::ISDIR);
        }
        if self.last.as_ref().is_none_or(|(known, _)| known != parent) {
            self.last = match self.last.take() {
                // One step down is the common case when folders are deep.
                Some((known, folder)) if !known.is_empty() && parent.starts_with(&known) => {
                    let below = descend(&folder, &parent[known.len()..])?;
                    Some((parent.to_owned(), below.unwrap_or(folder)))
                }
                _ => descend(&self.root, parent)?.map(|folder| (parent.to_owned(), folder)),
            };
        }
        let folder = self.last.as_ref().map_or(&self.root, |(_, folder)| folder);
        // Opening a device may do something, so it is looked at first. What it became in between does no harm:
        // nothing here waits for a FIFO.
        let found = statat(folder, base, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(found.st_mode) {
            FileType::RegularFile => {}
            FileType::Symlink => return Err(Errno::LOOP),
            _ => return Err(Errno::INVAL),
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = match openat(folder, base, flags | self.unnoticed, Mode::empty()) {
            Err(Errno::PERM) if !self.unnoticed.is_empty() => {
                self.unnoticed = OFlags::empty();
                openat(folder, base, flags, Mode::empty())?
            }
            opened => opened?,
        };
        let length = u64::try_from(found.st_size).map_err(|_| Errno::OVERFLOW)?;
        Ok((File::from(file), length))
    }
}

// The folder at `path` beneath `from`; `None` when that is `from` itself.
fn descend(from: &OwnedFd, path: &[u8]) -> Result<Option<OwnedFd>, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut folder: Option<OwnedFd> = None;
    for component in path.split(|&byte| byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => return Err(Errno::XDEV),
            name => {
                let next = openat(folder.as_ref().unwrap_or(from), name, flags, Mode::empty());
                folder = Some(next.map_err(|errno| match errno {
                    // What O_DIRECTORY says of a symbolic link that is not followed.
                    Errno::NOTDIR => Errno::LOOP,
                    other => other,
                })?);
            }
        }
    }
    Ok(folder)
}

fn refused(path: &Path, errno: Errno) -> UnreadableReason {
    let path = path.display();
    UnreadableReason::new(match errno {
        Errno::NOENT => format!("{path} is not there"),
        Errno::ACCESS | Errno::PERM => {
            format!("{path} may not be read by this process, which takes CAP_DAC_READ_SEARCH")
        }
        Errno::LOOP => format!("a part of {path} is a link or no folder"),
        Errno::XDEV => format!("{path} leads out of its folder"),
        Errno::INVAL | Errno::ISDIR => format!("{path} is no regular file"),
        other => format!("{path} cannot be opened ({})", std::io::Error::from(other)),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::symlink;

    use super::*;

    fn read(beneath: &mut ConfinedDirectory, name: &[u8]) -> Result<String, String> {
        let (mut file, length) = beneath.file(name).map_err(|doubt| doubt.to_string())?;
        let mut content = String::new();
        file.read_to_string(&mut content).unwrap();
        assert_eq!(content.len() as u64, length);
        Ok(content)
    }

    #[test]
    fn opens_what_lies_beneath_and_nothing_else() {
        let outside = tempfile::tempdir().unwrap();
        let layer = outside.path().join("layer");
        std::fs::create_dir_all(layer.join("a/b/c")).unwrap();
        std::fs::write(outside.path().join("secret"), "secret").unwrap();
        for name in ["top", "a/one", "a/b/two", "a/b/three", "a/b/c/four"] {
            std::fs::write(layer.join(name), name).unwrap();
        }
        let odd = std::ffi::OsStr::from_bytes(b"a/\xff");
        std::fs::write(layer.join(odd), "odd").unwrap();
        symlink("..", layer.join("up")).unwrap();
        symlink("b", layer.join("a/within")).unwrap();
        symlink("../secret", layer.join("out")).unwrap();
        symlink("/etc/passwd", layer.join("a/absolute")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, layer.join("fifo"), Mode::RUSR).unwrap();

        let mut beneath = ConfinedDirectory::at(&layer).unwrap();
        for name in [
            "a/b/two",
            "a/b/three",
            "a/b/c/four",
            "a/one",
            "top",
            "./top",
            "/a/one",
            "a//b/./two",
        ] {
            let expected = name.replace("//", "/").replace("/./", "/");
            let expected = expected.trim_start_matches("./").trim_start_matches('/');
            assert_eq!(read(&mut beneath, name.as_bytes()).unwrap(), expected, "{name}");
        }
        assert_eq!(read(&mut beneath, b"a/\xff").unwrap(), "odd");
        for (name, why) in [
            ("../secret", "leads out"),
            ("a/../top", "leads out"),
            ("/../secret", "leads out"),
            ("up/secret", "a link"),
            ("a/within/two", "a link"),
            ("out", "a link"),
            ("a/absolute", "a link"),
            ("/etc/passwd", "not there"),
            ("fifo", "no regular file"),
            ("a/b", "no regular file"),
            ("a/", "no regular file"),
            ("", "no regular file"),
            ("..", "no regular file"),
            ("top/x", "a link or no folder"),
            ("a/none", "not there"),
        ] {
            let doubt = read(&mut beneath, name.as_bytes()).unwrap_err();
            assert!(doubt.contains(why), "{name}: {doubt}");
        }
        let long = vec![b'x'; PATH_LIMIT + 1];
        assert!(read(&mut beneath, &long).unwrap_err().contains("too long"));
        // A refusal leaves nothing behind that the next name would be sought in.
        assert_eq!(read(&mut beneath, b"top").unwrap(), "top");
    }
}
