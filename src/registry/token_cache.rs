//! The tokens of one registry. A token service decides how long they are, so their length together is limited too.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;

use super::cache::bounded_cache;
use super::token_service::{Token, TokenRequest};

/// Maximum number of tokens.
const CAPACITY: NonZeroUsize = NonZeroUsize::new(512).unwrap();
/// Maximum length in bytes of all tokens and their requests. A process has hundreds of registry clients.
const MAX_LENGTH: usize = 1024 * 1024;

/// The place of one token. Concurrent requests wait here for one fetch and share its token.
#[derive(Default)]
pub(super) struct TokenSlot {
    /// The token, once it was fetched.
    pub token: tokio::sync::Mutex<Option<Token>>,
    length: AtomicUsize,
}

/// The tokens by their requests.
pub(super) struct TokenCache(Mutex<LruCache<TokenRequest, Arc<TokenSlot>>>);

impl Default for TokenCache {
    fn default() -> Self {
        Self(Mutex::new(bounded_cache(CAPACITY)))
    }
}

impl TokenCache {
    /// The place of the token for `request`.
    pub fn slot(&self, request: &TokenRequest) -> Arc<TokenSlot> {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(slots.get_or_insert_ref(request, Arc::default))
    }

    /// Records that `token` is kept in `slot`. If the tokens together are too long, those that were not used for the longest time
    /// are dropped.
    pub fn record(&self, slot: &TokenSlot, token: &Token) {
        slot.length.store(token.value.len(), Ordering::Relaxed);
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let length =
            |(request, slot): (&TokenRequest, &Arc<TokenSlot>)| request.length() + slot.length.load(Ordering::Relaxed);
        let mut sum: usize = slots.iter().map(length).sum();
        while sum > MAX_LENGTH
            && let Some((request, slot)) = slots.pop_lru()
        {
            sum -= length((&request, &slot));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use reqwest::header::HeaderValue;

    use super::*;

    #[test]
    fn long_tokens_displace_old_ones() {
        let cache = TokenCache::default();
        let request = |number: usize| TokenRequest {
            realm: format!("https://r/{number}").parse().unwrap(),
            service: None,
            scopes: vec!["s".repeat(1000)],
        };
        let token = Token {
            value: HeaderValue::try_from("t".repeat(15_000)).unwrap(),
            renew_at: Instant::now(),
        };
        let slots: Vec<_> = (0..100).map(|number| cache.slot(&request(number))).collect();
        slots.iter().for_each(|slot| cache.record(slot, &token));
        let kept = |number: usize| Arc::ptr_eq(&slots[number], &cache.slot(&request(number)));
        assert!(kept(99) && kept(60));
        assert!(!kept(0) && !kept(20));
    }
}
