//! The numbered FIFO stream of command batches from one life of a node to one shard; exactly once.
//!
//! A batch is whatever waits when the previous batch was answered; a lone command leaves at once, and
//! after a crowd a batch waits for company ([`Pace`]). One batch is in flight, so neither gaps nor reordering can arise. A batch is sent
//! again, unchanged, until this node's own replica has applied it: the shard remembers the last
//! batch of each stream and its answers.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use codec::Timestamp;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};

use crate::batch::{Batch, ProposerId, weight};
use crate::command::{Answers, Command, Response};
use crate::encoding::encode_command;
use crate::forward::Forwarder;
use crate::ids::ShardId;
use crate::machine::Applied;
use crate::pace::Pace;

/// Commands in one batch at most.
pub const BATCH_COMMANDS_MAX: usize = 1024;
/// Bytes in one batch, at most this plus one command.
pub const BATCH_BYTES_MAX: usize = 1024 * 1024;
/// How long to wait for the own replica after the leader said that it applied the batch.
const LOCAL_APPLY_WAIT: Duration = Duration::from_millis(1000);
/// Pause before the same batch is sent again; a leader change ends it early.
const RETRY_PAUSE: Duration = Duration::from_millis(25);

/// Who waits for the response to one command.
pub trait Waiter: Send + 'static {
    /// Called once, in stream order, on the thread that applies. Must not block. `index` is that of
    /// the entry, or of a later one that repeated it.
    fn answered(self, index: u64, response: Response);

    /// When what the command brings reached this node, if somebody measures how long it takes from
    /// there.
    fn since(&self) -> Option<Instant> {
        None
    }
}

/// PURE. The stream's bookkeeping: what waits, what is in flight.
#[derive(Debug)]
pub struct ProposerCore<W> {
    proposer: ProposerId,
    last_sequence: u64,
    waiting: VecDeque<(Bytes, W)>,
    waiting_bytes: usize,
    in_flight: Option<InFlight<W>>,
}

#[derive(Debug)]
struct InFlight<W> {
    batch: Batch,
    waiters: Vec<W>,
}

impl<W> ProposerCore<W> {
    /// A stream that has proposed nothing.
    #[must_use]
    pub fn new(proposer: ProposerId) -> Self {
        Self {
            proposer,
            last_sequence: 0,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            in_flight: None,
        }
    }

    /// Appends a command to the stream.
    pub fn submit(&mut self, command: Bytes, waiter: W) {
        self.waiting_bytes = self.waiting_bytes.saturating_add(command.len());
        self.waiting.push_back((command, waiter));
    }

    /// Takes what waits as the next batch, unless one is in flight.
    pub fn next_batch(&mut self) -> Option<Batch> {
        if self.in_flight.is_some() || self.waiting.is_empty() {
            return None;
        }
        let mut commands = Vec::new();
        let mut waiters = Vec::new();
        let mut bytes = 0_usize;
        while commands.len() < BATCH_COMMANDS_MAX && bytes < BATCH_BYTES_MAX {
            let Some((command, waiter)) = self.waiting.pop_front() else {
                break;
            };
            bytes = bytes.saturating_add(command.len());
            commands.push(command);
            waiters.push(waiter);
        }
        self.waiting_bytes = self.waiting_bytes.saturating_sub(bytes);
        self.last_sequence = self.last_sequence.saturating_add(1);
        let batch = Batch {
            proposer: self.proposer,
            sequence: self.last_sequence,
            leader_time: Timestamp::ZERO,
            commands,
        };
        self.in_flight = Some(InFlight {
            batch: batch.clone(),
            waiters,
        });
        Some(batch)
    }

    /// The batch to send (again) until it is answered.
    #[must_use]
    pub fn in_flight(&self) -> Option<&Batch> {
        self.in_flight.as_ref().map(|in_flight| &in_flight.batch)
    }

    /// Takes the answers to the batch in flight; answers to any other batch are repeats.
    pub fn on_answers(&mut self, sequence: u64, answers: &Answers) -> Vec<(W, Response)> {
        let current = self.in_flight.as_ref().is_some_and(|in_flight| {
            in_flight.batch.sequence == sequence && in_flight.waiters.len() == answers.len()
        });
        if !current {
            return Vec::new();
        }
        let Some(in_flight) = self.in_flight.take() else {
            return Vec::new();
        };
        in_flight
            .waiters
            .into_iter()
            .zip(answers.iter().cloned())
            .collect()
    }

    /// What waits counts so much in the next batch.
    fn waiting_weight(&self) -> usize {
        weight(self.waiting.len(), self.waiting_bytes)
    }

    /// Bytes of the commands that wait for their batch.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }
}

/// One stream with its driver.
#[derive(Debug)]
pub struct Proposer<W> {
    shard: ShardId,
    id: ProposerId,
    core: Mutex<ProposerCore<W>>,
    /// When what waits counts so much, the driver is told.
    enough: AtomicUsize,
    /// Enough was submitted.
    submitted: Notify,
    /// The batch in flight was answered.
    answered: Notify,
    /// The queue fell below its bound.
    drained: Notify,
}

