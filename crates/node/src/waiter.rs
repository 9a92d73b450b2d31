//! Who waits for the answer to a command or for the receipt of a live message: a connection, by
//! mail, or one task of the node.

use std::sync::Arc;

use raft_store::{Response, Waiter};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::mailbox::{Mail, Mailbox};
use crate::shared::{Claimed, ShardOffer};

/// Waits for the response to a command.
#[derive(Debug)]
pub(crate) enum CommandWaiter {
    /// A connection, which knows the command by `tag`.
    Connection {
        /// Its mailbox.
        mailbox: Arc<Mailbox>,
        /// Its own name for the command.
        tag: u64,
        /// When the PUBLISH came that the command hands on.
        since: Option<Instant>,
    },
    /// A message for a member of a shared subscription in that shard.
    Shared(Box<ShardOffer>),
    /// An item of an outbox that this node wants to hand to a member.
    Claim(Box<Claimed>),
    /// A task.
    Task(oneshot::Sender<Response>),
    /// Nobody.
    None,
}

impl Waiter for CommandWaiter {
    fn answered(self, index: u64, response: Response) {
        match self {
            Self::Connection { mailbox, tag, .. } => {
                mailbox.push(Mail::Answer {
                    tag,
                    index,
                    response,
                });
            }
            Self::Shared(offer) => offer.answered(&response),
            Self::Claim(claimed) => claimed.answered(&response),
            // The task may have stopped waiting; then nobody needs the answer.
            Self::Task(task) => drop(task.send(response)),
            Self::None => {}
        }
    }

    fn since(&self) -> Option<Instant> {
        match self {
            Self::Connection { since, .. } => *since,
            Self::Shared(_) | Self::Claim(_) | Self::Task(_) | Self::None => None,
        }
    }
}

/// Waits for a peer's receipt of a live message, or for a slow subscriber of it.
#[derive(Debug)]
pub(crate) struct LiveWaiter {
    mailbox: Arc<Mailbox>,
    tag: u64,
}

impl LiveWaiter {
    /// `tag` is the connection's own name for the publish.
    pub(crate) fn new(mailbox: Arc<Mailbox>, tag: u64) -> Self {
        Self { mailbox, tag }
    }

    /// The peer has it, or its life is over.
    pub(crate) fn received(self) {
        self.mailbox.push(Mail::Received { tag: self.tag });
    }

    /// The peer has it, and holds its acknowledgement up: `released` follows.
    pub(crate) fn held(&self) {
        self.mailbox.push(Mail::Held { tag: self.tag });
    }

    /// Its acknowledgement is held up no longer.
    pub(crate) fn released(self) {
        self.mailbox.push(Mail::Released { tag: self.tag });
    }
}
