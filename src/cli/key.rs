//! The private key of whoever runs a command.

use std::path::Path;

use super::package_file::FileObjects;
use super::{UsageError, files};
use crate::runtime::open_key;
use crate::signing::{PrivateKeyError, SigningKey};

/// The variable that cosign takes a key's password from.
const PASSWORD: &str = "COSIGN_PASSWORD";

/// The key in the file `path`, opened by the password in `COSIGN_PASSWORD`.
pub(super) async fn read(path: &Path) -> Result<SigningKey, UsageError> {
    let pem = file(path).await?;
    let password = std::env::var(PASSWORD)
        .ok()
        .map(|text| zeroize::Zeroizing::new(text.into_bytes()));
    open_key(zeroize::Zeroizing::new(pem), password).await.map_err(|error| {
        let advice = match error {
            PrivateKeyError::NoPassword => ": set COSIGN_PASSWORD",
            PrivateKeyError::WrongPassword => " (COSIGN_PASSWORD)",
            _ => "",
        };
        UsageError(format!("the key {}: {error}{advice}", path.display()))
    })
}

/// The key in a Secret that stands beside the package in its file.
pub(super) async fn of_secret(name: &str, given: &FileObjects) -> Result<SigningKey, UsageError> {
    let pem = given.secret(name, "cosign.key").ok_or_else(|| {
        UsageError(format!(
            "spec.signing names the Secret {name}: give the key by --key FILE, or put the Secret beside the package into its file"
        ))
    })?;
    let password = given.secret(name, "cosign.password");
    let password = password.map(|password| zeroize::Zeroizing::new(password.to_vec()));
    let opened = open_key(zeroize::Zeroizing::new(pem.to_vec()), password).await;
    opened.map_err(|error| UsageError(format!("the Secret {name} of spec.signing: {error}")))
}

/// What a file holds.
pub(super) async fn file(path: &Path) -> Result<Vec<u8>, UsageError> {
    let read = files::read(path).await;
    read.map_err(|error| UsageError(format!("{} cannot be read: {error}", path.display())))
}
