//! Failed logins: how many there may be before further ones are refused without a look.
//!
//! Ten at once, then one every six seconds, for each source address and for each user name. A user who
//! has logged in from an address before is counted by these two together and not by either alone, so
//! that neither somebody else behind the same address nor somebody who guesses from elsewhere locks it
//! out.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lru::LruCache;
use tokio::time::Instant;

/// Failures that are let pass at once.
const FAILURES_MAX: u32 = 10;
/// After this time one of them is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(6);
/// Addresses and users that are counted, and pairs that have logged in; of more, those that were not
/// seen for the longest time are forgotten.
const KEPT_MAX: NonZeroUsize = NonZeroUsize::new(65_536).expect("not 0");

/// What failures are counted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    Source(IpAddr),
    User(u64),
    Pair(IpAddr, u64),
}

/// The counts of one node.
#[derive(Debug)]
pub(super) struct Throttle {
    counts: Mutex<Counts>,
    hasher: RandomState,
}

#[derive(Debug)]
struct Counts {
    /// When all failures of a key will be forgotten.
    failures: LruCache<Key, Instant>,
    /// Users who have logged in from these addresses.
    known: LruCache<(IpAddr, u64), ()>,
}

impl Throttle {
    pub(super) fn new() -> Self {
        Self {
            counts: Mutex::new(Counts {
                failures: LruCache::new(KEPT_MAX),
                known: LruCache::new(KEPT_MAX),
            }),
            hasher: RandomState::new(),
        }
    }

    /// Whether another attempt is looked at.
    pub(super) fn admits(&self, source: IpAddr, user: Option<&str>, now: Instant) -> bool {
        let keys = self.keys(source, user);
        let mut counts = self.counts();
        counts.relevant(keys).all(|key| counts.admits(key, now))
    }

    /// An attempt has failed. True: with this one the limit is reached.
    pub(super) fn failed(&self, source: IpAddr, user: Option<&str>, now: Instant) -> bool {
        let keys = self.keys(source, user);
        let mut counts = self.counts();
        let before: Vec<Key> = counts.relevant(keys).collect();
        let was_open = before.iter().all(|key| counts.admits(*key, now));
        for key in [Some(keys.0), keys.1, keys.2].into_iter().flatten() {
            counts.add(key, now);
        }
        was_open && !before.iter().all(|key| counts.admits(*key, now))
    }

    /// A user has logged in.
    pub(super) fn succeeded(&self, source: IpAddr, user: &str) {
        if let (_, _, Some(Key::Pair(source, user))) = self.keys(source, Some(user)) {
            self.counts().known.put((source, user), ());
        }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The source, the user, and both together.
    fn keys(&self, source: IpAddr, user: Option<&str>) -> (Key, Option<Key>, Option<Key>) {
        let source = network(source);
        let user = user.map(|user| self.hasher.hash_one(user));
        (
            Key::Source(source),
            user.map(Key::User),
            user.map(|user| Key::Pair(source, user)),
        )
    }
}

impl Counts {
    /// What decides about an attempt.
    fn relevant(
        &mut self,
        (source, user, pair): (Key, Option<Key>, Option<Key>),
    ) -> impl Iterator<Item = Key> + use<> {
        let is_known = match pair {
            Some(Key::Pair(source, user)) => self.known.get(&(source, user)).is_some(),
            Some(Key::Source(_) | Key::User(_)) | None => false,
        };
        let keys = if is_known {
            [pair, None]
        } else {
            [Some(source), user]
        };
        keys.into_iter().flatten()
    }

    fn admits(&self, key: Key, now: Instant) -> bool {
        let until = self.failures.peek(&key).copied().unwrap_or(now);
        let counted = until.saturating_duration_since(now);
        counted + FORGOTTEN_AFTER <= FORGOTTEN_AFTER * FAILURES_MAX
    }

    fn add(&mut self, key: Key, now: Instant) {
        let until = self.failures.get_or_insert_mut(key, || now);
        *until = (*until).max(now) + FORGOTTEN_AFTER;
    }
}

/// Of an IPv6 address the network that a customer is given: one host has as many as it likes.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Fails until no further attempt is looked at; how often.
    fn fail(throttle: &Throttle, from: &str, user: Option<&str>, now: Instant) -> u32 {
        let mut failures = 0;
        while throttle.admits(source(from), user, now) {
            failures += 1;
            let is_last = throttle.failed(source(from), user, now);
            assert_eq!(
                is_last,
                failures == FAILURES_MAX || !throttle.admits(source(from), user, now)
            );
        }
        failures
    }

    #[test]
    fn ten_failures_pass_and_then_one_in_six_seconds() {
        let throttle = Throttle::new();
        let now = Instant::now();
        assert_eq!(fail(&throttle, "192.0.2.1", None, now), 10);
        let later = now + FORGOTTEN_AFTER;
        assert!(!throttle.admits(source("192.0.2.1"), None, later - Duration::from_millis(1)));
        assert_eq!(fail(&throttle, "192.0.2.1", None, later), 1);
        assert_eq!(
            fail(&throttle, "192.0.2.1", None, now + Duration::from_secs(120)),
            10
        );
    }

    #[test]
    fn an_address_and_a_user_are_counted_each() {
        let throttle = Throttle::new();
        let now = Instant::now();
        for number in 0..10 {
            throttle.failed(source("192.0.2.1"), Some(&format!("user-{number}")), now);
        }
        assert!(!throttle.admits(source("192.0.2.1"), Some("new"), now));
        assert!(throttle.admits(source("192.0.2.2"), Some("user-1"), now));
        for number in 0..10 {
            throttle.failed(source(&format!("198.51.100.{number}")), Some("alice"), now);
        }
        assert!(!throttle.admits(source("192.0.2.3"), Some("alice"), now));
        assert!(throttle.admits(source("192.0.2.3"), Some("bob"), now));
        // One customer's addresses are one.
        assert_eq!(fail(&throttle, "2001:db8::1", None, now), 10);
        assert!(!throttle.admits(source("2001:db8::2:1"), None, now));
        assert!(throttle.admits(source("2001:db8:0:1::1"), None, now));
    }

    #[test]
    fn who_has_logged_in_before_is_not_locked_out_by_others() {
        let throttle = Throttle::new();
        let now = Instant::now();
        throttle.succeeded(source("192.0.2.1"), "alice");
        assert_eq!(fail(&throttle, "192.0.2.1", Some("bob"), now), 10);
        assert_eq!(fail(&throttle, "192.0.2.9", Some("alice"), now), 10);
        assert!(throttle.admits(source("192.0.2.1"), Some("alice"), now));
        // But has no more attempts than anybody.
        assert_eq!(fail(&throttle, "192.0.2.1", Some("alice"), now), 10);
    }
}
