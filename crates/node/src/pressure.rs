//! Slow subscribers of one node, and what is done when all together hold too much.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use raft_store::CloseReason;
use tokio::time::{Instant, interval};

use crate::broker::Broker;
use crate::budget::Budget;
use crate::count;
use crate::mailbox::{Mail, Mailbox};

/// How often slow subscribers are looked at.
const LOOK_PERIOD: Duration = Duration::from_millis(200);
/// Connections that are closed at one look at most: closing takes a while to free memory.
const CLOSED_AT_ONCE_MAX: usize = 64;
/// A connection that holds less than this is not worth closing.
const HELD_BYTES_MIN: usize = 16 * 1024;

/// What the connections of one node have in common.
#[derive(Debug)]
pub(crate) struct Pressure {
    /// The memory for what is on its way to and from clients.
    pub(crate) budget: Arc<Budget>,
    /// Connections for which acknowledgements wait. At most one entry each.
    slow: Mutex<Vec<Weak<Mailbox>>>,
}

impl Pressure {
    /// With a budget of that many bytes.
    pub(crate) fn new(budget_bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            budget: Budget::new(budget_bytes),
            slow: Mutex::new(Vec::new()),
        })
    }

    /// Acknowledgements wait for this connection from now on.
    pub(crate) fn watch(&self, mailbox: &Arc<Mailbox>) {
        let mut slow = self.slow.lock().unwrap_or_else(PoisonError::into_inner);
        slow.push(Arc::downgrade(mailbox));
    }

    /// Nobody waits any longer for those that take hardly anything.
    fn look(&self) {
        let slow = {
            let mut slow = self.slow.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *slow)
        };
        let now = Instant::now();
        let still: Vec<_> = slow
            .into_iter()
            .filter(|mailbox| mailbox.upgrade().is_some_and(|mailbox| mailbox.look(now)))
            .collect();
        let mut slow = self.slow.lock().unwrap_or_else(PoisonError::into_inner);
        slow.extend(still);
    }
}

/// Looks after slow subscribers and the budget for as long as the node runs.
pub(crate) async fn relieve(broker: Arc<Broker>) {
    let mut tick = interval(LOOK_PERIOD);
    let mut was_full = false;
    loop {
        tick.tick().await;
        let pressure = &broker.pressure;
        pressure.look();
        count::buffers(pressure.budget.used());
        broker.overload.look();
        let is_full = pressure.budget.is_full();
        // Twice in a row: what is on its way out may be gone by then.
        if is_full && was_full {
            close_the_largest(&broker);
        }
        was_full = is_full && !was_full;
    }
}

/// Closes those who hold the most, until enough will be free.
fn close_the_largest(broker: &Broker) {
    let Some(life) = broker.dispatch.life() else {
        return;
    };
    let mut held = life.registry.held_bytes();
    held.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
    let mut excess = broker.pressure.budget.excess();
    let mut closed = 0_u32;
    for (bytes, mailbox) in held.into_iter().take(CLOSED_AT_ONCE_MAX) {
        if excess == 0 || bytes < HELD_BYTES_MIN {
            break;
        }
        mailbox.push(Mail::Close(CloseReason::QueueFull));
        excess = excess.saturating_sub(bytes);
        closed = closed.saturating_add(1);
    }
    tracing::warn!(
        closed,
        used_bytes = broker.pressure.budget.used(),
        "limits.buffers_max_bytes is used up: the connections that hold the most are closed"
    );
}
