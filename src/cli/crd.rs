//! `crd`: prints the custom resource definitions.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;

use super::{examples, print};
use crate::api::v1alpha1::definitions;

/// Print the custom resource definitions.
///
/// Exit codes: 0 success, 1 the definitions cannot be written, 2 invalid flag.
#[derive(Debug, Args)]
#[command(after_help = examples::CRD)]
pub struct Crd {
    /// Write one file for each definition, named after it, to this directory instead of standard output.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Crd {
    pub(super) fn run(self) -> ExitCode {
        match self.write() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                print::note(format_args!("jackal-operator crd: {error:#}"));
                ExitCode::FAILURE
            }
        }
    }

    fn write(&self) -> anyhow::Result<()> {
        let mut printed = String::new();
        for definition in definitions() {
            let yaml = format!("---\n{}", serde_saphyr::to_string(&definition)?);
            match &self.out {
                None => printed.push_str(&yaml),
                Some(directory) => {
                    let name = definition.metadata.name.unwrap_or_default();
                    let file = directory.join(format!("{name}.yaml"));
                    let written = std::fs::create_dir_all(directory).and_then(|()| std::fs::write(&file, yaml));
                    written.with_context(|| format!("cannot write {}", file.display()))?;
                }
            }
        }
        print::document(&printed).context("cannot write to standard output")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_crds_are_up_to_date() {
        let generated = tempfile::tempdir().unwrap();
        Crd {
            out: Some(generated.path().to_owned()),
        }
        .write()
        .unwrap();
        // The chart has a copy, because a chart is distributed without the rest of the repository.
        for committed in ["crds", "charts/jackal-operator/files/crds"] {
            let committed = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(committed);
            let names = |directory: &std::path::Path| {
                let mut names: Vec<_> = std::fs::read_dir(directory)
                    .unwrap()
                    .map(|entry| entry.unwrap().file_name())
                    .collect();
                names.sort();
                names
            };
            assert_eq!(names(&committed), names(generated.path()), "run `make crds`");
            for name in names(&committed) {
                let read = |directory: &std::path::Path| std::fs::read_to_string(directory.join(&name)).unwrap();
                assert!(
                    read(&committed) == read(generated.path()),
                    "{} is stale: run `make crds`",
                    committed.join(&name).display()
                );
            }
        }
    }
}
