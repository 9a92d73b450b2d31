//! What other tasks hand to one connection.
//!
//! Three kinds of mail have three bounds. Answers: one per command or packet that the connection
//! sent, bounded by its Receive Maximum. Effects of a hosted session: bounded by its window. Live
//! messages: bounded here, in number and bytes, because their senders never wait for a client.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use codec::{PacketId, Qos, ReasonCode, TopicFilter};
use raft_store::{CloseReason, Effect, Response};
use session::{Delivery, Resend, Subscription};
use tokio::sync::Notify;

use crate::shared::{Shared, SharedOrigin};

/// One piece of mail.
#[derive(Debug)]
pub(crate) enum Mail {
    /// The response to a command that the connection proposed.
    Answer {
        /// The connection's own name for what it waits for.
        tag: u64,
        /// Log index at which it took effect.
        index: u64,
        /// The response.
        response: Response,
    },
    /// A peer has received a live message, or will never (its life is over).
    Received {
        /// The connection's own name for what it waits for.
        tag: u64,
    },
    /// A subscription change is visible to every node that may start a PUBLISH.
    Visible {
        /// The connection's own name for what it waits for.
        tag: u64,
    },
    /// The session was opened: what to send first.
    Resumed {
        /// In flight, in original order.
        resend: Vec<Resend>,
        /// The session's subscriptions.
        subscriptions: Vec<(TopicFilter, Subscription)>,
        /// QoS 2 ids of the client that it has not released.
        awaiting_pubrel: Vec<PacketId>,
    },
    /// A snapshot was installed: what is in flight, of which the connection sends what it has not.
    Resync {
        /// In flight, in original order.
        in_flight: Vec<Resend>,
    },
    /// A hosted session sends a PUBLISH.
    Send {
        /// Position in the session's order.
        position: u64,
        /// Packet id.
        packet_id: PacketId,
        /// What.
        delivery: Delivery,
    },
    /// A hosted session sends a PUBREL.
    SendPubrel {
        /// Packet id.
        packet_id: PacketId,
        /// 0x00 or 0x92.
        reason_code: ReasonCode,
        /// Place in the order of PUBRECs.
        pubrec_position: Option<u64>,
    },
    /// A message on the live plane.
    Live(Delivery),
    /// A message for this member of a shared subscription, held elsewhere until it is settled.
    LiveShared(Box<SharedDelivery>),
    /// What became of a message that the connection published to a shared subscription.
    Shared {
        /// The connection's own name for what it waits for.
        tag: u64,
        /// What became of it.
        outcome: Shared,
    },
    /// Close the connection.
    Close(CloseReason),
}

impl Mail {
    /// What an effect means to the connection that it names; `None`: it names none.
    pub(crate) fn of(effect: Effect) -> Option<Self> {
        match effect {
            Effect::Resumed {
                resend,
                subscriptions,
                awaiting_pubrel,
                ..
            } => Some(Self::Resumed {
                resend,
                subscriptions,
                awaiting_pubrel,
            }),
            Effect::Send {
                position,
                packet_id,
                delivery,
                ..
            } => Some(Self::Send {
                position,
                packet_id,
                delivery,
            }),
            Effect::SendPubrel {
                packet_id,
                reason_code,
                pubrec_position,
                ..
            } => Some(Self::SendPubrel {
                packet_id,
                reason_code,
                pubrec_position,
            }),
            Effect::Resync { in_flight, .. } => Some(Self::Resync { in_flight }),
            Effect::Close { reason, .. } => Some(Self::Close(reason)),
            Effect::FencesOver { .. }
            | Effect::LiveOutbox { .. }
            | Effect::RouteAdded { .. }
            | Effect::RouteRemoved { .. }
            | Effect::NodeUp { .. }
            | Effect::NodeDown { .. }
            | Effect::Dropped { .. } => None,
        }
    }

    /// How many of the things that the connection waits for this answers.
    pub(crate) fn answers(&self) -> u64 {
        match self {
            Self::Answer { .. } | Self::Received { .. } | Self::Shared { .. } => 1,
            Self::Visible { .. }
            | Self::Resumed { .. }
            | Self::Resync { .. }
            | Self::Send { .. }
            | Self::SendPubrel { .. }
            | Self::Live(_)
            | Self::LiveShared(_)
            | Self::Close(_) => 0,
        }
    }
}

/// A message for one member of a shared subscription.
#[derive(Debug)]
pub(crate) struct SharedDelivery {
    /// The copy.
    pub(crate) delivery: Delivery,
    /// Who holds the message.
    pub(crate) origin: SharedOrigin,
}

/// How much live mail may wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LiveLimits {
    /// Messages.
    pub(crate) messages_max: usize,
    /// Bytes of their `Message::size`.
    pub(crate) bytes_max: usize,
}

/// What became of a live message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LiveOutcome {
    /// It waits for the connection.
    Taken,
    /// The mailbox is full: a QoS 0 message is dropped, at QoS 1 or 2 the connection is closed, one
    /// for a shared subscription goes to somebody else.
    Full,
}

