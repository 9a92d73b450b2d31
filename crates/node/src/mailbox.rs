//! What other tasks hand to one connection.
//!
//! Three kinds of mail have three bounds. Answers: one per command or packet that the connection
//! sent, bounded by its Receive Maximum. Effects of a hosted session: bounded by its window. Live
//! messages: bounded here, in number and bytes, together with those that the connection has taken and
//! not sent yet; their senders never wait, and their publishers for a bounded time (`backlog.rs`).

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use codec::Qos;
use raft_store::CloseReason;
use session::Delivery;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::backlog::{Backlog, Flow, LiveLimits};
use crate::budget::{Share, cost};
use crate::count;
use crate::facts::Traffic;
use crate::hold::Hold;
use crate::pressure::Pressure;

pub(crate) use crate::mail::{Mail, SharedDelivery};

/// Live messages that may wait for a connection although the node's budget is used up: one that
/// keeps up has no more.
const KEEPS_UP_MESSAGES: usize = 16;

/// What became of a live message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LiveOutcome {
    /// It waits for the connection.
    Taken,
    /// It waits for a connection that lags behind: its publisher should not go on at this rate.
    Lagging,
    /// There is no room, for the reason that is counted: a QoS 0 message is dropped, at QoS 1 or 2 the
    /// connection is closed, one for a shared subscription goes to somebody else.
    Full(&'static str),
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
    pressure: Arc<Pressure>,
    /// Bytes in the buffers of its connection's socket.
    buffered: AtomicUsize,
    /// What went over that socket.
    pub(crate) traffic: Traffic,
}

#[derive(Debug)]
struct Queue {
    mail: VecDeque<Mail>,
    /// Live messages here.
    live: Backlog,
    /// Live messages that the connection has taken and not sent.
    behind: Backlog,
    flow: Flow,
    share: Share,
}

impl Queue {
    fn waits(&self) -> Backlog {
        self.live.plus(self.behind)
    }

    /// Counts what waits in the node's budget.
    fn count(&mut self) {
        let Backlog { messages, bytes } = self.waits();
        self.share.set(cost(messages, bytes));
    }
}

impl Mailbox {
    pub(crate) fn new(limits: LiveLimits, pressure: &Arc<Pressure>) -> Self {
        Self {
            queue: Mutex::new(Queue {
                mail: VecDeque::new(),
                live: Backlog::default(),
                behind: Backlog::default(),
                flow: Flow::default(),
                share: Share::new(&pressure.budget),
            }),
            arrived: Notify::new(),
            closing: AtomicBool::new(false),
            closed: Notify::new(),
            limits,
            pressure: Arc::clone(pressure),
            buffered: AtomicUsize::new(0),
            traffic: Traffic::default(),
        }
    }

