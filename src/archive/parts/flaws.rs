//! What is wrong with the parts of an archive: missing, cut, exchanged, of another archive, damaged.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::blocking;
use super::list::{LIST_LIMIT, Part, PartList, START};
use super::name::PartName;
use crate::fault::{Fault, Reason};
use crate::hashing::BackgroundHasher;
use crate::oci::Digest;
use crate::transfer::Progress;

/// Flaws that a message lists.
const SHOWN: usize = 5;
/// Bytes of a part that are read at once.
pub(super) const READ: usize = 1 << 20;

/// What is wrong with a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// There is no such file.
    Missing,
    /// It cannot be read.
    Unreadable(String),
    /// It has another length, in bytes.
    Length {
        /// The length in the list.
        expected: u64,
        /// The length of the file.
        found: u64,
    },
    /// It has the content of this other part.
    Exchanged(PartName),
    /// It has content that the list does not know.
    Content,
    /// The list has fewer parts.
    Unlisted,
}

/// A part that is not as the list says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// The part.
    pub part: PartName,
    /// What is wrong with it.
    pub wrong: Wrong,
}

/// The parts of an archive on disk.
#[derive(Clone, Debug)]
pub struct PartSet {
    /// The path of the archive, which the names of its parts begin with.
    pub archive: PathBuf,
    /// The list of its parts.
    pub list: PartList,
    /// Why the copy of the list was read in place of the list.
    pub list_flaw: Option<String>,
}

impl PartSet {
    /// Reads the list of the parts of `archive`; its copy, where the list is missing or damaged.
    ///
    /// # Errors
    /// A stalled fault, where neither can be read.
    pub async fn open(archive: &Path) -> Result<Self, Fault> {
        let archive = archive.to_owned();
        blocking(move || {
            let fault = match read_list(&archive, PartName::List) {
                Ok(list) => {
                    return Ok(Self {
                        archive,
                        list,
                        list_flaw: None,
                    });
                }
                Err(fault) => fault,
            };
            match read_list(&archive, PartName::ListCopy) {
                Ok(list) => Ok(Self {
                    archive,
                    list,
                    list_flaw: Some(fault.message),
                }),
                Err(_) => Err(fault),
            }
        })
        .await
    }

    /// Reads the copy of the list beside the parts of `archive`.
    ///
    /// # Errors
    /// A stalled fault, where it cannot be read.
    pub async fn open_copy(archive: &Path) -> Result<PartList, Fault> {
        let archive = archive.to_owned();
        blocking(move || read_list(&archive, PartName::ListCopy)).await
    }

    /// The parts of the list, then the parity parts.
    pub fn listed(&self) -> impl Iterator<Item = (PartName, &Part)> {
        let parts = self.list.parts.iter().enumerate();
        let parity = self.list.parity.iter().enumerate();
        parts
            .map(|(at, part)| (PartName::Part(at + 1), part))
            .chain(parity.map(|(at, part)| (PartName::Parity(at + 1), part)))
    }

    /// What the list says about a part.
    pub fn part(&self, name: PartName) -> Option<&Part> {
        let place = |number: usize| number.checked_sub(1);
        match name {
            PartName::Part(number) => self.list.parts.get(place(number)?),
            PartName::Parity(number) => self.list.parity.get(place(number)?),
            PartName::List | PartName::ListCopy => None,
        }
    }

    /// The flaws that show without reading the parts: their number, lengths and first bytes. Parity parts are left out.
    pub async fn flaws(&self) -> Result<Vec<Flaw>, Fault> {
        let set = self.clone();
        blocking(move || {
            let mut flaws: Vec<Flaw> = match set.list.parts.is_empty() {
                true => set.flaws_of_lengths(),
                false => {
                    let parts = set.listed().filter(|(name, _)| matches!(name, PartName::Part(_)));
                    let wrong = parts.filter_map(|(part, listed)| Some((part, set.flaw_of(part, listed)?)));
                    wrong.map(|(part, wrong)| Flaw { part, wrong }).collect()
                }
            };
            flaws.extend(set.unlisted()?);
            Ok(flaws)
        })
        .await
    }

    /// The flaw of a part that shows without reading all of it.
    fn flaw_of(&self, part: PartName, listed: &Part) -> Option<Wrong> {
        let start = match start_of(&part.path(&self.archive)) {
            Ok((size, _)) if size != listed.size => {
                return Some(Wrong::Length {
                    expected: listed.size,
                    found: size,
                });
            }
            Ok((_, start)) => Digest::of(&start),
            Err(error) => return Some(wrong_of(&error)),
        };
        if start == listed.start {
            return None;
        }
        let mut others = self.listed();
        let same = others.find(|(_, other)| other.start == start && other.size == listed.size);
        Some(same.map_or(Wrong::Content, |(name, _)| Wrong::Exchanged(name)))
    }

