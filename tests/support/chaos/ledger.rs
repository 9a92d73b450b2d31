//! What publishers were promised, what subscribers got, and when which fault began.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use codec::Qos;

use super::faults::Kind;
use super::verdict::{Verdict, judge};

/// Shared by all clients.
#[derive(Debug, Clone)]
pub(super) struct Ledger(Arc<Mutex<Books>>);

/// One message.
#[derive(Debug, Clone, Default)]
pub(super) struct Sent {
    /// How often.
    pub(super) sendings: u32,
    /// When PUBACK, or PUBREC, came.
    pub(super) acknowledged: Option<Duration>,
    /// It was acknowledged with an error.
    pub(super) refused: bool,
    /// The handshake is over.
    pub(super) settled: bool,
}

/// One publisher.
#[derive(Debug)]
pub(super) struct Publications {
    pub(super) qos: Qos,
    /// By number.
    pub(super) messages: Vec<Sent>,
}

/// One message at one subscriber.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Got {
    /// Handed on so often.
    pub(super) copies: u32,
    /// Of these with DUP.
    pub(super) with_dup: u32,
}

/// One subscriber.
#[derive(Debug)]
pub(super) struct Receipts {
    pub(super) is_subscribed: bool,
    /// By publisher and number.
    pub(super) messages: BTreeMap<(usize, u64), Got>,
}

/// Everything.
#[derive(Debug)]
pub(super) struct Books {
    started: Instant,
    pub(super) publishers: Vec<Publications>,
    pub(super) subscribers: Vec<Receipts>,
    /// When each began, and how many handshakes stood open.
    pub(super) faults: Vec<(Duration, Kind, u32)>,
    pub(super) violations: Vec<String>,
    events: u64,
}

impl Ledger {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Books {
            started: Instant::now(),
            publishers: Vec::new(),
            subscribers: Vec::new(),
            faults: Vec::new(),
            violations: Vec::new(),
            events: 0,
        })))
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        let mut books = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        books.events += 1;
        books
    }

    fn look(&self) -> MutexGuard<'_, Books> {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(super) fn add_publisher(&self, qos: Qos) -> usize {
        let mut books = self.books();
        books.publishers.push(Publications {
            qos,
            messages: Vec::new(),
        });
        books.publishers.len() - 1
    }

    pub(super) fn add_subscriber(&self) -> usize {
        let mut books = self.books();
        books.subscribers.push(Receipts {
            is_subscribed: false,
            messages: BTreeMap::new(),
        });
        books.subscribers.len() - 1
    }

    pub(super) fn subscribed(&self, subscriber: usize) {
        self.books().subscribers[subscriber].is_subscribed = true;
    }

    pub(super) fn all_subscribed(&self) -> bool {
        self.look().subscribers.iter().all(|one| one.is_subscribed)
    }

    pub(super) fn sent(&self, publisher: usize, number: u64) {
        let mut books = self.books();
        let messages = &mut books.publishers[publisher].messages;
        let at = usize::try_from(number).expect("it fits");
        if messages.len() <= at {
            messages.resize(at + 1, Sent::default());
        }
        messages[at].sendings += 1;
    }

    fn change(&self, publisher: usize, number: u64, change: impl FnOnce(&mut Sent, Duration)) {
        let mut books = self.books();
        let now = books.started.elapsed();
        let at = usize::try_from(number).expect("it fits");
        change(&mut books.publishers[publisher].messages[at], now);
    }

    pub(super) fn acknowledged(&self, publisher: usize, number: u64) {
        self.change(publisher, number, |sent, now| {
            sent.acknowledged = sent.acknowledged.or(Some(now))
        });
    }

    pub(super) fn refused(&self, publisher: usize, number: u64) {
        self.change(publisher, number, |sent, _| sent.refused = true);
    }

    pub(super) fn settled(&self, publisher: usize, number: u64) {
        self.change(publisher, number, |sent, _| sent.settled = true);
    }

    /// Notes a message, whose payload is `PUBLISHER/NUMBER`.
    pub(super) fn received(&self, subscriber: usize, payload: &[u8], dup: bool) {
        let text = std::str::from_utf8(payload).ok();
        let parts = text.and_then(|text| text.split_once('/'));
        let key = parts
            .and_then(|(publisher, number)| Some((publisher.parse().ok()?, number.parse().ok()?)));
        let mut books = self.books();
        let Some(key) = key else {
            books
                .violations
                .push(format!("a payload that nobody sent: {payload:?}"));
            return;
        };
        let got = books.subscribers[subscriber]
            .messages
            .entry(key)
            .or_default();
        got.copies += 1;
        got.with_dup += u32::from(dup);
    }

    pub(super) fn fault(&self, kind: Kind, open: u32) {
        let mut books = self.books();
        let now = books.started.elapsed();
        books.faults.push((now, kind, open));
    }

    pub(super) fn violation(&self, text: String) {
        self.books().violations.push(text);
    }

    /// Grows with everything that happens.
    pub(super) fn events(&self) -> u64 {
        self.look().events
    }

    /// Every handshake of a publisher is over, and every promise kept.
    pub(super) fn is_drained(&self) -> bool {
        let books = self.look();
        let mut publishers = books.publishers.iter().enumerate();
        publishers.all(|(publisher, publications)| {
            publications.messages.iter().zip(0..).all(|(sent, number)| {
                let is_there = |one: &Receipts| one.messages.contains_key(&(publisher, number));
                sent.settled && (sent.refused || books.subscribers.iter().all(is_there))
            })
        })
    }

    pub(super) fn verdict(&self) -> Verdict {
        judge(&self.look())
    }
}
