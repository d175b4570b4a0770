//! `crd`: prints the custom resource definitions.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::api::v1alpha1::definitions;

/// Print the custom resource definitions.
#[derive(Debug, Args)]
pub struct Crd {
    /// Write one file a definition, named after it, into this directory instead.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Crd {
    pub(super) fn run(self) -> ExitCode {
        match self.write() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("jackal-operator crd: {error:#}");
                ExitCode::FAILURE
            }
        }
    }

    fn write(&self) -> anyhow::Result<()> {
        for definition in definitions() {
            let yaml = format!("---\n{}", serde_saphyr::to_string(&definition)?);
            match &self.out {
                None => print!("{yaml}"),
                Some(directory) => {
                    let name = definition.metadata.name.unwrap_or_default();
                    std::fs::create_dir_all(directory)?;
                    std::fs::write(directory.join(format!("{name}.yaml")), yaml)?;
                }
            }
        }
        Ok(())
    }
}
