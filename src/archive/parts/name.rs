//! The names of parts. No IO.

use std::path::{Path, PathBuf};

/// What a file's name says that it is, beside an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PartName {
    /// `.part000`: the list of the parts.
    List,
    /// `.parity000`: a copy of the list.
    ListCopy,
    /// `.partNNN`: a part, by its number from 1.
    Part(usize),
    /// `.parityNNN`: a parity part, by its number from 1.
    Parity(usize),
}

impl PartName {
    /// The archive that `path` is a part of, and which; `None` where `path` does not have the name of a part.
    pub fn of(path: &Path) -> Option<(PathBuf, Self)> {
        let name = path.file_name()?.to_str()?;
        let (archive, end) = name.rsplit_once('.').filter(|(archive, _)| !archive.is_empty())?;
        let number = |digits: &str| {
            let is_number = digits.len() == 3 && digits.bytes().all(|digit| digit.is_ascii_digit());
            is_number.then(|| digits.parse().ok()).flatten()
        };
        let part = match (end.strip_prefix("part"), end.strip_prefix("parity")) {
            (Some(digits), _) => match number(digits)? {
                0 => Self::List,
                part => Self::Part(part),
            },
            (None, Some(digits)) => match number(digits)? {
                0 => Self::ListCopy,
                part => Self::Parity(part),
            },
            (None, None) => return None,
        };
        Some((path.with_file_name(archive), part))
    }

    /// The file name of this part of `archive`.
    pub fn file_name(self, archive: &Path) -> String {
        let name = archive.file_name().unwrap_or_default().to_string_lossy();
        match self {
            Self::List => format!("{name}.part000"),
            Self::ListCopy => format!("{name}.parity000"),
            Self::Part(number) => format!("{name}.part{number:03}"),
            Self::Parity(number) => format!("{name}.parity{number:03}"),
        }
    }

    /// The path of this part of `archive`.
    pub fn path(self, archive: &Path) -> PathBuf {
        archive.with_file_name(self.file_name(archive))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        let archive = Path::new("dir/shop.tar.zst");
        for (part, name) in [
            (PartName::List, "dir/shop.tar.zst.part000"),
            (PartName::ListCopy, "dir/shop.tar.zst.parity000"),
            (PartName::Part(1), "dir/shop.tar.zst.part001"),
            (PartName::Part(999), "dir/shop.tar.zst.part999"),
            (PartName::Parity(12), "dir/shop.tar.zst.parity012"),
        ] {
            assert_eq!(part.path(archive), Path::new(name));
            assert_eq!(PartName::of(Path::new(name)), Some((archive.to_owned(), part)));
            // Only the list and the parts match what Zarf counts.
            let counted = name.starts_with("dir/shop.tar.zst.part");
            assert_eq!(counted, matches!(part, PartName::List | PartName::Part(_)), "{name}");
        }
        assert_eq!(
            PartName::of(Path::new("a.part001")),
            Some(("a".into(), PartName::Part(1)))
        );
    }

    #[test]
    fn other_names_are_not_parts() {
        for name in [
            "shop.tar.zst",
            "shop.tar.zst.part1",
            "shop.tar.zst.part0001",
            "shop.tar.zst.part+01",
            "shop.tar.zst.part",
            "shop.tar.zst.parity",
            "shop.tar.zst.partial",
            "shop.tar.zst.part001.zst",
            ".part001",
            "..",
            "",
        ] {
            assert_eq!(PartName::of(Path::new(name)), None, "{name}");
        }
    }
}
