//! `convert`: a JackalPackage from a package definition of Jackal's or Zarf's commands.

use std::cell::RefCell;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use rustix::io::Errno;

use super::{UNUSABLE, examples, package_file, print};
use crate::convert::{ConvertOptions, Files, convert};
use crate::source::ConfinedDirectory;

/// Make a JackalPackage of a jackal.yaml or zarf.yaml.
///
/// It is printed on standard output. Local manifests, values and text files are written into it. What cannot be carried over is said on standard error, and
/// in comments at its beginning.
///
/// Exit codes: 0 done, 1 done but for something that could not be carried over, 2 the file or a flag cannot be used.
#[derive(Debug, Args)]
#[command(after_help = examples::CONVERT)]
pub(super) struct Convert {
    /// The definition, or `-` for standard input.
    file: PathBuf,
    /// The flavour of the package: components of other flavours are left out.
    #[arg(long, default_value = "", value_name = "NAME")]
    flavor: String,
    /// The folder that the files which the definition names may lie beneath. Default: the definition's own. Absolute paths and
    /// links are refused in any case.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Exit with 0 although something could not be carried over.
    #[arg(long)]
    partial: bool,
}

/// The folder that the files of a definition lie beneath, and no others: a definition may be somebody else's.
struct Folder {
    files: RefCell<ConfinedDirectory>,
    /// The folder that the definition's paths start from, as a path beneath it.
    start: Vec<String>,
    shown: String,
}

impl Folder {
    /// The folder of the definition `file`, or `root` which that lies beneath.
    fn of(file: &Path, root: Option<&Path>) -> Result<Self, String> {
        let parent = file.parent().unwrap_or(Path::new(""));
        let own = match parent.as_os_str().is_empty() {
            true => Path::new("."),
            false => parent,
        };
        let mut start = Vec::new();
        if let Some(root) = root {
            let whole = |path: &Path| {
                let cannot = |error: std::io::Error| format!("{} cannot be opened: {error}", path.display());
                path.canonicalize().map_err(cannot)
            };
            let (above, below) = (whole(root)?, whole(own)?);
            let below = below.strip_prefix(&above).map_err(|_| {
                let (root, own) = (root.display(), own.display());
                format!("--root {root} does not hold {own}, where the definition lies: name a folder above it")
            })?;
            start.extend(below.iter().map(|part| part.to_string_lossy().into_owned()));
        }
        let root = root.unwrap_or(own);
        Ok(Self {
            files: RefCell::new(ConfinedDirectory::open(root).map_err(|reason| reason.to_string())?),
            start,
            shown: root.display().to_string(),
        })
    }

    /// `path`, which starts where the definition lies, as a path beneath this folder.
    fn beneath(&self, path: &str) -> Result<String, String> {
        if path.starts_with('/') {
            return Err("is an absolute path, and only files beneath the definition's folder are read: copy it there, and name it by a relative path".to_owned());
        }
        let mut whole: Vec<&str> = self.start.iter().map(String::as_str).collect();
        for part in path.split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    whole.pop().ok_or_else(|| {
                        let shown = &self.shown;
                        format!("leads out of {shown}, and no file elsewhere is read: copy it there, or name a folder above both by --root")
                    })?;
                }
                part => whole.push(part),
            }
        }
        Ok(whole.join("/"))
    }
}

impl Files for Folder {
    fn read(&self, path: &str, limit: usize) -> Result<Vec<u8>, String> {
        let path = self.beneath(path)?;
        let cannot = |error: std::io::Error| format!("cannot be read: {error}");
        let opened = self.files.borrow_mut().open_file(path.as_bytes());
        let (file, _) = opened.map_err(|errno| match errno {
            Errno::LOOP => "is a link, or a part of its path is a link or no folder, and links are not followed: name the file itself".to_owned(),
            Errno::INVAL | Errno::ISDIR => "is a folder or the like, and only files can be carried over".to_owned(),
            other => cannot(other.into()),
        })?;
        let mut content = Vec::new();
        // One more than there may be, to tell a file that ends there from one that goes on.
        file.take(limit as u64 + 1).read_to_end(&mut content).map_err(cannot)?;
        match content.len() > limit {
            true => Err("makes the JackalPackage longer than an API server takes: put it into a ConfigMap, or give it a url and sha256".to_owned()),
            false => Ok(content),
        }
    }
}

impl Convert {
    pub(super) fn run(self) -> ExitCode {
        let unusable = |why: String| {
            print::note(format_args!("jackal-operator convert: {why}"));
            ExitCode::from(UNUSABLE)
        };
        let text = match package_file::text(&self.file, "convert") {
            Ok(text) => text,
            Err(error) => return unusable(error.to_string()),
        };
        let name = package_file::name_of(&self.file);
        let folder = match Folder::of(&self.file, self.root.as_deref()) {
            Ok(folder) => folder,
            Err(why) => return unusable(why),
        };
        let converted = match convert(&text, &folder, &ConvertOptions { flavor: self.flavor }) {
            Ok(converted) => converted,
            Err(why) => return unusable(format!("{name} {why}")),
        };
        let printed = print::document_of("convert", &converted.yaml);
        if printed != ExitCode::SUCCESS {
            return printed;
        }
        for part in &converted.left_out {
            print::note(format_args!("jackal-operator convert: not carried over: {part}"));
        }
        match converted.left_out.is_empty() || self.partial {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_beneath_their_folder() {
        let folder = |start: &[&str]| Folder {
            files: RefCell::new(ConfinedDirectory::open(Path::new("/")).unwrap()),
            start: start.iter().map(|part| (*part).to_owned()).collect(),
            shown: "x".to_owned(),
        };
        for (start, path, expected) in [
            (&[][..], "a/b", Some("a/b")),
            (&[], "./a//b", Some("a/b")),
            (&[], "a/../b", Some("b")),
            (&[], "../a", None),
            (&[], "a/../../b", None),
            (&[], "/etc/passwd", None),
            (&["pkg", "web"], "../common/a", Some("pkg/common/a")),
            (&["pkg", "web"], "../../../a", None),
            (&["pkg", "web"], "/a", None),
        ] {
            assert_eq!(
                folder(start).beneath(path).ok().as_deref(),
                expected,
                "{start:?} {path}"
            );
        }
    }
}