thread_local! {
    /// Mailboxes to be told when the work under way on this thread is done; `None`: no such work.
    static TO_WAKE: RefCell<Option<Vec<Arc<Mailbox>>>> = const { RefCell::new(None) };
}

/// Runs something that hands out mail, and tells the receivers afterwards: each wakes up once for all
/// that is there, and writes it with one call.
pub(crate) fn waking_at_the_end<R>(work: impl FnOnce() -> R) -> R {
    /// Tells them also when `work` panics.
    struct Wake;
    impl Drop for Wake {
        fn drop(&mut self) {
            for mailbox in TO_WAKE.take().into_iter().flatten() {
                mailbox.arrived.notify_one();
            }
        }
    }
    let nested = TO_WAKE.with_borrow_mut(|to_wake| {
        let nested = to_wake.is_some();
        to_wake.get_or_insert_default();
        nested
    });
    let _wake = (!nested).then_some(Wake);
    work()
}

/// One connection's mailbox.
#[derive(Debug)]
pub(crate) struct Mailbox {
    queue: Mutex<Queue>,
    arrived: Notify,
    closing: AtomicBool,
    closed: Notify,
    limits: LiveLimits,
}

#[derive(Debug, Default)]
struct Queue {
    mail: VecDeque<Mail>,
    live_messages: usize,
    live_bytes: usize,
}

impl Mailbox {
    pub(crate) fn new(limits: LiveLimits) -> Self {
        Self {
            queue: Mutex::new(Queue::default()),
            arrived: Notify::new(),
            closing: AtomicBool::new(false),
            closed: Notify::new(),
            limits,
        }
    }

    /// Hands over mail that is bounded by what the connection itself sent or by its window.
    pub(crate) fn push(self: &Arc<Self>, mail: Mail) {
        if matches!(mail, Mail::Close(_)) {
            self.closing.store(true, Ordering::Release);
            self.closed.notify_one();
        }
        let was_empty = {
            let mut queue = self.lock();
            let was_empty = queue.mail.is_empty();
            queue.mail.push_back(mail);
            was_empty
        };
        if was_empty {
            self.wake();
        }
    }

    /// Its connection looks into the mailbox, now or when the work under way on this thread is done.
    fn wake(self: &Arc<Self>) {
        TO_WAKE.with_borrow_mut(|to_wake| match to_wake {
            Some(to_wake) => to_wake.push(Arc::clone(self)),
            None => self.arrived.notify_one(),
        });
    }

    /// Hands over a live message of `bytes` if there is room.
    pub(crate) fn push_live(self: &Arc<Self>, delivery: Delivery, bytes: usize) -> LiveOutcome {
        let qos = delivery.qos;
        let outcome = self.push_bounded(Mail::Live(delivery), bytes);
        if outcome == LiveOutcome::Full && qos != Qos::AtMostOnce {
            self.push(Mail::Close(CloseReason::QueueFull));
        }
        outcome
    }

    /// Hands over a message for this member of a shared subscription. Where it is full, another
    /// member may not be.
    pub(crate) fn push_shared(
        self: &Arc<Self>,
        shared: SharedDelivery,
        bytes: usize,
    ) -> LiveOutcome {
        self.push_bounded(Mail::LiveShared(Box::new(shared)), bytes)
    }

    fn push_bounded(self: &Arc<Self>, mail: Mail, bytes: usize) -> LiveOutcome {
        let was_empty = {
            let mut queue = self.lock();
            let full = queue.live_messages >= self.limits.messages_max
                || queue.live_bytes.saturating_add(bytes) > self.limits.bytes_max;
            if full {
                return LiveOutcome::Full;
            }
            queue.live_messages = queue.live_messages.saturating_add(1);
            queue.live_bytes = queue.live_bytes.saturating_add(bytes);
            let was_empty = queue.mail.is_empty();
            queue.mail.push_back(mail);
            was_empty
        };
        if was_empty {
            self.wake();
        }
        LiveOutcome::Taken
    }

    /// Takes everything that waits; `into` must be empty.
    pub(crate) fn take(&self, into: &mut VecDeque<Mail>) {
        let mut queue = self.lock();
        std::mem::swap(&mut queue.mail, into);
        queue.live_messages = 0;
        queue.live_bytes = 0;
    }

    /// Waits until something may have arrived. Cancel-safe.
    pub(crate) async fn arrived(&self) {
        let notified = self.arrived.notified();
        if self.lock().mail.is_empty() {
            notified.await;
        }
    }

    /// Waits for a `Close`, for a connection that takes no other mail. Cancel-safe.
    pub(crate) async fn closing(&self) {
        loop {
            let notified = self.closed.notified();
            if self.is_closing() {
                return;
            }
            notified.await;
        }
    }

    /// A `Close` was handed over: nothing more that the client sends may take effect.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
