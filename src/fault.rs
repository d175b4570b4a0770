//! The error type of all modules: every failure has a reason, a disposition and a message.
//!
//! The module where a failure happens chooses the [`Reason`], which becomes the reason of a condition, of an event and
//! of a metric.

use std::fmt;
use std::sync::OnceLock;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The reason of a failure, in conditions, events and metrics. A closed set, so that alerts can refer to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Reason {
    /// Nodes have different images under one name.
    AmbiguousSource,
    /// Credentials are missing, wrong or insufficient.
    AuthenticationFailed,
    /// A ConfigMap of the object is missing or incomplete.
    ConfigMapUnavailable,
    /// Content does not have the expected digest.
    DigestMismatch,
    /// The operator itself failed.
    InternalError,
    /// A reference, or a name derived from it, is invalid.
    InvalidReference,
    /// Another field of the object is invalid.
    InvalidSpec,
    /// No node that can provide the image runs an agent.
    NodeUnavailable,
    /// Building the package in the registry failed.
    PackageFailed,
    /// A policy of the cluster administrator forbids it.
    PolicyDenied,
    /// The destination rejected the content or the connection broke.
    PushFailed,
    /// The registry limits the request rate.
    RateLimited,
    /// The registry cannot be reached: name, address, connection or TLS.
    RegistryUnavailable,
    /// Another object writes to the same repository or tag, or it contains other content.
    RepositoryConflict,
    /// Generating an SBOM failed.
    SbomFailed,
    /// A Secret or ServiceAccount that the object names is missing or unreadable.
    SecretUnavailable,
    /// Signing failed, usually because of the key.
    SigningFailed,
    /// The source cannot be read: the engine is down, or the stream broke.
    SourceFailed,
    /// The image does not exist at its source.
    SourceNotFound,
    /// No progress within `stallTimeout`.
    TimedOut,
    /// An image is not signed as required.
    VerificationError,
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, formatter)
    }
}

/// What can resolve a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// Only another input; it is not retried before the object changes.
    Stalled,
    /// The owner of a conflicting object releases what both need. It is reported as stalled, because neither time nor
    /// this object resolves it, and is retried automatically like [`Disposition::Retryable`].
    Blocked,
    /// Waiting for the time that the server requested.
    Waiting {
        /// The delay from now.
        after: Duration,
    },
    /// Possibly another attempt, after an increasing delay.
    Retryable,
    /// Sending the same content again from its beginning, immediately: the destination lost what it had. After several
    /// of these it is treated like [`Disposition::Retryable`].
    Reread,
}

/// A failure: what happened, to which object, and what to do next, in one sentence.
///
/// The message contains no time, attempt number or address that differs between attempts of the same failure, so that
/// repetitions are recognized and not written again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The class of the failure.
    pub reason: Reason,
    /// What can resolve it.
    pub disposition: Disposition,
    /// What happened, to which object, and what to do next.
    pub message: String,
}

impl Fault {
    /// A failure that only another input resolves.
    pub fn stalled(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            disposition: Disposition::Stalled,
            message: message.into(),
        }
    }

    /// A conflict over a tag that belongs to another owner.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self {
            reason: Reason::RepositoryConflict,
            disposition: Disposition::Blocked,
            message: message.into(),
        }
    }

    /// Whether this object or a conflicting one must change before another attempt can succeed.
    pub fn is_stalled(&self) -> bool {
        matches!(self.disposition, Disposition::Stalled | Disposition::Blocked)
    }

    /// A failure that another attempt may resolve.
    pub fn retryable(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            disposition: Disposition::Retryable,
            message: message.into(),
        }
    }

    /// A failure that resolves itself `after` a time that the server requested.
    pub fn waiting(reason: Reason, after: Duration, message: impl Into<String>) -> Self {
        Self {
            reason,
            disposition: Disposition::Waiting { after },
            message: message.into(),
        }
    }

    /// Marks that another attempt needs to read the content again from its beginning.
    pub fn with_reread(mut self) -> Self {
        if self.disposition == Disposition::Retryable {
            self.disposition = Disposition::Reread;
        }
        self
    }

    /// Prefixes the message with what it concerns.
    pub fn with_context(mut self, what: impl fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.reason, self.message)
    }
}

impl std::error::Error for Fault {}

/// The user interface of this process, which decides what advice applies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Frontend {
    /// A cluster: fields of objects, and Secrets.
    #[default]
    Cluster,
    /// The command line: flags and files.
    CommandLine,
}

static FRONTEND: OnceLock<Frontend> = OnceLock::new();

impl Frontend {
    /// Sets the frontend of this process. Only the first call has an effect.
    pub fn choose(self) {
        let _ = FRONTEND.set(self);
    }

    /// The frontend of this process.
    pub fn of_process() -> Self {
        FRONTEND.get().copied().unwrap_or_default()
    }
}
