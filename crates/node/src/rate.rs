//! How much of something may happen in a second, and what a client's connection does about it: it is
//! not read, so that TCP pushes back. Nothing is lost and nobody is closed.
//!
//! Invariant: over any time a bucket gives at most that time's share and one second's.

use std::num::NonZeroU64;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::LimitsConfig;
use crate::connection::Connection;
use crate::count;
use crate::wire::READ_BYTES_MAX;

/// What a bucket holds at most: what flows into it in this time.
const BURST: Duration = Duration::from_secs(1);
const NANOSECONDS: u128 = 1_000_000_000;
/// A client beyond its byte rate is read again when this part of a second's bytes may be read: to read
/// each byte as soon as it may be would cost a system call for each.
const SLICES_PER_SECOND: u64 = 20;
/// Packet type of PUBLISH in a first byte.
const PUBLISH: u8 = 3;

/// Tokens flow in at a constant rate and are taken as they are needed.
#[derive(Debug)]
pub(crate) struct TokenBucket {
    per_second: NonZeroU64,
    /// What flowed in until then is taken.
    taken_until: Instant,
}

impl TokenBucket {
    /// A full bucket; `None` for a rate of 0, which means no limit.
    pub(crate) fn full(per_second: u64, now: Instant) -> Option<Self> {
        Some(Self {
            per_second: NonZeroU64::new(per_second)?,
            taken_until: now.checked_sub(BURST).unwrap_or(now),
        })
    }

    /// How many there are.
    pub(crate) fn available(&mut self, now: Instant) -> u64 {
        // What would flow over is gone.
        let full_since = now.checked_sub(BURST).unwrap_or(self.taken_until);
        self.taken_until = self.taken_until.max(full_since);
        let since = now.saturating_duration_since(self.taken_until).as_nanos();
        let tokens = since.saturating_mul(self.rate()) / NANOSECONDS;
        u64::try_from(tokens).unwrap_or(u64::MAX)
    }

    /// Takes one if there is one.
    pub(crate) fn take_one(&mut self, now: Instant) -> bool {
        let is_there = self.available(now) > 0;
        if is_there {
            self.take(1);
        }
        is_there
    }

    /// Takes so many, which are there.
    fn take(&mut self, tokens: u64) {
        self.taken_until = self.ready_at(tokens);
    }

    /// When so many will be there.
    fn ready_at(&self, tokens: u64) -> Instant {
        let nanoseconds = u128::from(tokens)
            .saturating_mul(NANOSECONDS)
            .div_ceil(self.rate());
        let nanoseconds = u64::try_from(nanoseconds).unwrap_or(u64::MAX);
        self.taken_until + Duration::from_nanos(nanoseconds)
    }

    fn rate(&self) -> u128 {
        u128::from(self.per_second.get())
    }
}

/// What one client may send in a second.
#[derive(Debug)]
pub(crate) struct ClientRates {
    publishes: Option<TokenBucket>,
    bytes: Option<TokenBucket>,
    is_paused: bool,
}

impl ClientRates {
    /// `None`: as much as it likes.
    pub(crate) fn new(limits: &LimitsConfig, now: Instant) -> Option<Box<Self>> {
        let publishes = TokenBucket::full(u64::from(limits.publish_rate), now);
        let bytes = TokenBucket::full(limits.byte_rate, now);
        (publishes.is_some() || bytes.is_some()).then(|| {
            Box::new(Self {
                publishes,
                bytes,
                is_paused: false,
            })
        })
    }

    /// When the PUBLISH that comes next may be taken. `None`: now.
    fn publish_at(&mut self, first_byte: Option<u8>, now: Instant) -> Option<Instant> {
        let bucket = self.publishes.as_mut()?;
        let is_publish = first_byte.is_some_and(|byte| byte >> 4 == PUBLISH);
        (is_publish && bucket.available(now) == 0).then(|| bucket.ready_at(1))
    }

    /// When the client may be read again. `None`: now.
    fn bytes_at(&mut self, now: Instant) -> Option<Instant> {
        let bucket = self.bytes.as_mut()?;
        let slice = (bucket.per_second.get() / SLICES_PER_SECOND).clamp(1, SLICE_BYTES_MAX);
        (bucket.available(now) < slice).then(|| bucket.ready_at(slice))
    }

    /// When the client may be read again, for either reason; a pause that begins is counted.
    fn paused_until(&mut self, first_byte: Option<u8>, now: Instant) -> Option<Instant> {
        let publish_at = self.publish_at(first_byte, now);
        let bytes_at = self.bytes_at(now);
        let until = publish_at.max(bytes_at);
        if until.is_some() && !self.is_paused {
            let is_publish = publish_at.is_some();
            count::throttled(if is_publish {
                "publish_rate"
            } else {
                "byte_rate"
            });
        }
        self.is_paused = until.is_some();
        until
    }
}

