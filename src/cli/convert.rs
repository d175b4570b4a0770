//! `convert`: converts a package definition of Jackal or Zarf to a JackalPackage.

use std::cell::RefCell;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use rustix::io::Errno;

use super::{EXIT_USAGE, examples, package_file, print};
use crate::convert::{ConvertOptions, Files, convert};
use crate::source::ConfinedDirectory;

/// Convert a jackal.yaml or zarf.yaml to a JackalPackage.
///
/// The package is printed on standard output. Local manifests, values and text files are included. What cannot be converted is listed on standard error and in
/// comments at the beginning of the package.
///
/// Exit codes: 0 success, 1 converted except for the listed parts, 2 invalid file or flag.
#[derive(Debug, Args)]
#[command(after_help = examples::CONVERT)]
pub(super) struct Convert {
    /// The definition, or `-` for standard input.
    file: PathBuf,
    /// The flavor of the package; components of other flavors are omitted.
    #[arg(long, default_value = "", value_name = "NAME")]
    flavor: String,
    /// The directory that files named by the definition must be in. Default: the directory of the definition. Absolute paths
    /// and symbolic links are always refused.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Exit with 0 even if some parts cannot be converted.
    #[arg(long)]
    partial: bool,
}

/// The directory that the files of a definition must be in: a definition may be untrusted.
struct RootDirectory {
    files: RefCell<ConfinedDirectory>,
    /// The directory of the definition, relative to the root.
    start: Vec<String>,
    shown: String,
}

impl RootDirectory {
    /// The root `root`, which must contain the definition `file`, else the directory of the definition.
    fn of(file: &Path, root: Option<&Path>) -> Result<Self, String> {
        let parent = file.parent().unwrap_or(Path::new(""));
        let own = match parent.as_os_str().is_empty() {
            true => Path::new("."),
            false => parent,
        };
        let mut start = Vec::new();
        if let Some(root) = root {
            let whole = |path: &Path| {
                let cannot = |error: std::io::Error| format!("cannot open {}: {error}", path.display());
                path.canonicalize().map_err(cannot)
            };
            let (above, below) = (whole(root)?, whole(own)?);
            let below = below.strip_prefix(&above).map_err(|_| {
                let (root, own) = (root.display(), own.display());
                format!("--root {root} does not contain {own}, the directory of the definition: set a parent directory")
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

    /// `path`, relative to the definition, as a path relative to the root.
    fn resolve(&self, path: &str) -> Result<String, String> {
        if path.starts_with('/') {
            return Err(
                "is an absolute path: copy the file to the directory of the definition, and name it by a relative path"
                    .to_owned(),
            );
        }
        let mut whole: Vec<&str> = self.start.iter().map(String::as_str).collect();
        for part in path.split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    whole.pop().ok_or_else(|| {
                        let shown = &self.shown;
                        format!(
                            "is outside of {shown}: copy the file there, or set --root to a parent directory of both"
                        )
                    })?;
                }
                part => whole.push(part),
            }
        }
        Ok(whole.join("/"))
    }
}

impl Files for RootDirectory {
    fn read(&self, path: &str, limit: usize) -> Result<Vec<u8>, String> {
        let path = self.resolve(path)?;
        let cannot = |error: std::io::Error| format!("cannot be read: {error}");
        let opened = self.files.borrow_mut().open_file(path.as_bytes());
        let (file, _) = opened.map_err(|errno| match errno {
            Errno::LOOP => "is a symbolic link, or its path contains one or a part that is not a directory; links are not followed: name the file itself".to_owned(),
            Errno::INVAL | Errno::ISDIR => "is not a regular file, and only files can be converted".to_owned(),
            other => cannot(other.into()),
        })?;
        let mut content = Vec::new();
        // One byte more than the limit, to detect a larger file.
        file.take(limit as u64 + 1).read_to_end(&mut content).map_err(cannot)?;
        match content.len() > limit {
            true => Err(
                "makes the JackalPackage larger than an API server accepts: use a ConfigMap, or set url and sha256"
                    .to_owned(),
            ),
            false => Ok(content),
        }
    }
}

impl Convert {
    pub(super) fn run(self) -> ExitCode {
        let fail = |why: String| {
            print::note(format_args!("jackal-operator convert: {why}"));
            ExitCode::from(EXIT_USAGE)
        };
        let text = match package_file::text(&self.file, "convert") {
            Ok(text) => text,
            Err(error) => return fail(error.to_string()),
        };
        let name = package_file::name_of(&self.file);
        let folder = match RootDirectory::of(&self.file, self.root.as_deref()) {
            Ok(folder) => folder,
            Err(why) => return fail(why),
        };
        let converted = match convert(&text, &folder, &ConvertOptions { flavor: self.flavor }) {
            Ok(converted) => converted,
            Err(why) => return fail(format!("{name} {why}")),
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
    fn paths_outside_of_the_root_are_refused() {
        let folder = |start: &[&str]| RootDirectory {
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
                folder(start).resolve(path).ok().as_deref(),
                expected,
                "{start:?} {path}"
            );
        }
    }
}