    /// The flaws of the parts of a list without lengths: all but the last have the same, and the sum is that of the archive.
    fn flaws_of_lengths(&self) -> Vec<Flaw> {
        let numbers = (1..=self.list.count).map(PartName::Part);
        let found: Vec<(PartName, io::Result<u64>)> = numbers
            .map(|part| (part, std::fs::metadata(part.path(&self.archive)).map(|data| data.len())))
            .collect();
        let lengths = || found.iter().filter_map(|(_, length)| length.as_ref().ok());
        let longest = lengths().max().copied().unwrap_or_default();
        let before = longest.checked_mul(self.list.count as u64 - 1);
        let last = before.and_then(|before| self.list.size.checked_sub(before));
        let expected = |part: &PartName| match *part == PartName::Part(self.list.count) {
            true => last.unwrap_or_default(),
            false => longest,
        };
        let flaws = found.iter().filter_map(|(part, length)| {
            let expected = expected(part);
            let wrong = match length {
                Err(error) => wrong_of(error),
                Ok(found) if *found != expected => Wrong::Length {
                    expected,
                    found: *found,
                },
                Ok(_) => return None,
            };
            Some(Flaw { part: *part, wrong })
        });
        flaws.collect()
    }

    /// The files beside the parts that have the name of a part which the list does not have. Zarf refuses a package with such.
    fn unlisted(&self) -> Result<Vec<Flaw>, Fault> {
        let folder = self.archive.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        let failed = |error: io::Error| {
            let message = format!("{} cannot be listed: {error}", folder.display());
            Fault::stalled(Reason::SourceFailed, message)
        };
        let mut flaws = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            match PartName::of(Path::new(&name)) {
                Some((archive, part @ PartName::Part(number)))
                    if number > self.list.count && archive.file_name() == self.archive.file_name() =>
                {
                    flaws.push(Flaw {
                        part,
                        wrong: Wrong::Unlisted,
                    });
                }
                _ => {}
            }
        }
        flaws.sort_by_key(|flaw| flaw.part);
        Ok(flaws)
    }

    /// Reads a part to its end; what is wrong with it. `progress` counts its bytes.
    ///
    /// # Errors
    /// When the runtime shuts down.
    pub async fn verify(&self, part: PartName, listed: &Part, progress: &Progress) -> Result<Option<Wrong>, Fault> {
        let (set, own) = (self.clone(), listed.clone());
        let flaw = blocking(move || Ok(set.flaw_of(part, &own))).await?;
        if flaw.is_some() {
            progress.add_moved(listed.size);
            return Ok(flaw);
        }
        let digest = match digest_of(&part.path(&self.archive), listed.size, progress).await? {
            Ok(digest) => digest,
            Err(error) => return Ok(Some(wrong_of(&error))),
        };
        if digest == listed.digest {
            return Ok(None);
        }
        let mut others = self.listed();
        let same = others.find(|(_, other)| other.digest == digest);
        Ok(Some(same.map_or(Wrong::Content, |(name, _)| Wrong::Exchanged(name))))
    }

    /// Reads all parts and parity parts; what is wrong with them. `progress` counts their bytes.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub async fn verify_all(&self, progress: &Progress) -> Result<Vec<Flaw>, Fault> {
        let mut flaws = Vec::new();
        for (part, listed) in self.listed() {
            if let Some(wrong) = self.verify(part, listed, progress).await? {
                flaws.push(Flaw { part, wrong });
            }
        }
        let set = self.clone();
        flaws.extend(blocking(move || set.unlisted()).await?);
        Ok(flaws)
    }

    /// Bytes of all parts and parity parts.
    pub fn total(&self) -> u64 {
        let sizes = self.listed().map(|(_, part)| part.size);
        sizes.fold(0, u64::saturating_add)
    }

    /// The fault of an archive with these flaws: what is wrong, and what to do about it; `None` where there are none.
    pub fn fault(&self, flaws: &[Flaw]) -> Option<Fault> {
        let shown = flaws.iter().take(SHOWN).map(|flaw| self.describe(flaw));
        let mut said: Vec<String> = shown.collect();
        if let Some(more) = flaws.len().checked_sub(SHOWN).filter(|more| *more > 0) {
            said.push(format!("and {more} more"));
        }
        let list = PartName::List.file_name(&self.archive);
        if let Some(flaw) = &self.list_flaw {
            said.insert(0, flaw.clone());
        }
        if said.is_empty() {
            return None;
        }
        let is = |kind: fn(&Flaw) -> bool| flaws.iter().filter(|flaw| kind(flaw)).count();
        let unlisted = is(|flaw| flaw.wrong == Wrong::Unlisted);
        let parity = self.list.parity.len() - is(|flaw| matches!(flaw.part, PartName::Parity(_)));
        let lost = is(|flaw| matches!(flaw.part, PartName::Part(_)) && flaw.wrong != Wrong::Unlisted);
        let command = PartName::List.path(&self.archive);
        let command = format!("run `jackal-operator repair {}`", command.display());
        let advice = match (lost, parity) {
            _ if unlisted == flaws.len() && self.list_flaw.is_none() => {
                "delete what does not belong to it, or copy the right list".to_owned()
            }
            (lost, _) if lost == self.list.count && lost > 1 => {
                format!("{list} is probably the list of another archive; copy the right list, or the parts again")
            }
            (0, _) => command,
            (lost, parity) if lost <= parity => format!("{command}, which computes them from the parity parts"),
            (_, 0) => "copy them again".to_owned(),
            (lost, parity) => {
                format!("copy them again: {lost} parts are lost, and there is parity for {parity}")
            }
        };
        let message = format!("{}; {advice}", said.join(", "));
        Some(Fault::stalled(Reason::SourceFailed, message))
    }

    /// What is wrong with a part, in words.
    pub fn describe(&self, flaw: &Flaw) -> String {
        let name = flaw.part.file_name(&self.archive);
        let wrong = fmt::from_fn(|out| match &flaw.wrong {
            Wrong::Missing => write!(out, "is missing"),
            Wrong::Unreadable(error) => write!(out, "cannot be read: {error}"),
            Wrong::Length { expected, found } => write!(out, "has {found} bytes instead of {expected}"),
            Wrong::Exchanged(other) => write!(out, "has the content of {}", other.file_name(&self.archive)),
            Wrong::Content => write!(out, "is damaged, or a part of another archive"),
            Wrong::Unlisted => write!(out, "does not belong to it: it has {} parts", self.list.count),
        });
        format!("{name} {wrong}")
    }
}

