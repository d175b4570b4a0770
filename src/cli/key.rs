//! Private keys in files and Secrets.

use std::path::Path;

use super::package_file::FileObjects;
use super::{UsageError, files};
use crate::runtime::open_key;
use crate::signing::{PrivateKeyError, SigningKey};

/// The environment variable with the password of the key, as in cosign.
const PASSWORD: &str = "COSIGN_PASSWORD";

/// The key in the file `path`, decrypted with the password in `COSIGN_PASSWORD`.
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

/// The key in a Secret in the same file as the package.
pub(super) async fn of_secret(name: &str, given: &FileObjects) -> Result<SigningKey, UsageError> {
    let pem = given.secret(name, "cosign.key").ok_or_else(|| {
        UsageError(format!(
            "spec.signing names the Secret {name}, which is not in the file: set --key FILE, or add the Secret to the file"
        ))
    })?;
    let password = given.secret(name, "cosign.password");
    let password = password.map(|password| zeroize::Zeroizing::new(password.to_vec()));
    let opened = open_key(zeroize::Zeroizing::new(pem.to_vec()), password).await;
    opened.map_err(|error| UsageError(format!("the Secret {name} of spec.signing: {error}")))
}

/// The content of a file.
pub(super) async fn file(path: &Path) -> Result<Vec<u8>, UsageError> {
    let read = files::read(path).await;
    read.map_err(|error| UsageError(format!("cannot read {}: {error}", path.display())))
}
