//! Memory of one node for what is on its way to and from clients, bounded in sum.
//!
//! Each connection has bounds of its own; ten thousand of them together need another one. What counts:
//! buffers of sockets, what waits for each connection with a fixed part per message, and once,
//! however many wait for it, the content of each large message.
//!
//! Near the bound buffers become short, and publishers wait for whoever lags behind; at the bound
//! QoS 0 for those is lost and the connections that hold the most are closed (`pressure.rs`).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

/// What a share is rounded up to, so that a busy connection seldom touches the common count.
const SHARE_STEP: usize = 16 * 1024;
/// What a connection may hold without being counted.
const UNCOUNTED_MAX: usize = 4 * 1024;
/// From this size on the content of a message is counted once; a smaller one with each that waits.
pub(crate) const LARGE_BYTES: usize = 1024;
/// What a waiting message costs besides its content: its mail or place in a queue, a part of its body.
const MESSAGE_OVERHEAD_BYTES: usize = 256;

/// How much is used of the bound of a node.
#[derive(Debug)]
pub(crate) struct Budget {
    max: AtomicUsize,
    used: AtomicUsize,
}

impl Budget {
    /// `max` in bytes.
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            max: AtomicUsize::new(max),
            used: AtomicUsize::new(0),
        })
    }

    /// The bound from now on.
    pub(crate) fn set_max(&self, max: usize) {
        self.max.store(max, Ordering::Relaxed);
    }

    fn max(&self) -> usize {
        self.max.load(Ordering::Relaxed)
    }

    /// Bytes in use.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Three quarters are used.
    pub(crate) fn is_tight(&self) -> bool {
        self.used() >= self.max() / 4 * 3
    }

    /// All is used.
    pub(crate) fn is_full(&self) -> bool {
        self.used() >= self.max()
    }

    /// A quarter more is used than there should be: closing those who hold the most takes too long.
    pub(crate) fn is_overdrawn(&self) -> bool {
        self.used() >= self.max().saturating_add(self.max() / 4)
    }

    /// What is to be freed before buffers are as large as usual again.
    pub(crate) fn excess(&self) -> usize {
        self.used().saturating_sub(self.max() / 4 * 3)
    }

    /// The content of a message of `size` bytes, counted for as long as anybody refers to it.
    pub(crate) fn keep(self: &Arc<Self>, content: Vec<u8>, size: usize) -> Bytes {
        self.add(size);
        Bytes::from_owner(Kept {
            content,
            size,
            budget: Arc::clone(self),
        })
    }

    fn add(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Owns the content of a message.
struct Kept {
    content: Vec<u8>,
    size: usize,
    budget: Arc<Budget>,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.content
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.budget.give_back(self.size);
    }
}

/// What one connection holds of the budget. Given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Budget>,
    counted: usize,
}

impl Share {
    /// Nothing is held yet.
    pub(crate) fn new(budget: &Arc<Budget>) -> Self {
        Self {
            budget: Arc::clone(budget),
            counted: 0,
        }
    }

    /// The budget that it is a part of.
    pub(crate) fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// So much is held now. Costs nothing while that changes little.
    pub(crate) fn set(&mut self, bytes: usize) {
        let wanted = if bytes <= UNCOUNTED_MAX {
            0
        } else {
            bytes.div_ceil(SHARE_STEP).saturating_mul(SHARE_STEP)
        };
        let is_spare = wanted > 0 && wanted.saturating_add(SHARE_STEP) == self.counted;
        if wanted == self.counted || is_spare {
            return;
        }
        if wanted > self.counted {
            self.budget.add(wanted.saturating_sub(self.counted));
        } else {
            self.budget.give_back(self.counted.saturating_sub(wanted));
        }
        self.counted = wanted;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.give_back(self.counted);
    }
}

/// What waiting messages cost a connection; content that is large counts elsewhere, once.
pub(crate) fn cost(messages: usize, bytes: usize) -> usize {
    let small = bytes.min(messages.saturating_mul(LARGE_BYTES));
    messages
        .saturating_mul(MESSAGE_OVERHEAD_BYTES)
        .saturating_add(small)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_counts_once_for_as_long_as_anybody_refers_to_it() {
        let budget = Budget::new(1 << 20);
        let kept = budget.keep(vec![7; 5_000], 5_100);
        let copies: Vec<Bytes> = (0..100).map(|at| kept.slice(at..)).collect();
        assert_eq!(budget.used(), 5_100);
        drop(kept);
        assert_eq!(budget.used(), 5_100);
        drop(copies);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_share_follows_in_steps_and_is_given_back() {
        let budget = Budget::new(1 << 20);
        let mut share = Share::new(&budget);
        for (held, counted) in [
            (0, 0),
            (UNCOUNTED_MAX, 0),
            (UNCOUNTED_MAX + 1, SHARE_STEP),
            (SHARE_STEP + 1, 2 * SHARE_STEP),
            // One step more than needed is kept, for what may follow.
            (SHARE_STEP, 2 * SHARE_STEP),
            (10 * SHARE_STEP, 10 * SHARE_STEP),
            (SHARE_STEP, SHARE_STEP),
            (0, 0),
            (7 * SHARE_STEP, 7 * SHARE_STEP),
        ] {
            share.set(held);
            assert_eq!(budget.used(), counted, "{held}");
        }
        drop(share);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn what_is_held_is_named_by_how_much_of_the_bound_it_is() {
        let budget = Budget::new(1_000);
        for (used, expected) in [
            (749, (false, false, false)),
            (750, (true, false, false)),
            (1_000, (true, true, false)),
            (1_250, (true, true, true)),
        ] {
            let _kept = budget.keep(Vec::new(), used);
            let named = (budget.is_tight(), budget.is_full(), budget.is_overdrawn());
            assert_eq!(named, expected, "{used}");
        }
    }
}