fn wrong_of(error: &io::Error) -> Wrong {
    match error.kind() {
        io::ErrorKind::NotFound => Wrong::Missing,
        _ => Wrong::Unreadable(error.to_string()),
    }
}

/// The length and the first bytes of a file.
fn start_of(path: &Path) -> io::Result<(u64, Vec<u8>)> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let mut start = Vec::new();
    file.take(START as u64).read_to_end(&mut start)?;
    Ok((metadata.len(), start))
}

/// The digest of a file of `size` bytes.
async fn digest_of(path: &Path, size: u64, progress: &Progress) -> Result<io::Result<Digest>, Fault> {
    let mut hasher = BackgroundHasher::new(None);
    let path = path.to_owned();
    let mut file = match blocking(move || Ok(File::open(path))).await? {
        Ok(file) => file,
        Err(error) => return Ok(Err(error)),
    };
    let mut offset = 0;
    while offset < size {
        let length = usize::try_from(size - offset).map_or(READ, |rest| rest.min(READ));
        let read = blocking(move || {
            let mut bytes = vec![0; length];
            let read = file.read_exact_at(&mut bytes, offset);
            Ok((file, read.map(|()| Bytes::from(bytes))))
        });
        let (same, read) = read.await?;
        file = same;
        let bytes = match read {
            Ok(bytes) => bytes,
            Err(error) => return Ok(Err(error)),
        };
        hasher.update(&bytes).await;
        progress.add_moved(length as u64);
        offset += length as u64;
    }
    let digest = hasher.finish().await;
    let digest = digest.map_err(|error| Fault::retryable(Reason::InternalError, error.to_string()))?;
    Ok(Ok(digest))
}

/// Reads the list of parts, or its copy.
fn read_list(archive: &Path, name: PartName) -> Result<PartList, Fault> {
    let shown = name.file_name(archive);
    let failed = |what: &str| Fault::stalled(Reason::SourceFailed, format!("{shown} {what}"));
    let file = match File::open(name.path(archive)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(failed("is missing: it lists the parts; copy it beside them"));
        }
        Err(error) => return Err(failed(&format!("cannot be read: {error}"))),
    };
    let mut text = Vec::new();
    let read = file.take(LIST_LIMIT as u64 + 1).read_to_end(&mut text);
    read.map_err(|error| failed(&format!("cannot be read: {error}")))?;
    if text.len() > LIST_LIMIT {
        return Err(failed(&format!(
            "is longer than the {LIST_LIMIT} bytes of a list of parts"
        )));
    }
    PartList::decode(&text).map_err(|fault| fault.with_context(&shown))
}
