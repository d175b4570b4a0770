//! The error type of all modules: every failure has a reason, a disposition and a message.
//!
//! The module where a failure happens chooses the [`Reason`], which becomes the reason of a condition, of an event and
//! of a metric.

use std::fmt;
use std::sync::OnceLock;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Why something is not as it was asked to be: the `reason` of a condition, of its event and of a metric.
/// A closed set, so that alerts can be written against it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Reason {
    /// Two nodes hold different images under one name.
    AmbiguousSource,
    /// Credentials are missing, wrong or too weak.
    AuthenticationFailed,
    /// A ConfigMap that the object names is missing, or lacks what is asked of it.
    ConfigMapUnavailable,
    /// Content arrived whose digest is not the one that was asked for.
    DigestMismatch,
    /// The operator itself failed.
    InternalError,
    /// A reference, or a name made from it, is one that no registry takes.
    InvalidReference,
    /// Another field of the object is not usable.
    InvalidSpec,
    /// No node that may read the image runs an agent.
    NodeUnavailable,
    /// Putting the package together in the registry failed.
    PackageFailed,
    /// A policy of the cluster's administrator does not allow it.
    PolicyDenied,
    /// The destination refused or broke off.
    PushFailed,
    /// The registry asked for patience.
    RateLimited,
    /// The registry cannot be reached: name, address, connection or TLS.
    RegistryUnavailable,
    /// Another object writes to the same place, or content of another kind stands there.
    RepositoryConflict,
    /// No SBOM of an image could be made.
    SbomFailed,
    /// A Secret or ServiceAccount that the object names is missing or unreadable.
    SecretUnavailable,
    /// Signing failed, mostly because of its key.
    SigningFailed,
    /// The source cannot be read: the engine is down, or the stream broke off.
    SourceFailed,
    /// The image does not exist at its source.
    SourceNotFound,
    /// Nothing moved for as long as `stallTimeout` allows.
    TimedOut,
    /// An image has not the signatures that it must have.
    VerificationError,
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, formatter)
    }
}

/// What can end a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// Nothing but another input; it is not tried again before the object changes.
    Stalled,
    /// That somebody else gives up what both want. It is shown as stalled, since neither time nor this input ends it, and
    /// is looked at again by itself as [`Disposition::Retryable`] is.
    Blocked,
    /// Time: the other side said for how long.
    Waiting {
        /// From now.
        after: Duration,
    },
    /// Perhaps another try, after a delay that grows.
    Retryable,
    /// The same content from its beginning, at once: a destination lost what it had of it. After some of these it is
    /// as [`Disposition::Retryable`].
    Reread,
}

/// A failure: what happened, to what, and what to do next, in one sentence that a person can act on.
///
/// The message names no time, attempt number or address that changes between two tries of the same failure,
/// so that a repetition is recognised and not written again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The class of the failure.
    pub reason: Reason,
    /// What can end it.
    pub disposition: Disposition,
    /// What happened, to what, and what to do next.
    pub message: String,
}

impl Fault {
    /// A failure that only another input ends.
    pub fn stalled(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            disposition: Disposition::Stalled,
            message: message.into(),
        }
    }

    /// A tag that belongs to somebody else.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self {
            reason: Reason::RepositoryConflict,
            disposition: Disposition::Blocked,
            message: message.into(),
        }
    }

    /// Whether the object is to change, or somebody else's, before another try can succeed.
    pub fn is_stalled(&self) -> bool {
        matches!(self.disposition, Disposition::Stalled | Disposition::Blocked)
    }

    /// A failure that another try may end.
    pub fn retryable(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            disposition: Disposition::Retryable,
            message: message.into(),
        }
    }

    /// A failure that ends by itself `after` a time that the other side named.
    pub fn waiting(reason: Reason, after: Duration, message: impl Into<String>) -> Self {
        Self {
            reason,
            disposition: Disposition::Waiting { after },
            message: message.into(),
        }
    }

    /// The same failure, where reading the content again from its beginning may end it.
    pub fn for_another_reading(mut self) -> Self {
        if self.disposition == Disposition::Retryable {
            self.disposition = Disposition::Reread;
        }
        self
    }

    /// The same failure, saying first what it happened to.
    pub fn within(mut self, what: impl fmt::Display) -> Self {
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

/// Where the person works who reads a failure of this process, and so what can be done about it there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Frontend {
    /// In a cluster: by fields of objects, and Secrets.
    #[default]
    Cluster,
    /// On the command line: by flags and files.
    CommandLine,
}

static FRONT: OnceLock<Frontend> = OnceLock::new();

impl Frontend {
    /// Decides for the whole process. The first decision stays.
    pub fn choose(self) {
        let _ = FRONT.set(self);
    }

    /// That of this process.
    pub fn of_process() -> Self {
        FRONT.get().copied().unwrap_or_default()
    }
}
