//! Every packet of every client of one run as the client saw it, for the [checker](crate::checker):
//! whole packets, no text.
//!
//! The order of the records is the proof of what came before what: a client records a packet before
//! it writes it, and after it read one. So if the record of a received packet stands before that of a
//! sent one, of whatever client, the first really was there before the second left.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use codec::Packet;

use crate::cluster::NodeId;
use crate::summary::summary;

/// One record.
#[derive(Debug, Clone)]
pub struct Record {
    /// Since the recording began; never decreases from one record to the next.
    pub at: Duration,
    /// What happened.
    pub event: Event,
}

/// What a record is about.
#[derive(Debug, Clone)]
pub enum Event {
    /// A step of one connection of a client.
    Client {
        /// Client id.
        client: Arc<str>,
        /// Counts the connections of this client, from 1. Attempts that failed count as well.
        connection: u32,
        /// What.
        step: Step,
    },
    /// Something was done to a node.
    Fault(Fault),
    /// For people.
    Note(String),
}

/// What a client did or saw.
#[derive(Debug, Clone)]
pub enum Step {
    /// The network connection to this node is open.
    Opened(NodeId),
    /// The packet is about to be written.
    Sent(Arc<Packet>),
    /// The packet was read.
    Received(Arc<Packet>),
    /// The client is done with this connection: from here on it neither reads nor writes there.
    Ended(End),
    /// The client opened another connection and left this one open ([`End::Superseded`]): what the
    /// broker still sent here, read by nobody.
    Leftover(Arc<Packet>),
    /// The broker closed a superseded connection.
    LeftoverClosed,
}

impl Step {
    /// The packet that the client writes.
    #[must_use]
    pub fn sent(&self) -> Option<&Packet> {
        match self {
            Self::Sent(packet) => Some(packet),
            _ => None,
        }
    }

    /// The packet that the client read.
    #[must_use]
    pub fn received(&self) -> Option<&Packet> {
        match self {
            Self::Received(packet) => Some(packet),
            _ => None,
        }
    }
}

/// Why a client is done with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The client closed it without DISCONNECT.
    Dropped,
    /// The client closed it after DISCONNECT, once the broker had closed its side.
    Disconnected,
    /// The broker, or the death of its node, closed it.
    Closed,
    /// CONNACK or PINGRESP did not come; the client closed it without DISCONNECT.
    Unanswered,
    /// What came was no MQTT, or not what may come.
    Malformed,
    /// The client opens another connection and leaves this one to the broker.
    Superseded,
}

/// What was done to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// kill -9 is about to be sent.
    Killed(NodeId),
    /// SIGTERM is about to be sent.
    Terminated(NodeId),
    /// A node that had ended was started.
    Restarted(NodeId),
    /// SIGSTOP is about to be sent.
    Stopped(NodeId),
    /// SIGCONT was sent.
    Woken(NodeId),
    /// Connections that the first node opened to the second are cut, or stand still.
    Cut(NodeId, NodeId),
    /// All cuts are gone.
    Healed,
    /// The node says that it is ready.
    Ready(NodeId),
}

/// A shared recording; clones append to the same one.
#[derive(Debug, Clone)]
pub struct Recording(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    started: Instant,
    records: Mutex<Vec<Record>>,
}

impl Default for Recording {
    fn default() -> Self {
        Self::new()
    }
}

impl Recording {
    /// An empty recording that begins now.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Inner {
            started: Instant::now(),
            records: Mutex::default(),
        }))
    }

    /// Appends one record.
    pub fn record(&self, event: Event) {
        let mut records = self.records();
        // Under the lock, so that times and order agree.
        let at = self.0.started.elapsed();
        records.push(Record { at, event });
    }

    /// Appends a step of a client.
    pub fn step(&self, client: &Arc<str>, connection: u32, step: Step) {
        self.record(Event::Client {
            client: Arc::clone(client),
            connection,
            step,
        });
    }

    /// Appends a fault.
    pub fn fault(&self, fault: Fault) {
        self.record(Event::Fault(fault));
    }

    /// Appends a line for people.
    pub fn note(&self, text: impl Into<String>) {
        self.record(Event::Note(text.into()));
    }

    /// All records up to now.
    #[must_use]
    pub fn snapshot(&self) -> Vec<Record> {
        self.records().clone()
    }

    /// How long it has been running.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.0.started.elapsed()
    }

    fn records(&self) -> MutexGuard<'_, Vec<Record>> {
        self.0
            .records
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:9.4} ", self.at.as_secs_f64())?;
        match &self.event {
            Event::Client {
                client,
                connection,
                step,
            } => {
                write!(f, "{client}#{connection}")?;
                match step {
                    Step::Opened(node) => write!(f, "! opened to node {node}"),
                    Step::Sent(packet) => write!(f, "> {}", summary(packet)),
                    Step::Received(packet) => write!(f, "< {}", summary(packet)),
                    Step::Ended(end) => write!(f, "! ended: {end:?}"),
                    Step::Leftover(packet) => write!(f, "~ {}", summary(packet)),
                    Step::LeftoverClosed => write!(f, "~ closed by the broker"),
                }
            }
            Event::Fault(fault) => write!(f, "==== {fault:?} ===="),
            Event::Note(text) => write!(f, "---- {text}"),
        }
    }
}
