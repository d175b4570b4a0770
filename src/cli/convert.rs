//! `convert`: a JackalPackage from a package definition of Jackal's or Zarf's commands.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::{UNUSABLE, examples, package_file, print};
use crate::convert::{Files, Wanted, convert};

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
    /// Exit with 0 although something could not be carried over.
    #[arg(long)]
    partial: bool,
}

/// The folder that paths of a definition start from.
struct Folder(PathBuf);

impl Files for Folder {
    fn read(&self, path: &str, limit: usize) -> Result<Vec<u8>, String> {
        let path = self.0.join(path);
        let cannot = |error: std::io::Error| format!("cannot be read: {error}");
        if path.is_dir() {
            return Err("is a folder, and only files can be carried over".to_owned());
        }
        let mut content = Vec::new();
        let file = std::fs::File::open(path).map_err(cannot)?;
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
        let folder = Folder(self.file.parent().unwrap_or(Path::new("")).to_owned());
        let converted = match convert(&text, &folder, &Wanted { flavor: self.flavor }) {
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
