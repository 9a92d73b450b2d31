//! What the clients of one run share: all of them live on one thread.

use std::cell::{Cell, RefCell};
use std::task::Waker;
use std::time::Instant;

use crate::latency::Latencies;
use crate::workload::Workload;

/// The state of a run.
#[derive(Debug)]
pub struct Shared {
    origin: Instant,
    /// Whether publishers publish.
    pub publishing: Cell<bool>,
    /// When the present phase began, nanoseconds on the clock of the run.
    pub phase_start_ns: Cell<u64>,
    /// Whether latencies and pauses are recorded.
    pub recording: Cell<bool>,
    /// Whether clients disconnect when they have nothing left to do.
    pub finishing: Cell<bool>,
    /// How many topics there are: clients whose index is the same modulo this belong together.
    pub topics: u32,
    /// Per publisher.
    pub progress: Vec<Progress>,
    /// How many subscribers have their SUBACK, how many publishers their CONNACK.
    pub ready: Cell<u32>,
    /// From due to acknowledged.
    pub ack_latencies: RefCell<Latencies>,
    /// From due to delivered.
    pub delivery_latencies: RefCell<Latencies>,
    /// Clients that have a connection.
    pub connected: Cell<u32>,
    /// Whether subscribers stay without a connection.
    pub subscribers_away: Cell<bool>,
    /// How many messages each publisher sends at most, in all.
    pub messages_max: Cell<u64>,
    /// Connections that were lost.
    pub connections_lost: Cell<u64>,
    /// What went wrong last.
    pub last_error: RefCell<Option<String>>,
    /// Per client: publishers, then subscribers.
    wakers: RefCell<Vec<Option<Waker>>>,
}

/// How far a publisher has come.
#[derive(Debug)]
pub struct Progress {
    /// Messages that were sent at least once.
    pub sent: Cell<u64>,
    /// Messages whose exchange is over; at QoS 0 those that were sent.
    pub acknowledged: Cell<u64>,
    /// Deliveries of its messages, repetitions left out.
    pub delivered: Cell<u64>,
    /// How many subscribers each message goes to.
    pub fan_out: u64,
}

impl Progress {
    /// Whether everything that was sent is acknowledged and delivered.
    fn is_settled(&self) -> bool {
        let sent = self.sent.get();
        self.acknowledged.get() == sent && self.delivered.get() >= sent * self.fan_out
    }
}

impl Shared {
    /// At the start of a run.
    #[must_use]
    pub fn new(workload: &Workload) -> Self {
        let progress = |index| Progress {
            sent: Cell::new(0),
            acknowledged: Cell::new(0),
            delivered: Cell::new(0),
            fan_out: workload.fan_out_of(index),
        };
        let clients = workload.publishers.saturating_add(workload.subscribers);
        Self {
            origin: Instant::now(),
            publishing: Cell::new(false),
            phase_start_ns: Cell::new(0),
            recording: Cell::new(false),
            finishing: Cell::new(false),
            topics: workload.topics,
            progress: (0..workload.publishers).map(progress).collect(),
            ready: Cell::new(0),
            ack_latencies: RefCell::default(),
            delivery_latencies: RefCell::default(),
            connected: Cell::new(0),
            subscribers_away: Cell::new(false),
            messages_max: Cell::new(u64::MAX),
            connections_lost: Cell::new(0),
            last_error: RefCell::default(),
            wakers: RefCell::new((0..clients).map(|_| None).collect()),
        }
    }

    /// Nanoseconds since the run began.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// A connection did not come about.
    pub fn note_error(&self, error: &std::io::Error) {
        *self.last_error.borrow_mut() = Some(error.to_string());
    }

    /// A connection was lost.
    pub fn note_loss(&self, error: &std::io::Error) {
        self.connections_lost.set(self.connections_lost.get() + 1);
        self.note_error(error);
    }

    /// Remembers how to wake a client.
    pub fn register(&self, client: usize, waker: &Waker) {
        if let Some(place) = self.wakers.borrow_mut().get_mut(client) {
            match place {
                Some(known) if known.will_wake(waker) => {}
                Some(_) | None => *place = Some(waker.clone()),
            }
        }
    }

    /// Makes a client look again.
    pub fn wake(&self, client: usize) {
        if let Some(Some(waker)) = self.wakers.borrow().get(client) {
            waker.wake_by_ref();
        }
    }

    /// Makes all clients look again.
    pub fn wake_all(&self) {
        self.wakers
            .borrow()
            .iter()
            .flatten()
            .for_each(Waker::wake_by_ref);
    }

    /// Whether everything that was sent is acknowledged.
    #[must_use]
    pub fn is_acknowledged(&self) -> bool {
        let totals = self.totals();
        totals.acknowledged == totals.sent
    }

    /// Whether nothing is under way.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.progress.iter().all(Progress::is_settled)
    }

    /// Messages sent, acknowledged, delivered, of all publishers.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.progress
            .iter()
            .fold(Totals::default(), |sum, progress| Totals {
                sent: sum.sent + progress.sent.get(),
                acknowledged: sum.acknowledged + progress.acknowledged.get(),
                delivered: sum.delivered + progress.delivered.get(),
            })
    }
}

/// Sums over all publishers.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// Messages sent.
    pub sent: u64,
    /// Messages acknowledged.
    pub acknowledged: u64,
    /// Deliveries, repetitions left out.
    pub delivered: u64,
}

/// The longest time in which nothing arrived.
#[derive(Debug, Default, Clone, Copy)]
pub struct Pause {
    last_ns: u64,
    /// Nanoseconds.
    pub worst_ns: u64,
}

impl Pause {
    /// Something arrived.
    pub fn note(&mut self, now_ns: u64, shared: &Shared) {
        if shared.recording.get() {
            let since = self.last_ns.max(shared.phase_start_ns.get());
            self.worst_ns = self.worst_ns.max(now_ns.saturating_sub(since));
        }
        self.last_ns = now_ns;
    }
}
