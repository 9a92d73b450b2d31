//! Heartbeats between all nodes: they carry the lease, and what a node must have seen to hold it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use raft_store::{Incarnation, NodeId, ShardId, peer_channel};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tonic::Code;
use tonic::transport::Channel;

use crate::broker::Broker;
use crate::clock;
use crate::count;
use crate::drain::Stage;
use crate::lease::Seen;
use crate::life::Life;
use crate::peers::announcements;
use crate::proto::peers_client::PeersClient;
use crate::proto::{
    AnnouncedReply, AnnouncedRequest, AnnouncementPosition, HeartbeatReply, HeartbeatRequest,
};

/// How often the lease is looked at between answers: what it waited for may have been applied.
const RENEW_PERIOD: Duration = Duration::from_millis(20);

/// Sends heartbeats to one peer for ever.
pub(crate) async fn run(broker: Arc<Broker>, peer: NodeId, address: String) {
    let channel = match peer_channel(&address, broker.shards.security()) {
        Ok(channel) => channel,
        Err(error) => {
            tracing::error!(%peer, address, %error, "peer address");
            return;
        }
    };
    let mut client = PeersClient::new(channel);
    let mut tick = interval(broker.config.cluster.heartbeat);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut up = None;
    let mut looked = clock::now();
    loop {
        tick.tick().await;
        let Some(life) = broker.dispatch.life() else {
            continue;
        };
        let answered = beat(&broker, &life, peer, &mut client).await;
        // A pause of this node itself is not held against the peer.
        let waited = clock::now()
            .saturating_sub(looked)
            .min(2 * broker.lease.duration());
        looked = clock::now();
        if !answered {
            broker.unanswered.tick(peer, waited);
        }
        if up != Some(answered) {
            up = Some(answered);
            count::peer_up(peer.0, answered);
            if answered {
                tracing::info!(%peer, address, "peer answers heartbeats");
            } else {
                tracing::warn!(%peer, address, "peer does not answer heartbeats");
            }
        }
    }
}

/// One heartbeat. True: the peer answered.
async fn beat(
    broker: &Broker,
    life: &Life,
    peer: NodeId,
    client: &mut PeersClient<Channel>,
) -> bool {
    let unreachable = broker
        .unanswered
        .silent_for(broker.config.cluster.node_down_after);
    let unreachable = unreachable.into_iter();
    let request = HeartbeatRequest {
        from: u32::from(life.id.node.0),
        from_incarnation: life.id.incarnation.0,
        cluster: broker.config.cluster.name.clone(),
        unreachable: unreachable.map(|node| u32::from(node.0)).collect(),
        draining: broker.drain.stage() != Stage::Serving,
    };
    let sent = clock::now();
    let Ok(reply) = timeout(broker.lease.duration(), client.heartbeat(request)).await else {
        return false;
    };
    match reply {
        Ok(reply) => {
            count::peer_rtt(peer.0, clock::now().saturating_sub(sent));
            broker.silence.heard(peer);
            broker.unanswered.heard(peer);
            let needed = seen_from_proto(reply.into_inner());
            let missing = missing_announcements(&needed, &broker.dispatch.routes.seen());
            broker
                .lease
                .answered(peer, sent, needed, &broker.dispatch.routes.seen());
            renew(broker);
            for node in missing {
                fetch_announcements(broker, life, node, client).await;
            }
            true
        }
        Err(status) if status.code() == Code::FailedPrecondition => {
            tracing::warn!(%peer, reason = status.message(), "the peer says that this life is over");
            life.ended.cancel();
            true
        }
        Err(status) => {
            // Unavailable: not up, or not yet caught up. Both mean: no lease from it.
            if status.code() == Code::Unavailable && status.message() == NOT_READY {
                broker.silence.heard(peer);
                broker.unanswered.heard(peer);
            }
            tracing::debug!(%peer, %status, "heartbeat not answered");
            false
        }
    }
}

/// What a node says that is alive but must not answer yet.
pub(crate) const NOT_READY: &str = "this life has not caught up yet";

/// Looks at the lease at short intervals for ever.
pub(crate) async fn keep_lease(broker: Arc<Broker>) {
    let mut tick = interval(RENEW_PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        renew(&broker);
    }
}

fn renew(broker: &Broker) {
    let ready = broker
        .dispatch
        .life()
        .is_some_and(|life| life.is_ready() && !life.ended.is_cancelled());
    broker.lease.renew(&broker.dispatch.routes.seen(), ready);
}

/// Nodes whose announcements the peer knows and this node does not.
fn missing_announcements(needed: &Seen, seen: &Seen) -> Vec<NodeId> {
    let lacks = |node: &NodeId, position: &(Incarnation, u64)| {
        seen.announced
            .get(node)
            .is_none_or(|known| known < position)
    };
    let missing = needed
        .announced
        .iter()
        .filter(|(node, position)| lacks(node, position));
    missing.map(|(node, _)| *node).collect()
}

/// Fetches from this peer what a third node has announced and this node could not hear.
async fn fetch_announcements(
    broker: &Broker,
    life: &Life,
    node: NodeId,
    client: &mut PeersClient<Channel>,
) {
    if node == broker.node {
        return;
    }
    let request = AnnouncedRequest {
        node: u32::from(node.0),
    };
    let Ok(Ok(reply)) = timeout(broker.lease.duration(), client.announced(request)).await else {
        return;
    };
    let AnnouncedReply {
        position: Some(position),
        filters,
        members,
    } = reply.into_inner()
    else {
        return;
    };
    match announcements(&filters, &members) {
        Ok(filters) => {
            let position = (Incarnation(position.incarnation), position.number);
            life.peer_up(node, position.0);
            broker
                .dispatch
                .routes
                .announced_all(node, position, filters);
        }
        Err(error) => tracing::error!(%node, %error, "a peer's announcements make no sense"),
    }
}

/// What this node lists in its answer.
pub(crate) fn seen_to_proto(seen: Seen, incarnation: Incarnation) -> HeartbeatReply {
    let announced = seen
        .announced
        .into_iter()
        .map(|(node, (life, number))| AnnouncementPosition {
            node: u32::from(node.0),
            incarnation: life.0,
            number,
        });
    HeartbeatReply {
        incarnation: incarnation.0,
        subscription_index: seen.subscription_index.into_values().collect(),
        announced: announced.collect(),
    }
}

fn seen_from_proto(reply: HeartbeatReply) -> Seen {
    let subscription_index: BTreeMap<ShardId, u64> =
        (0..).map(ShardId).zip(reply.subscription_index).collect();
    let announced = reply.announced.into_iter().filter_map(|position| {
        let node = u16::try_from(position.node).ok()?;
        Some((
            NodeId(node),
            (Incarnation(position.incarnation), position.number),
        ))
    });
    Seen {
        subscription_index,
        announced: announced.collect(),
    }
}
