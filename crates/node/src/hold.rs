//! Acknowledgements that wait for a slow subscriber: of a publisher here, or of a peer's.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::mailbox::Mailbox;
use crate::waiter::LiveWaiter;

/// One acknowledgement that waits. The message itself has been handed over.
#[derive(Debug)]
pub(crate) enum Hold {
    /// Of a publisher that is connected here.
    Here(LiveWaiter),
    /// Of a publisher of a peer, which knows the message by its number in the stream.
    Peer(Arc<Receipts>, u64),
}

impl Hold {
    /// It waits no longer.
    pub(crate) fn release(self) {
        match self {
            Self::Here(waiter) => waiter.released(),
            Self::Peer(receipts, sequence) => receipts.release(sequence),
        }
    }
}

/// What a peer is still to be told of its messages. Bounded by what its publishers have under way.
#[derive(Debug, Default)]
pub(crate) struct Receipts {
    news: Mutex<News>,
    released: Notify,
}

/// Numbers of messages in the peer's stream.
#[derive(Debug, Default)]
pub(crate) struct News {
    /// Held up, in ascending order.
    pub(crate) held: Vec<u64>,
    /// Held up no longer; the peer knows by now, or learns at the same time, that they were.
    pub(crate) released: Vec<u64>,
}

impl Receipts {
    /// Holds a message up for a connection, unless that has caught up.
    pub(crate) fn hold(self: &Arc<Self>, sequence: u64, lagging: &Arc<Mailbox>) {
        // First, so that it is not released before it is held.
        self.lock().held.push(sequence);
        if lagging
            .hold(Hold::Peer(Arc::clone(self), sequence))
            .is_err()
        {
            self.lock().held.pop();
        }
    }

    fn release(&self, sequence: u64) {
        self.lock().released.push(sequence);
        self.released.notify_one();
    }

    /// What is new since the last time.
    pub(crate) fn take(&self) -> News {
        std::mem::take(&mut *self.lock())
    }

    /// Waits until something was released. Cancel-safe.
    pub(crate) async fn released(&self) {
        let notified = self.released.notified();
        if self.lock().released.is_empty() {
            notified.await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, News> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
