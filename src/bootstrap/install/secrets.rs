//! The Secrets of the registry: passwords, and the certificate. They are as the chart makes them, and those of the cluster are kept.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::crypto::SecureRandom;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};

use super::certificate::{Certificate, names};
use super::{ADDRESS, Kind, NAMESPACE, Object, REGISTRY};
use crate::fault::{Fault, Reason};

/// The Secret with the credentials for pulling.
pub const PULL_SECRET: &str = "jackal-operator-registry-pull";
const LOGIN: &str = "jackal-operator-registry-login";
const AUTHORITY: &str = "jackal-operator-registry-ca";
const TLS: &str = "jackal-operator-registry-tls";
const PUSH_USER: &str = "jackal-push";
const PULL_USER: &str = "jackal";
/// The length of a password.
const PASSWORD: usize = 32;
/// The cost of the bcrypt hashes. The registry computes one for each request, and a random password of 190 bits needs none.
const COST: u32 = 5;
/// The annotation of the certificate's Secret with the end of its validity.
const NOT_AFTER: &str = "jackal.dev/not-after";
/// The annotation of the certificate's Secret with its names.
const NAMES: &str = "jackal.dev/names";

/// Entries of a Secret.
pub type Entries = BTreeMap<String, Vec<u8>>;

/// The Secrets that the cluster has.
#[derive(Clone, Debug, Default)]
pub struct Existing {
    /// Users and passwords.
    pub users: Option<Entries>,
    /// The certificate.
    pub tls: Option<Entries>,
    /// The annotations of the certificate's Secret.
    pub tls_annotations: BTreeMap<String, String>,
    /// The trusted authorities.
    pub authorities: Option<Entries>,
}

impl Existing {
    /// The names of the Secrets that are read, in the order of the fields.
    pub const NAMES: [&'static str; 3] = [REGISTRY, TLS, AUTHORITY];
}

/// A user of the registry.
#[derive(Clone, Debug)]
struct User {
    name: &'static str,
    password: SecretString,
    /// The line of the htpasswd file: the name and the bcrypt hash of the password.
    htpasswd: SecretString,
}

/// The Secrets of an installation.
#[derive(Clone)]
pub struct Secrets {
    push: User,
    pull: User,
    /// What continues uploads after a restart of the registry.
    http_secret: SecretString,
    certificate: Certificate,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Secrets").finish_non_exhaustive()
    }
}

impl Secrets {
    /// Those of `existing`; what is missing there is made. A certificate that ends soon at `now` (seconds since 1970) is renewed.
    ///
    /// # Errors
    /// A stalled fault, where this machine has no random numbers.
    pub fn new(existing: &Existing, now: u64) -> Result<Self, Fault> {
        let provider = rustls::crypto::ring::default_provider();
        let random = provider.secure_random;
        let users = existing.users.as_ref();
        let text = |entries: Option<&Entries>, key: &str| -> Option<String> {
            let value = entries?.get(key)?;
            String::from_utf8(value.clone()).ok().filter(|text| !text.is_empty())
        };
        let push = user(
            random,
            PUSH_USER,
            ["username", "password", "htpasswd"].map(|key| text(users, key)),
        )?;
        let pull = user(
            random,
            PULL_USER,
            ["pull-username", "pull-password", "pull-htpasswd"].map(|key| text(users, key)),
        )?;
        let http_secret = match text(users, "http-secret") {
            Some(known) => known.into(),
            None => password(random)?,
        };
        let tls = existing.tls.as_ref();
        let end = existing.tls_annotations.get(NOT_AFTER).and_then(|end| end.parse().ok());
        let same_names = existing.tls_annotations.get(NAMES) == Some(&names_text());
        let authority = text(tls, "ca.crt");
        let known = match (authority.clone(), text(tls, "tls.crt"), text(tls, "tls.key"), end) {
            (Some(authority), Some(certificate), Some(key), Some(end)) if same_names => Some(Certificate {
                trusted: text(existing.authorities.as_ref(), "ca.crt").unwrap_or_else(|| authority.clone()),
                authority,
                certificate,
                key,
                end,
            }),
            _ => None,
        };
        let certificate = match known {
            Some(known) if known.stands(now) => known,
            _ => Certificate::generate(now, &authority.unwrap_or_default())?,
        };
        Ok(Self {
            push,
            pull,
            http_secret,
            certificate,
        })
    }

    /// The certificate of the registry.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// The user that pushes, and its password.
    pub fn push_login(&self) -> (&str, &SecretString) {
        (self.push.name, &self.push.password)
    }