/// As [`READ_BYTES_MAX`].
const SLICE_BYTES_MAX: u64 = 64 * 1024;

impl Connection {
    /// The client has sent more than it may: until then it is not read.
    pub(crate) fn paused_until(&mut self) -> Option<Instant> {
        let first_byte = self.wire.input.first().copied();
        let rates = self.rates.as_mut()?;
        rates.paused_until(first_byte, Instant::now())
    }

    /// The next packet is a PUBLISH that the client may not send yet.
    pub(crate) fn is_publish_early(&mut self) -> bool {
        let first_byte = self.wire.input.first().copied();
        let rates = self.rates.as_mut();
        rates.is_some_and(|rates| rates.publish_at(first_byte, Instant::now()).is_some())
    }

    /// A PUBLISH was taken.
    pub(crate) fn spend_publish(&mut self) {
        let rates = self.rates.as_mut();
        if let Some(bucket) = rates.and_then(|rates| rates.publishes.as_mut()) {
            bucket.take(1);
        }
    }

    /// Bytes were read.
    pub(crate) fn spend_bytes(&mut self, bytes: usize) {
        let rates = self.rates.as_mut();
        if let Some(bucket) = rates.and_then(|rates| rates.bytes.as_mut()) {
            bucket.take(u64::try_from(bytes).unwrap_or(u64::MAX));
        }
    }

    /// What may be read at once.
    pub(crate) fn read_bytes_max(&mut self) -> usize {
        let rates = self.rates.as_mut();
        let Some(bucket) = rates.and_then(|rates| rates.bytes.as_mut()) else {
            return READ_BYTES_MAX;
        };
        let available = bucket.available(Instant::now());
        usize::try_from(available)
            .unwrap_or(usize::MAX)
            .clamp(1, READ_BYTES_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_bucket_gives_a_second_at_once_and_then_its_rate() {
        let start = Instant::now() + 10 * SECOND;
        let mut bucket = TokenBucket::full(4, start).unwrap();
        for _ in 0..4 {
            assert!(bucket.take_one(start));
        }
        assert!(!bucket.take_one(start));
        assert_eq!(bucket.ready_at(1), start + SECOND / 4);
        assert!(!bucket.take_one(start + SECOND / 5));
        assert!(bucket.take_one(start + SECOND / 4));
        // However long nothing was taken, there is no more than a second's worth.
        let later = start + 100 * SECOND;
        assert_eq!(bucket.available(later), 4);
        assert!(TokenBucket::full(0, start).is_none());
    }

    #[test]
    fn over_a_minute_no_more_passes_than_a_minute_and_a_second_allow() {
        for rate in [1, 7, 1_000, 999_983] {
            let start = Instant::now() + 10 * SECOND;
            let mut bucket = TokenBucket::full(rate, start).unwrap();
            let mut taken = 0;
            for step in 0..=60_000_u32 {
                let available = bucket.available(start + step * Duration::from_millis(1));
                bucket.take(available);
                taken += available;
            }
            // Each taking rounds by less than a nanosecond, never in favour of the client.
            let least = 61 * rate - 1 - rate / 10_000;
            assert!((least..=61 * rate).contains(&taken), "{rate}: {taken}");
        }
    }

    #[test]
    fn when_it_says_that_tokens_are_there_they_are() {
        for rate in [3, 7, 1_000_003, 1 << 40] {
            let now = Instant::now() + 10 * SECOND;
            let mut bucket = TokenBucket::full(rate, now).unwrap();
            let all = bucket.available(now);
            bucket.take(all);
            for tokens in [1, 2, rate / 3, rate] {
                let at = bucket.ready_at(tokens);
                assert!(bucket.available(at) >= tokens, "{rate}: {tokens}");
            }
        }
    }

    #[test]
    fn only_a_publish_waits_for_the_publish_rate() {
        let now = Instant::now() + 10 * SECOND;
        let mut limits = crate::config::Config::default().limits;
        assert!(ClientRates::new(&limits, now).is_none());
        limits.publish_rate = 1;
        let mut rates = ClientRates::new(&limits, now).unwrap();
        let (publish, puback) = (Some(0x32), Some(0x40));
        assert_eq!(rates.paused_until(publish, now), None);
        assert!(rates.publishes.as_mut().unwrap().take_one(now));
        assert_eq!(rates.paused_until(publish, now), Some(now + SECOND));
        assert_eq!(rates.paused_until(puback, now), None);
        assert_eq!(rates.paused_until(None, now), None);
    }
}
