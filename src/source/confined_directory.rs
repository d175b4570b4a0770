//! Opens files in a directory and its subdirectories only.
//!
//! The author of a layer is not trusted. Paths are walked component by component and no symbolic link is followed, so
//! every file that is opened is in the directory. `openat2` does the same in one call, but kernels before 5.6 and many
//! seccomp profiles lack it, and consecutive files of a tar are mostly in one directory, which is kept open here.

use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, openat, statat};
use rustix::io::Errno;

use super::unreadable::{UnreadableReason, printable_name};

/// The longest path in bytes that system calls accept.
const PATH_LIMIT: usize = 4096;

/// A directory, and the subdirectory that was used last.
#[derive(Debug)]
pub(crate) struct ConfinedDirectory {
    path: PathBuf,
    root: OwnedFd,
    last: Option<(Vec<u8>, OwnedFd)>,
    // Access times are not changed where the kernel allows that: for owners and CAP_FOWNER only.
    no_atime: OFlags,
}

impl ConfinedDirectory {
    /// The directory at `path`, which is trusted: symbolic links in it are followed.
    pub fn open(path: &Path) -> Result<Self, UnreadableReason> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(root) => Ok(Self::new(path.to_owned(), root)),
            Err(errno) => Err(unreadable(path, errno)),
        }
    }

    /// A subdirectory.
    pub fn directory(&self, path: &str) -> Result<Self, UnreadableReason> {
        let full_path = self.path.join(path);
        let root = descend(&self.root, path.as_bytes()).map_err(|errno| unreadable(&full_path, errno))?;
        match root {
            Some(root) => Ok(Self::new(full_path, root)),
            None => Err(unreadable(&full_path, Errno::INVAL)),
        }
    }

    /// The same directory, for another thread.
    pub fn try_clone(&self) -> Result<Self, UnreadableReason> {
        match self.root.try_clone() {
            Ok(root) => Ok(Self::new(self.path.clone(), root)),
            Err(error) => Err(UnreadableReason::new(format!(
                "{} cannot be opened again: {error}",
                self.path.display()
            ))),
        }
    }

    /// The regular file at `name` and its length in bytes. A leading `/` or `./` means this directory, as
    /// in a tar.
    pub fn file(&mut self, name: &[u8]) -> Result<(File, u64), UnreadableReason> {
        self.open_file(name).map_err(|errno| {
            let name = printable_name(name);
            unreadable(&self.path.join(name.trim_start_matches('/')), errno)
        })
    }

    /// The same, or `None` if `name` does not exist.
    pub fn find(&mut self, name: &str) -> Result<Option<(File, u64)>, UnreadableReason> {
        match self.open_file(name.as_bytes()) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(unreadable(&self.path.join(name), errno)),
        }
    }

    fn new(path: PathBuf, root: OwnedFd) -> Self {
        Self {
            path,
            root,
            last: None,
            no_atime: OFlags::NOATIME,
        }
    }

    /// The same as [`ConfinedDirectory::file`], with the error number.
    pub fn open_file(&mut self, name: &[u8]) -> Result<(File, u64), Errno> {
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
                // Mostly the next directory is in the last one.
                Some((known, directory)) if !known.is_empty() && parent.starts_with(&known) => {
                    let below = descend(&directory, &parent[known.len()..])?;
                    Some((parent.to_owned(), below.unwrap_or(directory)))
                }
                _ => descend(&self.root, parent)?.map(|directory| (parent.to_owned(), directory)),
            };
        }
        let directory = self.last.as_ref().map_or(&self.root, |(_, directory)| directory);
        // Opening a device may have effects, so the type is checked first. A file that is replaced in between does no
        // harm: opening does not wait for a FIFO.
        let found = statat(directory, base, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(found.st_mode) {
            FileType::RegularFile => {}
            FileType::Symlink => return Err(Errno::LOOP),
            _ => return Err(Errno::INVAL),
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = match openat(directory, base, flags | self.no_atime, Mode::empty()) {
            Err(Errno::PERM) if !self.no_atime.is_empty() => {
                self.no_atime = OFlags::empty();
                openat(directory, base, flags, Mode::empty())?
            }
            opened => opened?,
        };
        let length = u64::try_from(found.st_size).map_err(|_| Errno::OVERFLOW)?;
        Ok((File::from(file), length))
    }
}

// The directory at `path` in `from`; `None` when that is `from` itself.
fn descend(from: &OwnedFd, path: &[u8]) -> Result<Option<OwnedFd>, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut directory: Option<OwnedFd> = None;
    for component in path.split(|&byte| byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => return Err(Errno::XDEV),
            name => {
                let next = openat(directory.as_ref().unwrap_or(from), name, flags, Mode::empty());
                directory = Some(next.map_err(|errno| match errno {
                    // The error of O_DIRECTORY for a symbolic link that is not followed.
                    Errno::NOTDIR => Errno::LOOP,
                    other => other,
                })?);
            }
        }
    }
    Ok(directory)
}

fn unreadable(path: &Path, errno: Errno) -> UnreadableReason {
    let path = path.display();
    UnreadableReason::new(match errno {
        Errno::NOENT => format!("{path} does not exist"),
        Errno::ACCESS | Errno::PERM => {
            format!("{path} may not be read by this process: it needs CAP_DAC_READ_SEARCH")
        }
        Errno::LOOP => format!("a component of {path} is a link or not a directory"),
        Errno::XDEV => format!("{path} leads out of its directory"),
        Errno::INVAL | Errno::ISDIR => format!("{path} is not a regular file"),
        other => format!("{path} cannot be opened ({})", std::io::Error::from(other)),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::symlink;

    use super::*;

    fn read(directory: &mut ConfinedDirectory, name: &[u8]) -> Result<String, String> {
        let (mut file, length) = directory.file(name).map_err(|reason| reason.to_string())?;
        let mut content = String::new();
        file.read_to_string(&mut content).unwrap();
        assert_eq!(content.len() as u64, length);
        Ok(content)
    }

    #[test]
    fn opens_only_files_in_the_directory() {
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

        let mut directory = ConfinedDirectory::open(&layer).unwrap();
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
            assert_eq!(read(&mut directory, name.as_bytes()).unwrap(), expected, "{name}");
        }
        assert_eq!(read(&mut directory, b"a/\xff").unwrap(), "odd");
        for (name, why) in [
            ("../secret", "leads out"),
            ("a/../top", "leads out"),
            ("/../secret", "leads out"),
            ("up/secret", "a link"),
            ("a/within/two", "a link"),
            ("out", "a link"),
            ("a/absolute", "a link"),
            ("/etc/passwd", "does not exist"),
            ("fifo", "not a regular file"),
            ("a/b", "not a regular file"),
            ("a/", "not a regular file"),
            ("", "not a regular file"),
            ("..", "not a regular file"),
            ("top/x", "a link or not a directory"),
            ("a/none", "does not exist"),
        ] {
            let reason = read(&mut directory, name.as_bytes()).unwrap_err();
            assert!(reason.contains(why), "{name}: {reason}");
        }
        let long = vec![b'x'; PATH_LIMIT + 1];
        assert!(read(&mut directory, &long).unwrap_err().contains("too long"));
        // After an error the next name is not searched in another directory.
        assert_eq!(read(&mut directory, b"top").unwrap(), "top");
    }
}
