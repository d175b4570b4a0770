//! Content digests (OCI image specification, "Digests").

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256, Sha512};
use thiserror::Error;

/// A digest, `algorithm:hex`. Only `sha256` and `sha512` are accepted, in lower case, so two digests are equal exactly
/// if their texts are.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

/// Why a text is not a digest.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("`{text}` is not a digest: expected sha256: and 64, or sha512: and 128, hexadecimal digits")]
pub struct DigestError {
    text: String,
}

impl Digest {
    /// The SHA-256 digest of `content`.
    pub fn of(content: &[u8]) -> Self {
        Self(format!("sha256:{}", hex::encode(Sha256::digest(content))))
    }

    /// The whole text, `algorithm:hex`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part before the colon: `sha256` or `sha512`.
    pub fn algorithm(&self) -> &str {
        self.0.split_once(':').map_or("", |(algorithm, _)| algorithm)
    }

    /// The part after the colon: the hash in lower-case hexadecimal digits.
    pub fn hex(&self) -> &str {
        self.0.split_once(':').map_or("", |(_, hex)| hex)
    }

    /// `algorithm:` and twelve digits, for messages.
    pub fn short_form(&self) -> String {
        format!("{}:{}", self.algorithm(), self.short())
    }

    /// Twelve digits, which suffice to distinguish images in a message.
    pub fn short(&self) -> &str {
        self.hex().get(..12).unwrap_or_default()
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let error = || DigestError {
            text: text.chars().take(160).collect(),
        };
        let (algorithm, hex) = text.split_once(':').ok_or_else(error)?;
        let algorithm = algorithm.to_ascii_lowercase();
        let length = match algorithm.as_str() {
            "sha256" => 64,
            "sha512" => 128,
            _ => return Err(error()),
        };
        if hex.len() == length && hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            Ok(Self(format!("{algorithm}:{}", hex.to_ascii_lowercase())))
        } else {
            Err(error())
        }
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Self, DigestError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Hashes content incrementally, with the algorithm of its expected digest.
#[derive(Clone, Debug)]
pub struct Hasher(Algorithm);

#[derive(Clone, Debug)]
enum Algorithm {
    Sha256(Sha256),
    Sha512(Box<Sha512>),
}

impl Hasher {
    /// A SHA-256 hasher, for content without an expected digest.
    pub fn sha256() -> Self {
        Self(Algorithm::Sha256(Sha256::new()))
    }

    /// A hasher with the algorithm of `expected`.
    pub fn like(expected: &Digest) -> Self {
        match expected.algorithm() {
            "sha512" => Self(Algorithm::Sha512(Box::new(Sha512::new()))),
            _ => Self::sha256(),
        }
    }

    /// Adds the next bytes of the content.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            Algorithm::Sha256(hash) => hash.update(bytes),
            Algorithm::Sha512(hash) => hash.update(bytes),
        }
    }

    /// The digest of all added bytes.
    pub fn finish(self) -> Digest {
        Digest(match self.0 {
            Algorithm::Sha256(hash) => format!("sha256:{}", hex::encode(hash.finalize())),
            Algorithm::Sha512(hash) => format!("sha512:{}", hex::encode(hash.finalize())),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn content_is_hashed_incrementally() {
        assert_eq!(Digest::of(b"").as_str(), EMPTY);
        let mut hasher = Hasher::sha256();
        hasher.update(b"ab");
        hasher.update(b"c");
        assert_eq!(hasher.finish(), Digest::of(b"abc"));
        let expected: Digest = format!("sha512:{}", "0".repeat(128)).parse().unwrap();
        assert_eq!(Hasher::like(&expected).finish().algorithm(), "sha512");
    }

    #[test]
    fn malformed_digests_are_rejected() {
        let digest: Digest = EMPTY.parse().unwrap();
        assert_eq!(
            (digest.algorithm(), digest.hex().len(), digest.short()),
            ("sha256", 64, "e3b0c44298fc")
        );
        assert_eq!(EMPTY.to_uppercase().parse(), Ok(digest));
        for bad in ["", "sha256:", "e3b0", "md5:00", &EMPTY[..70], "sha256:../../etc/passwd"] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }
}
