//! Converts errors of registries into faults: the reason, whether a retry helps, and what to do.

use super::operation::Operation;
use super::{DEFAULT_RETRY_AFTER, Error, Kind};
use crate::fault::{Fault, Frontend, Reason};
use crate::oci::Document;
use crate::registry::advice::{self, Advice, RegistryUse};

/// What failed, and the reasons that depend on it.
struct Context<'a> {
    /// Such as `cannot read docker.io/library/nginx:1`.
    failure: &'a str,
    /// The reason without a more specific one.
    failed: Reason,
    not_found: Reason,
    invalid: Reason,
    /// What to do about something that does not exist.
    not_found_advice: &'static str,
    role: RegistryUse,
}

impl Error {
    /// The fault of reading `reference`.
    pub fn into_read_fault(self, reference: &str) -> Fault {
        self.into_fault(&Context {
            failure: &format!("cannot read {reference}"),
            failed: Reason::SourceFailed,
            not_found: Reason::SourceNotFound,
            invalid: Reason::InvalidReference,
            not_found_advice: "check the name and the tag, or push the image there",
            role: RegistryUse::Source,
        })
    }

    /// The fault of pushing to `target`.
    pub fn into_push_fault(self, target: &str) -> Fault {
        self.into_fault(&Context {
            failure: &format!("cannot push to {target}"),
            failed: Reason::PushFailed,
            not_found: Reason::PushFailed,
            invalid: Reason::PushFailed,
            not_found_advice: "create the repository if the registry does not create it automatically",
            role: RegistryUse::Destination,
        })
    }

    /// The fault of pushing the manifest or index `document` to `target`.
    pub fn into_document_push_fault(self, target: &str, document: &Document) -> Fault {
        let is_refusal = matches!(
            self.kind,
            Kind::NotFound | Kind::Invalid | Kind::Unsupported | Kind::Status(400..=500)
        );
        match advice::for_refused_document(document).filter(|_| is_refusal) {
            Some(advice) => Fault::retryable(Reason::PushFailed, format!("cannot push to {target}: {self}; {advice}")),
            None => self.into_push_fault(target),
        }
    }

    fn into_fault(self, context: &Context<'_>) -> Fault {
        let kind = match &self.kind {
            Kind::TooLarge if self.token_service => &Kind::TokenService,
            kind => kind,
        };
        let reason = self.reason(kind, context);
        let message = match self.advice_for(kind, context) {
            Some(advice) => format!("{}: {self}; {advice}", context.failure),
            None => format!("{}: {self}", context.failure),
        };
        match kind {
            Kind::RateLimited { after } => Fault::waiting(reason, after.unwrap_or(DEFAULT_RETRY_AFTER), message),
            Kind::Invalid | Kind::Address => Fault::stalled(reason, message),
            _ => Fault::retryable(reason, message),
        }
    }

    fn reason(&self, kind: &Kind, context: &Context<'_>) -> Reason {
        match kind {
            Kind::NotFound => context.not_found,
            Kind::Invalid => context.invalid,
            Kind::Unauthorized | Kind::Denied | Kind::TokenService => Reason::AuthenticationFailed,
            Kind::Forbidden => Reason::PolicyDenied,
            Kind::RateLimited { .. } => Reason::RateLimited,
            Kind::Unavailable | Kind::Status(502..=504 | 522) => Reason::RegistryUnavailable,
            Kind::Status(_) if self.token_service => Reason::RegistryUnavailable,
            Kind::TimedOut => Reason::TimedOut,
            Kind::DigestMismatch => Reason::DigestMismatch,
            Kind::Address => Reason::InvalidSpec,
            Kind::Trust => Reason::SecretUnavailable,
            Kind::NoSpace
            | Kind::Immutable
            | Kind::Interrupted
            | Kind::Status(_)
            | Kind::TooLarge
            | Kind::Unsupported
            | Kind::Protocol => context.failed,
        }
    }

    /// What to do, as the end of a sentence; `None` where the error says it.
    fn advice_for(&self, kind: &Kind, context: &Context<'_>) -> Option<String> {
        let operation = Operation::of(&self.label);
        let text = |advice: Advice| advice.text(Frontend::of_process(), context.role);
        let advice = match kind {
            Kind::NotFound => operation.not_found().unwrap_or(context.not_found_advice),
            Kind::Unauthorized => return Some(text(Advice::Credentials)),
            Kind::Denied => return Some(format!("{}; {}", operation.denied(), text(Advice::Permission))),
            Kind::Forbidden | Kind::Address => return None,
            Kind::RateLimited { .. } => "it is retried automatically; credentials often raise the limit",
            Kind::Unavailable | Kind::Trust => return self.advice.map(text),
            Kind::Status(_) if self.token_service => {
                "check that the token service is running; it is retried automatically"
            }
            Kind::Status(502..=504 | 522) => "check that the registry is running; it is retried automatically",
            Kind::TokenService => {
                "check the token service that the registry names in its responses, and that it knows this registry"
            }
            Kind::NoSpace => "free space in the registry, or raise its quota",
            Kind::Immutable => "push another tag, or allow overwriting this tag in the registry",
            Kind::Interrupted | Kind::Status(_) => {
                "it is retried automatically; the log of the registry may contain more"
            }
            Kind::TimedOut => "check the registry and the network, or raise stallTimeout",
            Kind::DigestMismatch => "check for a proxy that alters content; nothing was stored",
            Kind::TooLarge => "raise the limit of the registry or its proxy, or make the content smaller",
            Kind::Unsupported => operation.unsupported(),
            Kind::Invalid => "correct the name, the tag or the image",
            Kind::Protocol => "check that this is a registry, and its proxy if it has one",
        };
        Some(advice.to_owned())
    }
}
