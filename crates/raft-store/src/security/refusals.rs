//! Peers that are refused: counted, and logged once a minute each.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use metrics::counter;

/// How often one peer's refusal for one reason is logged.
const LOG_EVERY: Duration = Duration::from_mins(1);
/// Peers that are remembered; a stranger cannot fill memory with names. Beyond it nothing is logged
/// until one is a minute old.
const REMEMBERED_MAX: usize = 256;

static LOGGED: Mutex<BTreeMap<(String, &'static str), Instant>> = Mutex::new(BTreeMap::new());

/// A peer is refused: counts it by `reason`, and logs it unless that was done within a minute.
pub fn refuse_peer(peer: &str, reason: &'static str, detail: &str) {
    counter!("holdfast_peer_refused_total", "reason" => reason).increment(1);
    if is_news(peer, reason, Instant::now()) {
        tracing::error!(peer, reason, detail, "refused a peer");
    }
}

fn is_news(peer: &str, reason: &'static str, now: Instant) -> bool {
    let mut logged = LOGGED.lock().unwrap_or_else(PoisonError::into_inner);
    logged.retain(|_, at| now.saturating_duration_since(*at) < LOG_EVERY);
    let key = (peer.to_owned(), reason);
    if logged.len() >= REMEMBERED_MAX || logged.contains_key(&key) {
        return false;
    }
    logged.insert(key, now);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_logged_once_a_minute_for_each_reason() {
        let start = Instant::now();
        assert!(is_news("192.0.2.1", "tls", start));
        assert!(is_news("192.0.2.1", "secret", start));
        assert!(is_news("192.0.2.2", "tls", start));
        assert!(!is_news("192.0.2.1", "tls", start + LOG_EVERY / 2));
        assert!(is_news("192.0.2.1", "tls", start + LOG_EVERY));
    }
}
