//! The destination in `--to`.

use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::archive::made::MadeFile;
use crate::cli::UsageError;
use crate::oci::{Location, Reference, canonical_host, is_host};

/// The destination of packages.
#[derive(Clone, Debug)]
pub(in crate::cli) enum Target {
    Registry {
        host: String,
        prefix: String,
    },
    Layout(PathBuf),
    /// A package file that is made.
    Archive(Arc<MadeFile>),
    /// No destination: `--check`.
    Nowhere,
}

impl Target {
    /// Parses `--to`.
    pub fn parse(text: &str) -> Result<Self, UsageError> {
        let unusable = |what: String| Err(UsageError(format!("--to {text}: {what}")));
        if let Some(directory) = text.strip_prefix("oci:").filter(|rest| !rest.starts_with("//")) {
            if directory.is_empty() {
                return unusable("the directory is missing: write oci:DIR".to_owned());
            }
            // Other tools take the rest as the name of an image in the layout.
            if let Some((path, name)) = directory.split_once(':') {
                return unusable(format!(
                    "a layout gets its names from the file: write oci:{path} without :{name}"
                ));
            }
            return Ok(Self::Layout(directory.into()));
        }
        if text.starts_with(['.', '/', '~']) {
            return unusable(format!("to write an OCI layout into a directory, write oci:{text}"));
        }
        let scheme = ["oci://", "docker://"]
            .into_iter()
            .find_map(|scheme| text.strip_prefix(scheme));
        let bare = scheme.unwrap_or(text).trim_end_matches('/');
        if bare.contains("://") {
            return unusable("write host[:port][/prefix]; for plain HTTP use --insecure".to_owned());
        }
        let (host, prefix) = bare.split_once('/').unwrap_or((bare, ""));
        if !is_host(host) {
            let advice = match host.parse::<Ipv6Addr>() {
                Ok(_) => "write an IPv6 address in brackets",
                Err(_) => "write host[:port][/prefix] of a registry, or oci:DIR for an OCI layout",
            };
            return unusable(format!("`{host}` is not a host; {advice}"));
        }
        if let Some((path, _)) = prefix.split_once([':', '@']) {
            return unusable(format!(
                "images keep their tags, and a package gets its version as its tag: write {host}/{path}"
            ));
        }
        if !prefix.is_empty() && format!("localhost/{prefix}/x:1").parse::<Reference>().is_err() {
            return unusable(format!(
                "invalid repository path {prefix}: write lower-case letters and digits with '.', '_', '-' or '/' between them"
            ));
        }
        Ok(Self::Registry {
            host: canonical_host(host),
            prefix: prefix.to_owned(),
        })
    }

    /// What the names in the cluster begin with, where the package does not say: nothing, where nobody says.
    pub fn address(&self) -> String {
        match self {
            Self::Registry { host, .. } => host.clone(),
            Self::Layout(_) | Self::Archive(_) | Self::Nowhere => String::new(),
        }
    }

    /// The name of `repository` with `tag` in the destination.
    pub fn name_of(&self, repository: &str, tag: &str) -> String {
        match self {
            Self::Layout(directory) => format!("oci:{}:{repository}:{tag}", directory.display()),
            Self::Registry { host, .. } => format!("{host}/{repository}:{tag}"),
            Self::Archive(_) | Self::Nowhere => format!("{repository}:{tag}"),
        }
    }

    /// The names of what is at `location` in the destination.
    pub fn names_of(&self, location: &Location) -> Vec<String> {
        let tags = location.tags.iter();
        tags.map(|tag| self.name_of(&location.repository, tag)).collect()
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
    fn invalid_destinations_are_refused() {
        let said = |text: &str| Target::parse(text).unwrap_err().to_string();
        for (text, words) in [
            ("oci:", "write oci:DIR"),
            ("oci:out:shop:1", "write oci:out without :shop:1"),
            (
                "",
                "`` is not a host; write host[:port][/prefix] of a registry, or oci:DIR",
            ),
            ("https://r.example", "for plain HTTP use --insecure"),
            ("r.example/UPPER", "invalid repository path UPPER"),
            ("r.example//team", "invalid repository path /team"),
            ("r.example/team:1", "write r.example/team"),
            ("r.example/team@sha256:0", "write r.example/team"),
            ("./out", "write oci:./out"),
            ("/srv/out", "write oci:/srv/out"),
            ("~/out", "write oci:~/out"),
            ("dir:out", "`dir:out` is not a host"),
            ("oci-archive:out.tar", "`oci-archive:out.tar` is not a host"),
            ("r.example:port/team", "`r.example:port` is not a host"),
            ("r.example:99999", "`r.example:99999` is not a host"),
            ("ann@r.example/team", "`ann@r.example` is not a host"),
            ("::1/team", "write an IPv6 address in brackets"),
            ("oci:///out", "`` is not a host"),
        ] {
            assert!(said(text).contains(words), "{text}: {}", said(text));
        }
    }

    #[test]
    fn registries_and_layouts_are_parsed() {
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
        let address = Target::parse("[0:0::1]:5000/a/").unwrap();
        assert_eq!(
            (address.address().as_str(), address.prefix().as_deref()),
            ("[::1]:5000", Some("a"))
        );
    }
}
