//! The directory of a seed: complete files under their names, and what is there of the others.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::statvfs;
use sha2::{Digest as _, Sha256};

use crate::file_list::{FileList, ListedFile, MAX_LIST, Sha256Digest};
use crate::protocol::{Presence, Refusal};

/// What is received is kept in this directory below that of the seed. No name of a list begins with a dot.
const RECEIVED: &str = ".seed";
/// The list, in [`RECEIVED`].
const LIST: &str = "list";
/// Bytes that are read from a disk at once.
const BUFFER: usize = 64 * 1024;
/// Space that is left free on the disk, in bytes.
const RESERVE: u64 = 1 << 20;

/// Why the directory does not accept something, with an explanation.
pub type Refused = (Refusal, String);

/// The files that are received.
pub struct Store {
    directory: PathBuf,
    digest: Sha256Digest,
    list: Option<FileList>,
    /// Whether the file with the same position in the list is complete.
    complete: Vec<bool>,
}

impl Store {
    /// Opens the directory, which is created if it does not exist, for the list with the digest `digest`. Everything that it has
    /// is verified: a crash of the machine may have damaged it.
    ///
    /// # Errors
    /// When the directory cannot be read or written.
    pub fn open(directory: &Path, digest: Sha256Digest) -> io::Result<Self> {
        let mut store = Self {
            directory: directory.to_owned(),
            digest,
            list: None,
            complete: Vec::new(),
        };
        let received = directory.join(RECEIVED);
        fs::create_dir_all(&received)?;
        if let Some(list) = store.stored_list()? {
            store.verify(list)?;
        } else {
            // What is there belongs to another list.
            fs::remove_dir_all(&received)?;
            fs::create_dir(&received)?;
        }
        Ok(store)
    }

    /// The same for a directory whose files were just verified.
    ///
    /// # Errors
    /// When the list cannot be read.
    pub fn reopen_complete(directory: &Path, digest: Sha256Digest) -> io::Result<Self> {
        let mut store = Self {
            directory: directory.to_owned(),
            digest,
            list: None,
            complete: Vec::new(),
        };
        store.list = store.stored_list()?;
        store.complete = vec![true; store.files().len()];
        Ok(store)
    }

    /// The digest of the list.
    pub fn digest(&self) -> &Sha256Digest {
        &self.digest
    }

    /// Whether the list and all of its files are there.
    pub fn is_complete(&self) -> bool {
        self.list.is_some() && self.complete.iter().all(|complete| *complete)
    }

    fn files(&self) -> &[ListedFile] {
        self.list.as_ref().map_or(&[], FileList::files)
    }

    /// Accepts the text of the list.
    ///
    /// # Errors
    /// When it has another digest, cannot be used, or the files do not fit on the disk.
    pub fn set_list(&mut self, text: &[u8]) -> Result<(), Refused> {
        if <Sha256Digest>::from(Sha256::digest(text)) != self.digest {
            return Err((
                Refusal::List,
                "the list has another digest than the seed was started with".to_owned(),
            ));
        }
        if self.list.is_some() {
            return Ok(());
        }
        let list = FileList::parse(text).map_err(|error| (Refusal::List, error.to_string()))?;
        self.check_space(list.files().iter().map(|file| file.size).sum())?;
        let partial = self.received("new");
        let written = fs::write(&partial, text).and_then(|()| fs::rename(&partial, self.received(LIST)));
        written.map_err(storage)?;
        // Files of a list of before may be there under the same names.
        self.verify(list).map_err(storage)
    }

    fn check_space(&self, needed: u64) -> Result<(), Refused> {
        let space = statvfs(&self.directory).map_err(|error| storage(error.into()))?;
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        match needed <= free.saturating_sub(RESERVE) {
            true => Ok(()),
            false => Err((
                Refusal::NoSpace,
                format!("the files have {needed} bytes and the disk of the node has {free} bytes free"),
            )),
        }
    }

    /// What is there of each file, in the order of the list; `None` before there is a list.
    ///
    /// # Errors
    /// When a length cannot be read.
    pub fn presence(&self) -> io::Result<Option<Vec<Presence>>> {
        if self.list.is_none() {
            return Ok(None);
        }
        let presence = self
            .complete
            .iter()
            .enumerate()
            .map(|(index, complete)| match complete {
                true => Ok(Presence::Complete),
                false => Ok(Presence::Partial(self.received_length(index)?.unwrap_or(0))),
            });
        presence.collect::<io::Result<_>>().map(Some)
    }

    /// Opens the file with the position `index` to receive its bytes from `offset`, and returns how many are missing.
    ///
    /// # Errors
    /// When there is no such file, or another length of it is present.
    pub fn receive(&self, index: u64, offset: u64) -> Result<(Partial, u64), Refused> {
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        let (Some(file), Some(complete)) = (self.files().get(index), self.complete.get(index)) else {
            return Err((Refusal::Command, "the list has no such file".to_owned()));
        };
        let present = match complete {
            true => file.size,
            false => self.received_length(index).map_err(storage)?.unwrap_or(0),
        };
        if *complete || present != offset || offset > file.size {
            return Err((Refusal::Offset, format!("{present} bytes of {} are present", file.name)));
        }
        let path = self.received(&index.to_string());
        let opened = OpenOptions::new().create(true).append(true).open(&path);
        let partial = Partial {
            file: opened.map_err(storage)?,
            path,
            index,
            expected: file.digest,
            name: file.name.clone(),
        };
        Ok((partial, file.size - offset))
    }

