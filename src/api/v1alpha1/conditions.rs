//! Conditions in kstatus form: `Ready` is always there, `Reconciling` and `Stalled` only while true.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// The object is as it was asked to be.
pub const READY: &str = "Ready";
/// Somebody works on it.
pub const RECONCILING: &str = "Reconciling";
/// Nothing happens before the object or something that it names changes.
pub const STALLED: &str = "Stalled";

/// The SBOMs of all images of a package are there, and in its artifact. Where no SBOMs are made it is absent.
pub const SBOMS_COMPLETE: &str = "SBOMsComplete";

/// The signatures of a package are written. Where none are asked for it is absent.
pub const SIGNED: &str = "Signed";
/// Each image that must have signatures has them. Where none must it is absent.
pub const VERIFIED: &str = "Verified";

/// The longest message in bytes, which is also what an event's note holds.
const MESSAGE_LIMIT: usize = 1000;

/// A set of conditions that is changed by saying what is the case, and keeps the times of what did not change.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conditions(pub Vec<Condition>);

impl Conditions {
    /// Ready: nothing is left to do.
    pub fn ready(&mut self, generation: Option<i64>, reason: &str, message: &str, now: Time) {
        self.replace(READY, "True", reason, message, generation, now);
        self.remove(&[RECONCILING, STALLED]);
    }

    /// At work: whether it comes about is not known yet.
    pub fn progressing(&mut self, generation: Option<i64>, reason: &str, message: &str, now: Time) {
        self.replace(READY, "Unknown", reason, message, generation, now.clone());
        self.replace(RECONCILING, "True", reason, message, generation, now);
        self.remove(&[STALLED]);
    }

    /// Failed, and tried again by itself.
    pub fn failing(&mut self, generation: Option<i64>, reason: &str, message: &str, now: Time) {
        self.replace(READY, "False", reason, message, generation, now.clone());
        self.replace(RECONCILING, "True", "ProgressingWithRetry", message, generation, now);
        self.remove(&[STALLED]);
    }

    /// Failed, and not tried before something changes.
    pub fn stalled(&mut self, generation: Option<i64>, reason: &str, message: &str, now: Time) {
        self.replace(READY, "False", reason, message, generation, now.clone());
        self.replace(STALLED, "True", reason, message, generation, now);
        self.remove(&[RECONCILING]);
    }

    /// Nothing happens because somebody wants it so. What is ready stays ready.
    pub fn suspended(&mut self, generation: Option<i64>, now: Time) {
        let message = "suspended: set spec.suspend to false to go on";
        match self
            .get(READY)
            .filter(|ready| ready.status == "True")
            .map(|ready| ready.message.clone())
        {
            Some(known) => self.replace(READY, "True", "Suspended", &known, generation, now),
            None => self.replace(READY, "False", "Suspended", message, generation, now),
        }
        self.remove(&[RECONCILING, STALLED]);
    }

    /// A condition of another `kind` than Ready and those that go with it, of which it says nothing: whether it holds,
    /// `None` while that is not known.
    pub fn set(
        &mut self,
        kind: &str,
        holds: Option<bool>,
        (reason, message): (&str, &str),
        generation: Option<i64>,
        now: Time,
    ) {
        let status = match holds {
            None => "Unknown",
            Some(true) => "True",
            Some(false) => "False",
        };
        self.replace(kind, status, reason, message, generation, now);
    }

    /// A condition of that kind has nothing to say.
    pub fn clear(&mut self, kind: &str) {
        self.remove(&[kind]);
    }

    /// The condition of that type.
    pub fn get(&self, kind: &str) -> Option<&Condition> {
        self.0.iter().find(|condition| condition.type_ == kind)
    }

    /// Whether the condition of that type is `True` for this generation.
    pub fn is_true(&self, kind: &str, generation: Option<i64>) -> bool {
        self.get(kind)
            .is_some_and(|c| c.status == "True" && c.observed_generation == generation)
    }

    /// Whether this generation failed and is tried again by itself.
    pub fn is_failing(&self, generation: Option<i64>) -> bool {
        let failed = |ready: &Condition| ready.status == "False" && ready.observed_generation == generation;
        self.get(READY).is_some_and(failed) && self.is_true(RECONCILING, generation)
    }

    fn replace(&mut self, kind: &str, status: &str, reason: &str, message: &str, generation: Option<i64>, now: Time) {
        let since = match self.get(kind) {
            Some(known) if known.status == status => known.last_transition_time.clone(),
            _ => now,
        };
        let next = Condition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message: cut(message),
            observed_generation: generation,
            last_transition_time: since,
        };
        match self.0.iter_mut().find(|condition| condition.type_ == kind) {
            Some(known) => *known = next,
            None => self.0.push(next),
        }
    }

    fn remove(&mut self, kinds: &[&str]) {
        self.0.retain(|condition| !kinds.contains(&condition.type_.as_str()));
    }
}

/// `message` cut to what a condition and an event's note hold, at a character's border.
pub fn cut(message: &str) -> String {
    cut_to(message, MESSAGE_LIMIT)
}

/// `message` cut to `limit` bytes, at a character's border.
pub fn cut_to(message: &str, limit: usize) -> String {
    if message.len() <= limit {
        return message.to_owned();
    }
    let mut end = limit.saturating_sub('…'.len_utf8());
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &message[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Time {
        Time(jiff::Timestamp::from_second(second).unwrap())
    }

    #[test]
    fn keeps_the_time_of_what_did_not_change() {
        let mut conditions = Conditions::default();
        conditions.failing(Some(1), "PushFailed", "a", at(1));
        conditions.failing(Some(1), "RateLimited", "b", at(2));
        let ready = conditions.get(READY).unwrap();
        assert_eq!(
            (&ready.last_transition_time, ready.reason.as_str()),
            (&at(1), "RateLimited")
        );
        conditions.ready(Some(1), "Succeeded", "", at(3));
        assert_eq!(conditions.get(READY).unwrap().last_transition_time, at(3));
    }

    #[test]
    fn abnormal_conditions_stand_only_while_true() {
        let mut conditions = Conditions::default();
        conditions.stalled(Some(1), "InvalidReference", "x", at(1));
        assert!(conditions.is_true(STALLED, Some(1)) && conditions.get(RECONCILING).is_none());
        conditions.progressing(Some(2), "Progressing", "x", at(2));
        assert!(conditions.get(STALLED).is_none() && conditions.is_true(RECONCILING, Some(2)));
        conditions.ready(Some(2), "Succeeded", "", at(3));
        assert_eq!(conditions.0.len(), 1);
        assert!(!conditions.is_true(READY, Some(3)));
    }

    #[test]
    fn cuts_at_a_characters_border() {
        let cut = cut(&"ä".repeat(800));
        assert!(cut.len() <= MESSAGE_LIMIT && cut.ends_with('…'));
    }
}
