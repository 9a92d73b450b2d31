//! What an operator can ask about one connection that this node holds.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use codec::ProtocolVersion;

use crate::client::Client;

/// What does not change while the connection is open.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionFacts {
    /// The client's address.
    pub(crate) address: String,
    /// `name` of the listener that accepted it.
    pub(crate) listener: String,
    /// When it was accepted, by the clock of this machine.
    pub(crate) since: SystemTime,
    /// Its protocol version.
    pub(crate) version: ProtocolVersion,
    /// Seconds; 0: none.
    pub(crate) keep_alive_s: u16,
    /// Who it has shown to be.
    pub(crate) user: Option<String>,
}

impl ConnectionFacts {
    /// Of a connection whose session has just been opened.
    pub(crate) fn of(client: &Client) -> Self {
        Self {
            address: client.origin.address.to_string(),
            listener: client.origin.listener.as_ref().to_owned(),
            since: SystemTime::now(),
            version: client.version,
            keep_alive_s: client.keep_alive_s,
            user: client.principal.user().map(str::to_owned),
        }
    }
}

/// Bytes of one connection, counted by its own task.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    received: AtomicU64,
    sent: AtomicU64,
}

impl Traffic {
    /// Bytes came in.
    pub(crate) fn received(&self, bytes: usize) {
        self.received.fetch_add(count(bytes), Ordering::Relaxed);
    }

    /// Bytes went out.
    pub(crate) fn sent(&self, bytes: usize) {
        self.sent.fetch_add(count(bytes), Ordering::Relaxed);
    }

    /// Received and sent so far.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        (
            self.received.load(Ordering::Relaxed),
            self.sent.load(Ordering::Relaxed),
        )
    }
}

fn count(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