    /// The objects, with `labels`.
    pub(super) fn objects(&self, labels: &Value) -> Vec<Object> {
        let Self {
            push,
            pull,
            http_secret,
            certificate,
        } = self;
        let endpoint = format!("{REGISTRY}.{NAMESPACE}.svc:5000");
        let users = [
            ("username", push.name),
            ("password", push.password.expose_secret()),
            ("htpasswd", push.htpasswd.expose_secret()),
            ("pull-username", pull.name),
            ("pull-password", pull.password.expose_secret()),
            ("pull-htpasswd", pull.htpasswd.expose_secret()),
            ("http-secret", http_secret.expose_secret()),
        ];
        let tls = [
            ("ca.crt", certificate.authority.as_str()),
            ("tls.crt", &certificate.certificate),
            ("tls.key", &certificate.key),
        ];
        let mut tls = secret(TLS, "kubernetes.io/tls", labels, &tls);
        tls.set_metadata(
            "annotations",
            [
                (NOT_AFTER, certificate.end.to_string().as_str()),
                (NAMES, &names_text()),
            ],
        );
        let docker = |name, host: &str, user: &User| {
            let config = docker_config(host, user);
            let entries = [(".dockerconfigjson", config.as_str())];
            secret(name, "kubernetes.io/dockerconfigjson", labels, &entries)
        };
        vec![
            secret(REGISTRY, "Opaque", labels, &users),
            docker(LOGIN, &endpoint, push),
            docker(PULL_SECRET, ADDRESS, pull),
            secret(AUTHORITY, "Opaque", labels, &[("ca.crt", &certificate.trusted)]),
            tls,
        ]
    }
}

/// The names of the certificate, as the chart writes them.
fn names_text() -> String {
    Value::from(names()).to_string()
}

/// The user `name`, with its `[name, password, htpasswd]` of before.
fn user(random: &dyn SecureRandom, name: &'static str, known: [Option<String>; 3]) -> Result<User, Fault> {
    let [known_name, known_password, htpasswd] = known;
    let password = match known_password {
        Some(known) => known.into(),
        None => password(random)?,
    };
    let htpasswd = match htpasswd {
        Some(htpasswd) if known_name.as_deref() == Some(name) => htpasswd.into(),
        _ => hash(random, name, &password)?,
    };
    Ok(User {
        name,
        password,
        htpasswd,
    })
}

/// A line of an htpasswd file.
fn hash(random: &dyn SecureRandom, name: &str, password: &SecretString) -> Result<SecretString, Fault> {
    let mut salt = [0; 16];
    fill(random, &mut salt)?;
    let hash = bcrypt::hash_with_salt(password.expose_secret(), COST, salt);
    let hash =
        hash.map_err(|error| Fault::stalled(Reason::InternalError, format!("a password cannot be hashed: {error}")))?;
    // The registry knows this name of the format.
    Ok(format!("{name}:{}", hash.format_for_version(bcrypt::Version::TwoY)).into())
}

/// A random password of letters and digits.
fn password(random: &dyn SecureRandom) -> Result<SecretString, Fault> {
    const LETTERS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let mut text = String::with_capacity(PASSWORD);
    while text.len() < PASSWORD {
        let mut bytes = [0; PASSWORD];
        fill(random, &mut bytes)?;
        // Each letter is as likely as any other.
        let usable = bytes.iter().filter(|byte| **byte < 4 * 62);
        let letters = usable.filter_map(|byte| LETTERS.get(usize::from(*byte) % 62));
        text.extend(letters.map(|letter| char::from(*letter)).take(PASSWORD - text.len()));
    }
    Ok(text.into())
}

fn fill(random: &dyn SecureRandom, bytes: &mut [u8]) -> Result<(), Fault> {
    random.fill(bytes).map_err(|_| {
        Fault::stalled(
            Reason::InternalError,
            "this machine gives no random numbers for the passwords of the registry".to_owned(),
        )
    })
}

/// A docker configuration with the credentials of `user` for `host`.
fn docker_config(host: &str, user: &User) -> String {
    let (name, password) = (user.name, user.password.expose_secret());
    let auth = STANDARD.encode(format!("{name}:{password}"));
    json!({"auths": {host: {"username": name, "password": password, "auth": auth}}}).to_string()
}

fn secret(name: &str, kind: &str, labels: &Value, entries: &[(&str, &str)]) -> Object {
    let data: serde_json::Map<String, Value> = entries
        .iter()
        .map(|(key, text)| ((*key).to_owned(), Value::from(STANDARD.encode(text))))
        .collect();
    Object {
        kind: secret_kind(),
        namespace: Some(NAMESPACE.to_owned()),
        name: name.to_owned(),
        content: json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
            "type": kind,
            "data": data,
        }),
    }
}

/// The kind of Secrets.
fn secret_kind() -> &'static Kind {
    // It is in the list.
    Kind::of("v1", "Secret").unwrap_or(&super::KINDS[0])
}
