//! What `--to` says.

use std::path::PathBuf;

use crate::cli::Unusable;
use crate::oci::Reference;

/// Where a package goes.
pub(super) enum Target {
    Registry { host: String, prefix: String },
    Layout(PathBuf),
}

impl Target {
    /// Reads `--to`.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        if let Some(directory) = text.strip_prefix("oci:").filter(|rest| !rest.starts_with("//")) {
            if directory.is_empty() {
                return Err(Unusable("--to oci: names no directory: write oci:DIR".to_owned()).into());
            }
            return Ok(Self::Layout(directory.into()));
        }
        let bare = text.strip_prefix("oci://").unwrap_or(text);
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
        if host.is_empty() {
            return Err(Unusable("--to names no registry: write host[:port][/prefix], or oci:DIR".to_owned()).into());
        }
        if !prefix.is_empty()
            && let Err(error) = format!("localhost/{prefix}/x:1").parse::<Reference>()
        {
            return Err(Unusable(format!("--to {text}: no registry takes the path {prefix}: {error}")).into());
        }
        Ok(Self::Registry {
            host: host.to_owned(),
            prefix: prefix.to_owned(),
        })
    }

    /// What the names in the cluster begin with, where the package does not say.
    pub fn address(&self) -> String {
        match self {
            Self::Registry { host, .. } => host.clone(),
            Self::Layout(_) => "127.0.0.1:31999".to_owned(),
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