    /// Gives a file that [`Partial::verify`] verified its name.
    ///
    /// # Errors
    /// When that fails.
    pub fn finish(&mut self, verified: Verified) -> Result<(), Refused> {
        let Verified(partial) = verified;
        self.publish(&partial).map_err(storage)?;
        if let Some(complete) = self.complete.get_mut(partial.index) {
            *complete = true;
        }
        Ok(())
    }

    fn publish(&self, partial: &Partial) -> io::Result<()> {
        let path = self.directory.join(&partial.name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        // One of the files is a program.
        fs::set_permissions(&partial.path, Permissions::from_mode(0o555))?;
        fs::rename(&partial.path, path)
    }

    /// Uses `list`, and keeps only what belongs to it.
    fn verify(&mut self, list: FileList) -> io::Result<()> {
        let mut complete = Vec::with_capacity(list.files().len());
        for (index, file) in list.files().iter().enumerate() {
            let found = self.is_intact(file)? || self.finish_received(index, file)?;
            complete.push(found);
        }
        (self.list, self.complete) = (Some(list), complete);
        Ok(())
    }

    /// Whether the file is there under its name with its content; if the content is another, it is removed.
    fn is_intact(&self, file: &ListedFile) -> io::Result<bool> {
        let path = self.directory.join(&file.name);
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        if metadata.is_dir() {
            fs::remove_dir_all(&path)?;
            return Ok(false);
        }
        if metadata.is_file() && metadata.len() == file.size && digest_of(&mut File::open(&path)?)? == file.digest {
            return Ok(true);
        }
        eprintln!("jackal-seed: {} is damaged and is received again", file.name);
        fs::remove_file(&path)?;
        Ok(false)
    }

    /// Publishes what was received of the file, if that is all of it. What cannot be its beginning is removed.
    fn finish_received(&self, index: usize, file: &ListedFile) -> io::Result<bool> {
        match self.received_length(index)? {
            Some(length) if length >= file.size => {}
            _ => return Ok(false),
        }
        let path = self.received(&index.to_string());
        let partial = Partial {
            file: OpenOptions::new().append(true).open(&path)?,
            path,
            index,
            expected: file.digest,
            name: file.name.clone(),
        };
        match partial.verify() {
            Ok(Verified(partial)) => self.publish(&partial).map(|()| true),
            Err((Refusal::Digest, _)) => Ok(false),
            Err((_, explanation)) => Err(io::Error::other(explanation)),
        }
    }

    fn received(&self, name: &str) -> PathBuf {
        self.directory.join(RECEIVED).join(name)
    }

    /// How many bytes of a file were received; `None` if nothing was.
    fn received_length(&self, index: usize) -> io::Result<Option<u64>> {
        match fs::symlink_metadata(self.received(&index.to_string())) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The list in the directory, if it is that of the digest.
    fn stored_list(&self) -> io::Result<Option<FileList>> {
        let file = match File::open(self.received(LIST)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut text = Vec::new();
        file.take(MAX_LIST as u64 + 1).read_to_end(&mut text)?;
        if <Sha256Digest>::from(Sha256::digest(&text)) != self.digest {
            return Ok(None);
        }
        FileList::parse(&text).map(Some).map_err(io::Error::other)
    }
}

/// A file of which some bytes are missing.
#[derive(Debug)]
pub struct Partial {
    file: File,
    path: PathBuf,
    index: usize,
    expected: Sha256Digest,
    name: String,
}

/// A file with the right digest.
#[derive(Debug)]
pub struct Verified(Partial);

impl Partial {
    /// The name of the file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// When they cannot be written. Some of them may be there.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        self.file.write_all(bytes).map_err(storage)
    }

    /// Compares the digest of all bytes, and removes them if it is another one.
    ///
    /// # Errors
    /// When it is another one, or reading fails.
    pub fn verify(self) -> Result<Verified, Refused> {
        // What is on the disk is read, not what passed by: a broken connection leaves no state but that.
        let mut file = File::open(&self.path).map_err(storage)?;
        if digest_of(&mut file).map_err(storage)? == self.expected {
            return Ok(Verified(self));
        }
        fs::remove_file(&self.path).map_err(storage)?;
        Err((
            Refusal::Digest,
            format!("{} has another digest than the list says", self.name),
        ))
    }
}

fn digest_of(file: &mut File) -> io::Result<Sha256Digest> {
    file.seek(SeekFrom::Start(0))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hash.finalize().into()),
            Ok(read) => hash.update(buffer.get(..read).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn storage(error: io::Error) -> Refused {
    let refusal = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Refusal::NoSpace,
        _ => Refusal::Storage,
    };
    (refusal, format!("the directory of the seed: {error}"))
}

#[cfg(test)]
mod tests;
