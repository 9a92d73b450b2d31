//! When new connections are refused although nothing is wrong with them: too many a second, too little
//! memory, as many sessions as there may be.
//!
//! Who is connected already goes on in each case: what it may make the node keep has bounds of its own.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use codec::{ClientId, ReasonCode};
use tokio::time::Instant;

use crate::broker::Broker;
use crate::config::{LimitsConfig, MemoryHigh};
use crate::rate::TokenBucket;
use crate::refusal::Refused;
use crate::{count, memory, metrics};

/// Memory is short until a twentieth less is used than the bound: otherwise each purge of the allocator
/// would let a few clients in, who would be refused a moment later.
const RELIEF: u64 = 20;

/// What decides whether another connection is taken.
#[derive(Debug)]
pub(crate) struct Overload {
    /// CONNECTs per second; `None`: no limit.
    connects: Mutex<Option<TokenBucket>>,
    /// Bytes of this process from which on no new connection is taken; `u64::MAX`: no limit.
    memory_high: AtomicU64,
    is_memory_short: AtomicBool,
}

impl Overload {
    /// As configured, on this machine.
    pub(crate) fn new(limits: &LimitsConfig) -> Self {
        let overload = Self {
            connects: Mutex::new(None),
            memory_high: AtomicU64::new(u64::MAX),
            is_memory_short: AtomicBool::new(false),
        };
        overload.set_limits(limits);
        overload
    }

    /// The limits from now on.
    pub(crate) fn set_limits(&self, limits: &LimitsConfig) {
        let memory_high = match limits.memory_high {
            MemoryHigh::Off => None,
            MemoryHigh::Bytes(bytes) => Some(bytes),
            MemoryHigh::Percent(percent) => {
                memory::available_bytes().map(|bytes| bytes / 100 * u64::from(percent))
            }
        };
        let connect_rate = u64::from(limits.connect_rate);
        let connects = TokenBucket::full(connect_rate, Instant::now());
        *self.connects.lock().unwrap_or_else(PoisonError::into_inner) = connects;
        let high = memory_high.unwrap_or(u64::MAX);
        self.memory_high.store(high, Ordering::Relaxed);
        tracing::info!(
            memory_high,
            "memory beyond which no new connection is taken"
        );
        count::memory_limit(memory_high);
        self.look();
    }

    /// Looks how much memory is in use.
    pub(crate) fn look(&self) {
        let high = self.memory_high.load(Ordering::Relaxed);
        // Not known is not short.
        let used = metrics::resident_bytes().unwrap_or(0);
        let was_short = self.is_memory_short.load(Ordering::Relaxed);
        let is_short = is_short(used, high, was_short);
        self.is_memory_short.store(is_short, Ordering::Relaxed);
        count::overload("memory", is_short);
        if is_short && !was_short {
            tracing::warn!(
                used,
                high,
                "limits.memory_high: new connections are refused"
            );
        }
        if was_short && !is_short {
            tracing::info!(
                used,
                high,
                "limits.memory_high: new connections are taken again"
            );
        }
    }

    /// No new connection is taken for want of memory.
    pub(crate) fn is_memory_short(&self) -> bool {
        self.is_memory_short.load(Ordering::Relaxed)
    }

    /// Whether another CONNECT is looked at. Costs next to nothing.
    pub(crate) fn admit(&self) -> Result<(), Refused> {
        let mut connects = self.connects.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(connects) = connects.as_mut()
            && !connects.take_one(Instant::now())
        {
            return Err(Refused {
                reason_code: ReasonCode::ConnectionRateExceeded,
                cause: "connect_rate",
            });
        }
        drop(connects);
        if self.is_memory_short.load(Ordering::Relaxed) {
            return Err(Refused {
                reason_code: ReasonCode::ServerBusy,
                cause: "memory_high",
            });
        }
        Ok(())
    }
}

/// Above `high`, and then until it is clearly less.
fn is_short(used: u64, high: u64, was_short: bool) -> bool {
    let until = if was_short {
        high - high / RELIEF
    } else {
        high
    };
    used >= until
}

impl Broker {
    /// Whether the cluster has room for this client's session, as this node knows it. One that is there
    /// already needs none.
    pub(crate) fn admit_session(&self, client_id: &ClientId) -> Result<(), Refused> {
        let max = self.limits().sessions_max;
        if max == 0 {
            return Ok(());
        }
        if self.knows(client_id) {
            return Ok(());
        }
        let counts = self.shards.iter();
        let counts = counts.map(|shard| shard.with_machine(raft_store::Machine::session_count));
        let sessions = u64::try_from(counts.sum::<usize>()).unwrap_or(u64::MAX);
        if sessions < max {
            return Ok(());
        }
        Err(Refused {
            reason_code: ReasonCode::QuotaExceeded,
            cause: "sessions_max",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn memory_stays_short_until_clearly_less_is_used() {
        let mut short = false;
        for (used, expected) in [(999, false), (1_000, true), (951, true), (950, true)] {
            short = is_short(used, 1_000, short);
            assert_eq!(short, expected, "{used}");
        }
        for (used, expected) in [(949, false), (999, false), (1_000, true)] {
            short = is_short(used, 1_000, short);
            assert_eq!(short, expected, "{used}");
        }
    }

    #[test]
    fn beyond_the_rate_connections_are_refused_and_beyond_the_memory_too() {
        let mut limits = Config::default().limits;
        limits.connect_rate = 2;
        let overload = Overload::new(&limits);
        let codes: Vec<_> = (0..3)
            .map(|_| overload.admit().err().map(|refused| refused.reason_code))
            .collect();
        let expected = [None, None, Some(ReasonCode::ConnectionRateExceeded)];
        assert_eq!(codes, expected);
        limits.connect_rate = 0;
        limits.memory_high = MemoryHigh::Bytes(1);
        let refused = Overload::new(&limits).admit().unwrap_err();
        assert_eq!(refused.reason_code, ReasonCode::ServerBusy);
    }
}
