//! What `--to` says.

use std::path::PathBuf;

use crate::cli::Unusable;
use crate::oci::Reference;

/// Where a package goes.
#[derive(Clone, Debug)]
pub(super) enum Target {
    Registry {
        host: String,
        prefix: String,
    },
    Layout(PathBuf),
    /// To no place: it is only checked.
    Nowhere,
}

impl Target {
    /// Reads `--to`.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        if let Some(directory) = text.strip_prefix("oci:").filter(|rest| !rest.starts_with("//")) {
            if directory.is_empty() {
                return Err(Unusable("--to oci: names no directory: write oci:DIR".to_owned()).into());
            }
            // Others read what follows as the name of an image in the layout.
            if let Some((path, name)) = directory.split_once(':') {
                return Err(Unusable(format!(
                    "--to {text}: a layout gets its names from the file: write oci:{path} without :{name}"
                ))
                .into());
            }
            return Ok(Self::Layout(directory.into()));
        }
        let scheme = ["oci://", "docker://"]
            .into_iter()
            .find_map(|scheme| text.strip_prefix(scheme));
        let bare = scheme.unwrap_or(text);
        if bare.contains("://") {
            return Err(Unusable(format!(
                "--to {text}: write host[:port][/prefix]; plain HTTP is asked for by --insecure"
            ))
            .into());
        }
        let (host, prefix) = bare
            .trim_end_matches('/')
            .split_once('/')
            .unwrap_or((bare.trim_end_matches('/'), ""));
        // A host is the same in any case, and Docker Hub has several names.
        let host = host.to_ascii_lowercase();
        let host = match format!("{host}/x/x:1").parse::<Reference>() {
            Ok(known) if known.repository() == "x/x" => known.registry().to_owned(),
            _ => host,
        };
        if host.is_empty() {
            return Err(Unusable("--to names no registry: write host[:port][/prefix], or oci:DIR".to_owned()).into());
        }
        if !prefix.is_empty()
            && let Err(error) = format!("localhost/{prefix}/x:1").parse::<Reference>()
        {
            return Err(Unusable(format!("--to {text}: no registry takes the path {prefix}: {error}")).into());
        }
        Ok(Self::Registry {
            host,
            prefix: prefix.to_owned(),
        })
    }

    /// What the names in the cluster begin with, where the package does not say: nothing, where nobody says.
    pub fn address(&self) -> String {
        match self {
            Self::Registry { host, .. } => host.clone(),
            Self::Layout(_) | Self::Nowhere => String::new(),
        }
    }

    /// The path that everything is put under, where it says one.
    pub fn prefix(&self) -> Option<String> {
        match self {
            Self::Registry { prefix, .. } if !prefix.is_empty() => Some(prefix.clone()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_cannot_be_a_destination() {
        let said = |text: &str| Target::parse(text).unwrap_err().to_string();
        for (text, words) in [
            ("oci:", "write oci:DIR"),
            ("oci:out:shop:1", "write oci:out without :shop:1"),
            ("", "names no registry"),
            ("https://r.example", "plain HTTP is asked for by --insecure"),
            ("r.example/UPPER", "no registry takes the path UPPER"),
            ("r.example/team:1", "no registry takes the path team:1"),
        ] {
            assert!(said(text).contains(words), "{text}: {}", said(text));
        }
    }

    #[test]
    fn reads_registries_in_every_way_that_they_are_written() {
        for text in [
            "r.example/a/b",
            "r.example/a/b/",
            "oci://r.example/a/b",
            "docker://r.example/a/b",
        ] {
            let target = Target::parse(text).unwrap();
            assert_eq!(
                (target.address().as_str(), target.prefix().as_deref()),
                ("r.example", Some("a/b"))
            );
        }
        assert_eq!(Target::parse("r.example:5000").unwrap().prefix(), None);
        assert_eq!(Target::parse("R.Example:5000/a").unwrap().address(), "r.example:5000");
        assert_eq!(Target::parse("index.docker.io/a").unwrap().address(), "docker.io");
        assert_eq!(Target::parse("registry").unwrap().address(), "registry");
        assert_eq!(Target::parse("oci:out").unwrap().address(), "");
    }
}