    /// What it has in common with the other connections of the node.
    pub(crate) fn pressure(&self) -> &Arc<Pressure> {
        &self.pressure
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

    /// Hands over a live message of `bytes` if there is room. `since`: when it came, if a client of this
    /// node published it.
    pub(crate) fn push_live(
        self: &Arc<Self>,
        delivery: Delivery,
        bytes: usize,
        since: Option<Instant>,
    ) -> LiveOutcome {
        let qos = delivery.qos;
        let outcome = self.push_bounded(Mail::Live { delivery, since }, qos, bytes);
        if matches!(outcome, LiveOutcome::Full(_)) && qos != Qos::AtMostOnce {
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
        let qos = shared.delivery.qos;
        self.push_bounded(Mail::LiveShared(Box::new(shared)), qos, bytes)
    }

    fn push_bounded(self: &Arc<Self>, mail: Mail, qos: Qos, bytes: usize) -> LiveOutcome {
        let (was_empty, lags) = {
            let mut queue = self.lock();
            let waits = queue.waits();
            if !waits.has_room(bytes, &self.limits) {
                return LiveOutcome::Full("queue_full");
            }
            if !self.is_affordable(waits, qos) {
                return LiveOutcome::Full("buffers_full");
            }
            queue.live = queue.live.plus(Backlog::of_one(bytes));
            queue.count();
            let was_empty = queue.mail.is_empty();
            queue.mail.push_back(mail);
            (was_empty, self.lags(&queue))
        };
        if was_empty {
            self.wake();
        }
        if lags {
            LiveOutcome::Lagging
        } else {
            LiveOutcome::Taken
        }
    }

    /// The node has memory for a further message, or the connection keeps up.
    fn is_affordable(&self, waits: Backlog, qos: Qos) -> bool {
        let budget = &self.pressure.budget;
        waits.messages < KEEPS_UP_MESSAGES
            || match qos {
                Qos::AtMostOnce => !budget.is_full(),
                Qos::AtLeastOnce | Qos::ExactlyOnce => !budget.is_overdrawn(),
            }
    }

    /// Publishers should wait for this connection.
    fn lags(&self, queue: &Queue) -> bool {
        let waits = queue.waits();
        let is_far_behind = waits.is_above_mark(&self.limits)
            || (waits.messages >= KEEPS_UP_MESSAGES && self.pressure.budget.is_tight());
        is_far_behind && !queue.flow.is_stuck()
    }

    /// Holds up the acknowledgement of a message that was handed over; gives it back if the connection
    /// has caught up, is stuck or gone.
    pub(crate) fn hold(self: &Arc<Self>, hold: Hold) -> Result<(), Hold> {
        let is_first = {
            let mut queue = self.lock();
            if !self.lags(&queue) {
                return Err(hold);
            }
            queue.flow.hold(hold)
        };
        count::delayed();
        if is_first {
            self.pressure.watch(self);
        }
        Ok(())
    }

    /// Takes everything that waits, behind what is in `into`. Returns how much of it counts as
    /// waiting until `settle` says otherwise.
    pub(crate) fn take(&self, into: &mut VecDeque<Mail>) -> Backlog {
        let mut queue = self.lock();
        if into.is_empty() {
            std::mem::swap(&mut queue.mail, into);
        } else {
            into.append(&mut queue.mail);
        }
        let taken = std::mem::take(&mut queue.live);
        queue.behind = queue.behind.plus(taken);
        taken
    }

    /// Of all live messages that the connection has taken, so many are not sent yet.
    pub(crate) fn settle(&self, behind: Backlog) {
        let released = {
            let mut queue = self.lock();
            let sent = queue.behind.minus(behind);
            queue.behind = behind;
            queue.count();
            let waits = queue.waits();
            queue.flow.drained(sent, waits, &self.limits)
        };
        release(released);
    }

    /// Whether acknowledgements still wait for this connection; if it is stuck, no longer.
    pub(crate) fn look(&self, now: Instant) -> bool {
        let looked = {
            let mut queue = self.lock();
            let was_stuck = queue.flow.is_stuck();
            let looked = queue.flow.look(now, &self.limits);
            if queue.flow.is_stuck() && !was_stuck {
                count::stuck();
            }
            looked
        };
        match looked {
            Some(released) => {
                release(released);
                true
            }
            None => false,
        }
    }

    /// Its connection is over: nobody waits for it, and nothing waits here.
    pub(crate) fn abandon(&self) {
        let released = {
            let mut queue = self.lock();
            queue.live = Backlog::default();
            queue.behind = Backlog::default();
            queue.count();
            queue.flow.abandon()
        };
        release(released);
    }

    /// So many bytes are in the buffers of the connection's socket.
    pub(crate) fn set_buffered(&self, bytes: usize) {
        self.buffered.store(bytes, Ordering::Relaxed);
    }

    /// Bytes that are kept on account of this connection.
    pub(crate) fn held_bytes(&self) -> usize {
        let waits = self.lock().waits();
        waits
            .bytes
            .saturating_add(self.buffered.load(Ordering::Relaxed))
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

/// Not under the lock of a mailbox: it leads to another one.
fn release(holds: VecDeque<Hold>) {
    for hold in holds {
        hold.release();
    }
}

/// Waits until everything that the connection sent has been answered.
pub(crate) async fn drain(mailbox: &Mailbox, mut outstanding: u64) {
    let mut mail = VecDeque::new();
    loop {
        mailbox.take(&mut mail);
        for piece in mail.drain(..) {
            outstanding = outstanding.saturating_sub(piece.answers());
        }
        if outstanding == 0 {
            return;
        }
        mailbox.arrived().await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use codec::{Message, MessageProperties, TopicName};
    use session::{Body, StoredMessage};

    use super::*;
    use crate::backlog::STUCK_AFTER;
    use crate::waiter::LiveWaiter;

    const SIZE: usize = 100;

    fn delivery(qos: Qos) -> Delivery {
        let message = Message {
            topic: TopicName::try_from("t").unwrap(),
            payload: vec![0; SIZE - 1].into(),
            qos,
            retain: false,
            properties: MessageProperties::default(),
        };
        let stored = StoredMessage {
            id: 0,
            message,
            expires_at: None,
            retained_version: None,
        };
        Delivery {
            body: Body::Here(Arc::new(stored)),
            qos,
            retain: false,
            identifiers: Vec::new(),
            share: None,
        }
    }

    fn mailbox(messages_max: usize, pressure: &Arc<Pressure>) -> Arc<Mailbox> {
        let limits = LiveLimits {
            messages_max,
            bytes_max: usize::MAX,
        };
        Arc::new(Mailbox::new(limits, pressure))
    }

    fn push(mailbox: &Arc<Mailbox>, qos: Qos) -> LiveOutcome {
        mailbox.push_live(delivery(qos), SIZE, None)
    }

    /// A subscriber for which as many messages wait as its mark, its publisher, and `held`
    /// acknowledgements that wait.
    fn lagging(held: u64, pressure: &Arc<Pressure>) -> (Arc<Mailbox>, Arc<Mailbox>) {
        let subscriber = mailbox(400, pressure);
        let publisher = mailbox(400, pressure);
        for _ in 1..100 {
            assert_eq!(push(&subscriber, Qos::AtLeastOnce), LiveOutcome::Taken);
        }
        for tag in 0..held {
            assert_eq!(push(&subscriber, Qos::AtLeastOnce), LiveOutcome::Lagging);
            let waiter = LiveWaiter::new(Arc::clone(&publisher), tag);
            subscriber.hold(Hold::Here(waiter)).unwrap();
        }
        (subscriber, publisher)
    }

    /// Tags of the acknowledgements that were held up and are no longer.
    fn released(publisher: &Arc<Mailbox>) -> Vec<u64> {
        let mut mail = VecDeque::new();
        publisher.take(&mut mail);
        let tags = mail.into_iter().map(|piece| {
            let Mail::Released { tag } = piece else {
                panic!("{piece:?}");
            };
            tag
        });
        tags.collect()
    }

    fn backlog(messages: usize) -> Backlog {
        Backlog {
            messages,
            bytes: messages * SIZE,
        }
    }

    #[test]
    fn an_acknowledgement_is_released_for_each_message_that_leaves_and_below_the_mark_all_are() {
        let pressure = Pressure::new(1 << 30);
        let (subscriber, publisher) = lagging(50, &pressure);
        let mut mail = VecDeque::new();
        assert_eq!(subscriber.take(&mut mail), backlog(149));
        assert_eq!(released(&publisher), [0; 0], "taken is not sent");
        subscriber.settle(backlog(146));
        assert_eq!(released(&publisher), [0, 1, 2]);
        subscriber.settle(backlog(99));
        assert_eq!(released(&publisher), (3..50).collect::<Vec<_>>());
    }

    #[test]
    fn nobody_waits_for_a_stuck_subscriber_until_it_has_caught_up() {
        let pressure = Pressure::new(1 << 30);
        let (subscriber, publisher) = lagging(3, &pressure);
        let now = Instant::now();
        assert!(subscriber.look(now));
        assert_eq!(released(&publisher), [0; 0]);
        assert!(subscriber.look(now + STUCK_AFTER + Duration::from_millis(1)));
        assert_eq!(released(&publisher), [0, 1, 2]);
        assert!(
            !subscriber.look(now + 2 * STUCK_AFTER),
            "nothing to look at"
        );
        assert_eq!(push(&subscriber, Qos::AtLeastOnce), LiveOutcome::Taken);
        subscriber.take(&mut VecDeque::new());
        subscriber.settle(backlog(99));
        assert_eq!(push(&subscriber, Qos::AtLeastOnce), LiveOutcome::Taken);
        subscriber.settle(backlog(48));
        subscriber.settle(backlog(120));
        assert_eq!(push(&subscriber, Qos::AtLeastOnce), LiveOutcome::Lagging);
    }

    #[test]
    fn a_subscriber_that_takes_a_little_is_not_stuck() {
        let pressure = Pressure::new(1 << 30);
        let (subscriber, publisher) = lagging(30, &pressure);
        subscriber.take(&mut VecDeque::new());
        let mut now = Instant::now();
        for second in 1..10 {
            subscriber.settle(backlog(129 - second));
            now += STUCK_AFTER + Duration::from_millis(1);
            assert!(subscriber.look(now));
            assert_eq!(released(&publisher).len(), 1);
        }
    }

    #[test]
    fn what_the_connection_has_not_sent_counts_towards_the_limit() {
        let pressure = Pressure::new(1 << 30);
        let subscriber = mailbox(10, &pressure);
        for _ in 0..6 {
            push(&subscriber, Qos::AtMostOnce);
        }
        subscriber.take(&mut VecDeque::new());
        for _ in 0..4 {
            push(&subscriber, Qos::AtMostOnce);
        }
        let full = LiveOutcome::Full("queue_full");
        assert_eq!(push(&subscriber, Qos::AtMostOnce), full);
        assert!(!subscriber.is_closing());
        subscriber.settle(backlog(5));
        assert_ne!(push(&subscriber, Qos::AtMostOnce), full);
        assert_eq!(push(&subscriber, Qos::AtLeastOnce), full);
        assert!(subscriber.is_closing());
    }

    #[test]
    fn a_connection_that_is_gone_holds_nothing_up_and_costs_nothing() {
        let pressure = Pressure::new(1 << 30);
        let (subscriber, publisher) = lagging(3, &pressure);
        assert!(pressure.budget.used() > 0);
        subscriber.abandon();
        assert_eq!(released(&publisher), [0, 1, 2]);
        assert_eq!(pressure.budget.used(), 0);
        let waiter = LiveWaiter::new(Arc::clone(&publisher), 9);
        subscriber.hold(Hold::Here(waiter)).unwrap_err();
    }

    #[test]
    fn when_the_memory_of_the_node_is_used_up_who_keeps_up_is_served() {
        let pressure = Pressure::new(1_000_000);
        let behind = mailbox(400, &pressure);
        let keeps_up = mailbox(400, &pressure);
        for _ in 0..KEEPS_UP_MESSAGES {
            assert_eq!(push(&behind, Qos::AtLeastOnce), LiveOutcome::Taken);
        }
        let outcomes = |used: usize| {
            let _kept = pressure
                .budget
                .keep(Vec::new(), used - pressure.budget.used());
            let outcome = |qos| {
                let pushed = push(&behind, qos);
                let mut queue = behind.lock();
                queue.mail.truncate(KEEPS_UP_MESSAGES);
                queue.live = backlog(KEEPS_UP_MESSAGES);
                pushed
            };
            let kept_up = push(&keeps_up, Qos::AtMostOnce);
            keeps_up.take(&mut VecDeque::new());
            keeps_up.settle(Backlog::default());
            assert_eq!(kept_up, LiveOutcome::Taken);
            (outcome(Qos::AtMostOnce), outcome(Qos::AtLeastOnce))
        };
        let (lags, full) = (LiveOutcome::Lagging, LiveOutcome::Full("buffers_full"));
        assert_eq!(outcomes(740_000), (LiveOutcome::Taken, LiveOutcome::Taken));
        assert_eq!(outcomes(760_000), (lags, lags));
        assert_eq!(outcomes(1_000_000), (full, lags));
        assert_eq!(outcomes(1_250_000), (full, full));
    }
}
