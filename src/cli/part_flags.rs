//! The flags of commands that write an archive in parts.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;
use serde::Serialize;

use super::UsageError;
use crate::archive::parts::{PARITY_LIMIT, PART_UNIT, PartList, PartName, SplitInto};

/// How an archive is split.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct PartFlags {
    /// Write parts of this many bytes at most: FILE.part001 to FILE.part999, listed in FILE.part000. K, M, G and T are decimal
    /// units, Ki, Mi, Gi and Ti binary ones, such as 4G or 700Mi.
    #[arg(long, value_name = "SIZE")]
    max_part_size: Option<PartSize>,
    /// Write this many parity parts too (FILE.parity001 and so on): `repair` replaces as many lost or damaged parts.
    #[arg(long, value_name = "COUNT", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=PARITY_LIMIT as i64), requires = "max_part_size")]
    parity: u8,
}

impl PartFlags {
    /// How the archive is split; `None` where it is one file.
    pub fn parts(self) -> Option<SplitInto> {
        let PartSize(part_size) = self.max_part_size?;
        Some(SplitInto {
            part_size,
            parity: usize::from(self.parity),
        })
    }
}

/// The files of an archive in parts, as reports name them.
#[derive(Serialize)]
pub(super) struct PartFiles {
    /// The list.
    list: PathBuf,
    parts: Vec<PathBuf>,
    parity: Vec<PathBuf>,
}

impl PartFiles {
    /// Those of `archive`.
    pub fn of(archive: &Path, list: &PartList) -> Self {
        Self {
            list: PartName::List.path(archive),
            parts: (1..=list.count)
                .map(|number| PartName::Part(number).path(archive))
                .collect(),
            parity: (1..=list.parity.len())
                .map(|number| PartName::Parity(number).path(archive))
                .collect(),
        }
    }

    /// `1 part`, `5 parts and 2 parity parts`.
    pub fn text(&self) -> String {
        let count = |count: usize, what: &str| match count {
            1 => format!("1 {what}"),
            count => format!("{count} {what}s"),
        };
        let parts = count(self.parts.len(), "part");
        match self.parity.len() {
            0 => parts,
            parity => format!("{parts} and {}", count(parity, "parity part")),
        }
    }
}

/// The archive whose list of parts is `file`.
pub(super) fn archive_of(file: &Path) -> Result<PathBuf, UsageError> {
    let usage = || format!("{} is not a list of parts: name FILE.part000", file.display());
    match PartName::of(file) {
        Some((archive, PartName::List)) => Ok(archive),
        _ => Err(UsageError(usage())),
    }
}

/// The length of a part in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PartSize(u64);

impl FromStr for PartSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unknown = || format!("`{text}` is not a size: write a whole number with a unit, such as 500M, 4G or 700Mi");
        let digits = text.len() - text.trim_start_matches(|letter: char| letter.is_ascii_digit()).len();
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| unknown())?;
        let unit = unit.strip_suffix(['B', 'b']).unwrap_or(unit).to_ascii_lowercase();
        let (base, unit): (u64, &str) = match unit.strip_suffix('i') {
            Some(unit) if !unit.is_empty() => (1024, unit),
            _ => (1000, &unit),
        };
        let power = match unit {
            "" => 0,
            "k" => 1,
            "m" => 2,
            "g" => 3,
            "t" => 4,
            _ => return Err(unknown()),
        };
        let size = base.checked_pow(power).and_then(|unit| number.checked_mul(unit));
        match size.ok_or_else(unknown)? {
            size if size < PART_UNIT => Err(format!("a part has at least {PART_UNIT} bytes")),
            size => Ok(Self(size)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_decimal_and_binary_units() {
        for (text, size) in [
            ("64", 64),
            ("500M", 500_000_000),
            ("500MB", 500_000_000),
            ("4G", 4_000_000_000),
            ("4g", 4_000_000_000),
            ("1T", 1_000_000_000_000),
            ("2K", 2000),
            ("2Ki", 2048),
            ("700MiB", 700 << 20),
            ("1Gi", 1 << 30),
        ] {
            assert_eq!(text.parse(), Ok(PartSize(size)), "{text}");
        }
        for text in [
            "",
            "M",
            "63",
            "0G",
            "-1",
            "1.5G",
            "1 G",
            "1X",
            "1i",
            "1iB",
            "99999999T",
            "18446744073709551616",
            "1é",
        ] {
            assert!(text.parse::<PartSize>().is_err(), "{text}");
        }
    }
}