/// Bytes that may wait in one stream before connections stop reading.
const WAITING_BYTES_MAX: usize = 8 * 1024 * 1024;

impl<W: Waiter> Proposer<W> {
    /// A new stream; `run` drives it.
    #[must_use]
    pub fn new(shard: ShardId, id: ProposerId) -> Self {
        Self {
            shard,
            id,
            core: Mutex::new(ProposerCore::new(id)),
            enough: AtomicUsize::new(1),
            submitted: Notify::new(),
            answered: Notify::new(),
            drained: Notify::new(),
        }
    }

    /// Appends a command to the stream; `waiter` gets the response once it is applied here.
    pub fn propose(&self, command: &Command, waiter: W) {
        let bytes = encode_command(command);
        let (before, after) = {
            let mut core = self.lock();
            let before = core.waiting_weight();
            core.submit(bytes, waiter);
            (before, core.waiting_weight())
        };
        // The driver is told of the first command, and of the one that makes a crowd.
        let enough = self.enough.load(Ordering::Relaxed);
        if before == 0 || (before < enough && after >= enough) {
            self.submitted.notify_one();
        }
    }

    /// More than the bound waits in this stream.
    pub fn is_full(&self) -> bool {
        self.lock().waiting_bytes() >= WAITING_BYTES_MAX
    }

    /// Waits while more than the bound waits in this stream (TCP back-pressure, G9).
    pub async fn ready(&self) {
        loop {
            let notified = self.drained.notified();
            if !self.is_full() {
                return;
            }
            notified.await;
        }
    }

    /// To be called for every entry that this node's replica of the shard applied, in order. Returns
    /// [`Waiter::since`] of each command of the batch if it was this stream's and is answered now.
    pub fn on_applied(&self, index: u64, applied: &Applied) -> Vec<Option<Instant>> {
        if applied.proposer != self.id {
            return Vec::new();
        }
        let answered = self.lock().on_answers(applied.sequence, &applied.answers);
        if answered.is_empty() && !applied.answers.is_empty() {
            return Vec::new();
        }
        self.answered.notify_one();
        let answered = answered.into_iter().map(|(waiter, response)| {
            let since = waiter.since();
            waiter.answered(index, response);
            since
        });
        answered.collect()
    }

    /// Drives the stream until the task is aborted.
    pub async fn run(self: Arc<Self>, forwarder: Arc<Forwarder>) {
        let mut pace = Pace::default();
        loop {
            let batch = self.next_batch(&pace).await;
            self.drained.notify_waiters();
            let began = Instant::now();
            while self.is_in_flight(batch.sequence) {
                tokio::select! {
                    () = self.answered.notified() => {}
                    () = self.send_once(&forwarder, &batch) => {}
                }
            }
            let bytes = batch.commands.iter().map(Bytes::len).sum();
            pace.answered(weight(batch.commands.len(), bytes), began.elapsed());
        }
    }

    async fn next_batch(&self, pace: &Pace) -> Batch {
        self.enough.store(pace.enough(), Ordering::Relaxed);
        loop {
            let wait = {
                let mut core = self.lock();
                let wait = match core.waiting_bytes() < BATCH_BYTES_MAX {
                    true => pace.wait(core.waiting_weight()),
                    false => None,
                };
                if wait.is_none()
                    && let Some(batch) = core.next_batch()
                {
                    return batch;
                }
                wait.filter(|_| core.waiting_weight() > 0)
            };
            let submitted = self.submitted.notified();
            match wait {
                Some(until) => drop(timeout_at(until, submitted).await),
                None => submitted.await,
            }
        }
    }

    /// One attempt; returns when it is time for the next one.
    async fn send_once(&self, forwarder: &Forwarder, batch: &Batch) {
        let mut installs = forwarder.installs_watch(self.shard);
        // `run` leaves this wait when the own replica has applied the batch. One that came in a
        // snapshot is not applied: the shard is asked again for its stored answers.
        let installed = async {
            match &mut installs {
                Some(installs) => drop(installs.changed().await),
                None => std::future::pending().await,
            }
        };
        tokio::pin!(installed);
        let sent = tokio::select! {
            sent = forwarder.send(self.shard, batch) => sent,
            () = &mut installed => return,
        };
        match sent {
            Ok(_) => drop(timeout(LOCAL_APPLY_WAIT, installed).await),
            Err(error) => {
                tracing::debug!(shard = %self.shard, %error, "proposal not written, sending again");
                forwarder.leader_changed(self.shard, RETRY_PAUSE).await;
            }
        }
    }

    fn is_in_flight(&self, sequence: u64) -> bool {
        self.lock()
            .in_flight()
            .is_some_and(|batch| batch.sequence == sequence)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, ProposerCore<W>> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
