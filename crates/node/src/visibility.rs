//! When a SUBACK may be sent: every node that may start a PUBLISH has seen the change (G5).
//!
//! That is so when every node not declared down says so; or when a majority has and one lease has
//! passed: whoever renews its lease after that heard of the change from that majority, and has none
//! before it has applied it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use raft_store::{NodeId, PeerSecurity, ShardId, peer_channel};
use tokio::time::sleep;
use tonic::transport::Channel;

use crate::broker::Broker;
use crate::lease::Seen;
use crate::life::{Life, LifeId};
use crate::mailbox::{Mail, Mailbox};
use crate::proto::peers_client::PeersClient;
use crate::proto::{AnnouncementPosition, AwaitSeenRequest, ShardPosition};

/// Pause before a peer that could not be asked is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// Questions to the peers under way at once; what comes meanwhile is asked together.
const ROUNDS_MAX: usize = 16;

/// A subscription change.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Change {
    /// Of a session in a shard: the entry's log index.
    Shard(ShardId, u64),
    /// Of a transient session: the announcement of this life.
    Announcement(LifeId, u64),
}

/// The channels on which peers are asked what they have seen.
#[derive(Debug)]
pub(crate) struct Visibility {
    clients: Vec<(NodeId, PeersClient<Channel>)>,
}

impl Visibility {
    /// # Errors
    /// A peer's address is not a valid `host:port`.
    pub(crate) fn new<'a>(
        peers: impl Iterator<Item = (NodeId, &'a String)>,
        security: &PeerSecurity,
    ) -> Result<Self, tonic::transport::Error> {
        let mut clients = Vec::new();
        for (peer, address) in peers {
            clients.push((peer, PeersClient::new(peer_channel(address, security)?)));
        }
        Ok(Self { clients })
    }

    /// A way to ask each peer.
    pub(crate) fn clients(&self) -> impl Iterator<Item = (NodeId, PeersClient<Channel>)> + '_ {
        let clients = self.clients.iter();
        clients.map(|(peer, client)| (*peer, client.clone()))
    }

    /// One round. False: every peer was asked, and fewer than a majority have seen the change.
    async fn seen(&self, broker: &Broker, needed: &Seen) -> bool {
        let mut asked: FuturesUnordered<_> = self
            .clients
            .iter()
            .map(|(peer, client)| ask(broker, *peer, client.clone(), needed))
            .collect();
        let mut seen = 1_usize;
        let mut long_over = broker.long_over();
        let mut down = BTreeSet::new();
        while seen < broker.majority() {
            match asked.next().await {
                Some(answer) => {
                    seen = seen.saturating_add(usize::from(answer.note(&mut long_over, &mut down)));
                }
                None => return false,
            }
        }
        // A majority has seen it: from now on one lease is enough for everybody else.
        let everybody = async {
            while let Some(answer) = asked.next().await {
                answer.note(&mut long_over, &mut down);
            }
            if !down.is_subset(&long_over) {
                // Declared down, but perhaps still serving under a lease from before.
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = everybody => {}
            () = sleep(broker.lease.duration()) => {}
        }
        true
    }
}

/// The connections of one life that wait until a change of theirs is visible. However many there
/// are, only so many questions are under way, each for everything that had gathered (G9).
#[derive(Debug, Default)]
pub(crate) struct AwaitingSeen {
    gathered: Mutex<Gathered>,
}

/// A connection's mailbox, and its own name for what it waits for.
pub(crate) type VisibleWaiter = (Arc<Mailbox>, u64);

#[derive(Debug, Default)]
struct Gathered {
    /// The newest change in each shard, and the newest announcement: who has seen it has seen all.
    needed: Seen,
    waiters: Vec<VisibleWaiter>,
    rounds: usize,
}

impl AwaitingSeen {
    /// Tells the connection by `Mail::Visible` when the change is visible.
    pub(crate) fn wait(
        broker: &Arc<Broker>,
        life: &Arc<Life>,
        change: Change,
        waiter: VisibleWaiter,
    ) {
        let begins = {
            let mut gathered = life.awaiting_seen.lock();
            gathered.needed.add(change);
            gathered.waiters.push(waiter);
            let begins = gathered.rounds < ROUNDS_MAX;
            gathered.rounds = gathered.rounds.saturating_add(usize::from(begins));
            begins
        };
        if begins {
            let (broker, ended) = (Arc::clone(broker), life.ended.clone());
            let this = Arc::clone(life);
            life.tasks.spawn(async move {
                let rounds = this.awaiting_seen.rounds(&broker);
                ended.run_until_cancelled(rounds).await;
            });
        }
    }

    /// Asks for what has gathered until nothing is left.
    async fn rounds(&self, broker: &Broker) {
        while let Some((needed, waiters)) = self.take() {
            while !broker.visibility.seen(broker, &needed).await {
                // Too few nodes were up; ask again those that are by now.
                sleep(RETRY_PAUSE).await;
            }
            for (mailbox, tag) in waiters {
                mailbox.push(Mail::Visible { tag });
            }
        }
    }

    fn take(&self) -> Option<(Seen, Vec<VisibleWaiter>)> {
        let mut gathered = self.lock();
        if gathered.waiters.is_empty() {
            gathered.rounds = gathered.rounds.saturating_sub(1);
            return None;
        }
        let needed = std::mem::take(&mut gathered.needed);
        Some((needed, std::mem::take(&mut gathered.waiters)))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Gathered> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What came of asking a peer.
enum Answer {
    /// It has seen the change, and says who has not served for longer than a lease.
    Seen(BTreeSet<NodeId>),
    /// No life of it serves.
    Down(NodeId),
}

impl Answer {
    /// Takes the answer into account. True: the peer has seen the change.
    fn note(self, long_over: &mut BTreeSet<NodeId>, down: &mut BTreeSet<NodeId>) -> bool {
        match self {
            Self::Seen(theirs) => {
                long_over.retain(|node| theirs.contains(node));
                true
            }
            Self::Down(peer) => {
                down.insert(peer);
                false
            }
        }
    }
}

/// Asks one peer until it has seen the change or is declared down.
async fn ask(
    broker: &Broker,
    peer: NodeId,
    mut client: PeersClient<Channel>,
    needed: &Seen,
) -> Answer {
    loop {
        if !broker.live_nodes().contains_key(&peer) {
            return Answer::Down(peer);
        }
        let asked = client.await_seen(to_proto(needed));
        match tokio::time::timeout(broker.lease.duration(), asked).await {
            Ok(Ok(reply)) if reply.get_ref().seen => {
                let long_over = reply.into_inner().long_over.into_iter();
                let nodes = long_over.filter_map(|node| u16::try_from(node).ok());
                return Answer::Seen(nodes.map(NodeId).collect());
            }
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => sleep(RETRY_PAUSE).await,
        }
    }
}

fn to_proto(needed: &Seen) -> AwaitSeenRequest {
    let shards = needed.subscription_index.iter();
    let shards = shards.map(|(shard, index)| ShardPosition {
        shard: u32::from(shard.0),
        index: *index,
    });
    let announcements = needed.announced.iter();
    let announcements = announcements.map(|(node, (incarnation, number))| AnnouncementPosition {
        node: u32::from(node.0),
        incarnation: incarnation.0,
        number: *number,
    });
    AwaitSeenRequest {
        shards: shards.collect(),
        announcements: announcements.collect(),
    }
}
