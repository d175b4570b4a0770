//! What a package lacks, told before anything moves.

use std::time::Duration;

use super::reach::FileReach;
use super::{Build, Report, Target};
use crate::cli::package_file::Given;
use crate::cli::progress::Display;
use crate::fault::Fault;
use crate::fetch::{ChartMemory, gather};
use crate::package::component::Found;

impl Build {
    /// Finds what the components hold beside their images.
    pub(super) async fn gather(&self, given: &Given, target: &Target, idle: Duration) -> Result<Vec<Found>, Fault> {
        let reach = FileReach::new(self, given, target, idle);
        gather(&given.package.spec.components, &reach, &ChartMemory::default()).await
    }

    /// Says which images are missing: of a check that is what was asked for, else a warning.
    pub(super) fn say_missing(&self, report: &Report, display: &Display) {
        for missing in &report.missing_images {
            let line = format!(
                "component {}: {} of {} is not among images",
                missing.component, missing.image, missing.found_in
            );
            match self.check {
                true => display.say(&line),
                false => eprintln!("jackal-operator build: {line}"),
            }
        }
        if self.check && report.missing_images.is_empty() {
            display.say("no image is missing");
        }
    }
}
