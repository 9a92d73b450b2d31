//! What this node answers its peers: the live plane's way in, heartbeats, and what it has seen.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use codec::{ClientId, TopicFilter};
use futures::{FutureExt, Stream};
use raft_store::{Epoch, Incarnation, NodeId, ShardId, decode_message, refuse_peer};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::broker::Broker;
use crate::clock;
use crate::heartbeat::{NOT_READY, seen_to_proto};
use crate::hold::{News, Receipts};
use crate::lease::Seen;
use crate::life::{Life, LifeId};
use crate::mailbox::waking_at_the_end;
use crate::proto::live_ack::Kind as AckKind;
use crate::proto::live_frame::Kind as FrameKind;
use crate::proto::live_item::Kind as ItemKind;
use crate::proto::peers_server::{Peers, PeersServer};
use crate::proto::{
    AnnouncedReply, AnnouncedRequest, AnnouncementPosition, AwaitSeenReply, AwaitSeenRequest,
    HeartbeatReply, HeartbeatRequest, LiveAck, LiveFrame, LiveHello, LiveItem, LivePublish,
    LiveShared, SharedOutcomeKind, StatisticsReply, StatisticsRequest,
};
use crate::received::ReceivedItems;
use crate::registry::LiveMessage;
use crate::routes::Announcements;
use crate::shared::{SharedOrigin, SharedTaken};
use crate::statistics;
use crate::visibility::Change;

/// Items taken before their acknowledgement is sent although more are waiting.
const ITEMS_PER_ACK_MAX: u64 = 64;
/// Items that are there already and taken together.
const ITEMS_PER_BATCH_MAX: usize = 64;
/// Acknowledgements handed to the transport and not yet written.
const ACKS_MAX: usize = 16;
/// How long `AwaitSeen` waits before it says "not yet".
const SEEN_WAIT: Duration = Duration::from_millis(500);

/// Answers the peers of one node.
#[derive(Clone, Debug)]
pub(crate) struct PeerService {
    broker: Arc<Broker>,
    received: Arc<ReceivedItems>,
}

impl PeerService {
    /// The tonic service to mount on the cluster port.
    pub(crate) fn server(broker: Arc<Broker>) -> PeersServer<Self> {
        let service = Self {
            broker,
            received: Arc::new(ReceivedItems::default()),
        };
        PeersServer::new(service)
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX)
    }

    /// The peer, if it is a member of this cluster and that life is not known to be over.
    fn admit(&self, cluster: &str, from: u32, incarnation: Incarnation) -> Result<NodeId, Status> {
        if cluster != self.broker.config.cluster.name {
            return Err(another_cluster(&format!("node {from}"), cluster));
        }
        let node = u16::try_from(from).map(NodeId).ok();
        let node = node.filter(|node| self.broker.members.contains_key(node));
        let Some(node) = node else {
            refuse_peer(&format!("node {from}"), "node", "not a member");
            return Err(Status::permission_denied("not a member"));
        };
        if self.is_over(node, incarnation) {
            return Err(Status::failed_precondition("this life was declared over"));
        }
        Ok(node)
    }

    fn is_over(&self, node: NodeId, incarnation: Incarnation) -> bool {
        let Some(shard) = self.broker.shards.shard(ShardId::ZERO) else {
            return false;
        };
        shard.with_machine(|machine| {
            machine.lives().any(|(known, newest, down)| {
                known == node && (newest > incarnation || (newest == incarnation && down))
            })
        })
    }

    fn life(&self) -> Result<Arc<Life>, Status> {
        self.broker
            .dispatch
            .life()
            .ok_or_else(|| Status::unavailable("no life yet"))
    }
}

/// Refuses a call that is meant for another cluster.
pub(crate) fn another_cluster(peer: &str, cluster: &str) -> Status {
    refuse_peer(peer, "cluster", &format!("calls for cluster {cluster:?}"));
    Status::permission_denied("another cluster")
}

#[tonic::async_trait]
impl Peers for PeerService {
    type LiveStream = Pin<Box<dyn Stream<Item = Result<LiveAck, Status>> + Send>>;

    async fn live(
        &self,
        request: Request<Streaming<LiveFrame>>,
    ) -> Result<Response<Self::LiveStream>, Status> {
        let mut frames = request.into_inner();
        let Some(FrameKind::Hello(hello)) = frames.message().await?.and_then(|frame| frame.kind)
        else {
            return Err(Status::invalid_argument("the first frame must be a hello"));
        };
        let LiveHello {
            from,
            from_incarnation,
            to_incarnation,
            cluster,
        } = hello;
        let from_incarnation = Incarnation(from_incarnation);
        let peer = self.admit(&cluster, from, from_incarnation)?;
        let life = self.life()?;
        if life.id.incarnation.0 != to_incarnation {
            return Err(Status::unavailable("another life of this node"));
        }
        // This node's replica of shard 0 may not know that life yet: what is sent to the peer from
        // now on is for it.
        life.peer_up(peer, from_incarnation);
        life.heard_from(peer, from_incarnation);
        let last = self
            .received
            .begin(peer, from_incarnation, life.id.incarnation);
        let Some(last) = last else {
            return Err(Status::failed_precondition(
                "a newer life of the peer is known",
            ));
        };
        let (acks, receiver) = mpsc::channel(ACKS_MAX);
        let welcome = LiveAck {
            kind: Some(AckKind::Welcome(last)),
            ..LiveAck::default()
        };
        acks.send(Ok(welcome))
            .await
            .map_err(|_gone| Status::cancelled("stream closed"))?;
        let stream = LiveReceiver {
            broker: Arc::clone(&self.broker),
            received: Arc::clone(&self.received),
            life: Arc::clone(&life),
            peer,
            from: from_incarnation,
            receipts: Arc::default(),
        };
        life.tasks.spawn(async move {
            if let Err(status) = stream.run(frames, &acks).await {
                tracing::debug!(%peer, %status, "live stream in ended");
                // The peer may be gone; then it needs no reason.
                drop(acks.try_send(Err(status)));
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn heartbeat(
        &self,
        request: Request<HeartbeatRequest>,
    ) -> Result<Response<HeartbeatReply>, Status> {
        let HeartbeatRequest {
            from,
            from_incarnation,
            cluster,
            unreachable,
            draining,
        } = request.into_inner();
        let peer = self.admit(&cluster, from, Incarnation(from_incarnation))?;
        self.broker.silence.heard(peer);
        let unreachable = unreachable
            .into_iter()
            .filter_map(|node| u16::try_from(node).ok());
        let reports = &self.broker.reports;
        reports.note(peer, unreachable.map(NodeId).collect());
        reports.note_draining(peer, draining);
        let life = self.life()?;
        // A life that this node does not know yet gets no answer either: `long_over` relies on it.
        let known = self.broker.live_nodes().get(&peer) == Some(&Incarnation(from_incarnation));
        if !life.is_ready() || !known {
            return Err(Status::unavailable(NOT_READY));
        }
        let reply = seen_to_proto(self.broker.dispatch.routes.listed(), life.id.incarnation);
        Ok(Response::new(reply))
    }

    async fn await_seen(
        &self,
        request: Request<AwaitSeenRequest>,
    ) -> Result<Response<AwaitSeenReply>, Status> {
        let needed = needed(&request.into_inner())?;
        let routes = &self.broker.dispatch.routes;
        let mut changes = routes.watch();
        let seen = async {
            while !routes.seen().covers(&needed) {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        let seen = timeout(SEEN_WAIT, seen).await.is_ok();
        let long_over = self
            .broker
            .long_over()
            .into_iter()
            .map(|node| u32::from(node.0))
            .collect();
        Ok(Response::new(AwaitSeenReply { seen, long_over }))
    }

    async fn statistics(
        &self,
        request: Request<StatisticsRequest>,
    ) -> Result<Response<StatisticsReply>, Status> {
        if request.get_ref().cluster != self.broker.config.cluster.name {
            return Err(another_cluster("a node", &request.get_ref().cluster));
        }
        Ok(Response::new(statistics::of_this_node(&self.broker)))
    }

    async fn announced(
        &self,
        request: Request<AnnouncedRequest>,
    ) -> Result<Response<AnnouncedReply>, Status> {
        let node = u16::try_from(request.into_inner().node)
            .map_err(|_range| Status::invalid_argument("node"))?;
        let known = self.broker.dispatch.routes.announcements_of(NodeId(node));
        let Some(((incarnation, number), filters)) = known else {
            return Ok(Response::new(AnnouncedReply::default()));
        };
        let position = AnnouncementPosition {
            node: u32::from(node),
            incarnation: incarnation.0,
            number,
        };
        Ok(Response::new(AnnouncedReply {
            position: Some(position),
            filters: filters
                .keys()
                .map(|filter| filter.as_str().to_owned())
                .collect(),
            members: filters.into_values().collect(),
        }))
    }
}

/// One incoming stream of one peer life.
struct LiveReceiver {
    broker: Arc<Broker>,
    received: Arc<ReceivedItems>,
    life: Arc<Life>,
    peer: NodeId,
    from: Incarnation,
    /// What waits for slow subscribers; when the stream ends, nothing does.
    receipts: Arc<Receipts>,
}

impl LiveReceiver {
    /// Takes items until the stream ends. Never waits for a client.
    async fn run(
        &self,
        mut frames: Streaming<LiveFrame>,
        acks: &mpsc::Sender<Result<LiveAck, Status>>,
    ) -> Result<(), Status> {
        let mut unacknowledged = 0_u64;
        let mut upto = 0_u64;
        let mut has_released = false;
        loop {
            let frame = tokio::select! {
                biased;
                () = self.life.ended.cancelled() => return Err(Status::unavailable("life is over")),
                frame = frames.message() => frame?,
                permit = acks.reserve(), if unacknowledged > 0 || has_released => {
                    let permit = permit.map_err(|_gone| Status::cancelled("stream closed"))?;
                    permit.send(Ok(self.ack(upto)));
                    unacknowledged = 0;
                    has_released = false;
                    continue;
                }
                () = self.receipts.released(), if !has_released => {
                    has_released = true;
                    continue;
                }
            };
            let Some(frame) = frame else { return Ok(()) };
            let mut batch = vec![frame];
            while batch.len() < ITEMS_PER_BATCH_MAX {
                // What is behind an error or the end comes with the next call.
                match frames.message().now_or_never() {
                    Some(Ok(Some(frame))) => batch.push(frame),
                    Some(Ok(None) | Err(_)) | None => break,
                }
            }
            let taken = u64::try_from(batch.len()).unwrap_or(u64::MAX);
            upto = waking_at_the_end(|| self.take_all(batch))?;
            unacknowledged = unacknowledged.saturating_add(taken);
            if unacknowledged >= ITEMS_PER_ACK_MAX {
                acks.send(Ok(self.ack(upto)))
                    .await
                    .map_err(|_gone| Status::cancelled("stream closed"))?;
                unacknowledged = 0;
                has_released = false;
            }
        }
    }

    fn ack(&self, upto: u64) -> LiveAck {
        let News { held, released } = self.receipts.take();
        LiveAck {
            kind: Some(AckKind::Upto(upto)),
            held,
            released,
        }
    }

    /// Takes items in order. Returns the number of the last one.
    fn take_all(&self, batch: Vec<LiveFrame>) -> Result<u64, Status> {
        let mut upto = 0;
        for frame in batch {
            let Some(FrameKind::Item(item)) = frame.kind else {
                return Err(Status::invalid_argument("expected an item"));
            };
            upto = item.sequence;
            self.take(item)?;
        }
        Ok(upto)
    }

    fn take(&self, item: LiveItem) -> Result<(), Status> {
        if self.broker.dispatch.is_over(self.peer, self.from) {
            return Err(Status::failed_precondition("this life was declared over"));
        }
        let lives = (self.from, self.life.id.incarnation);
        let Some(kind) = item.kind else {
            return Err(Status::invalid_argument("empty item"));
        };
        self.received.take(self.peer, lives, item.sequence, || {
            self.take_kind(item.sequence, kind)
        })
    }

    fn take_kind(&self, sequence: u64, kind: ItemKind) -> Result<(), Status> {
        let routes = &self.broker.dispatch.routes;
        match kind {
            ItemKind::Publish(publish) => self.deliver(sequence, publish)?,
            ItemKind::Announcement(announcement) => {
                let filter = filter(&announcement.filter)?;
                let position = (self.from, announcement.number);
                let members = match (announcement.added, announcement.members) {
                    (false, _) => 0,
                    (true, members) => members.max(1),
                };
                if !routes.announced_one(self.peer, position, &filter, members) {
                    return Err(Status::data_loss("an announcement is missing"));
                }
            }
            ItemKind::Snapshot(snapshot) => {
                let filters = announcements(&snapshot.filters, &snapshot.members)?;
                routes.announced_all(self.peer, (self.from, snapshot.number), filters);
                self.broker.dispatch.lives_changed.notify_waiters();
            }
            ItemKind::Fence(fence) => {
                self.life
                    .registry
                    .fence(client_id(&fence.client_id)?, Epoch(fence.epoch));
            }
            ItemKind::Shared(shared) => self.deliver_shared(shared)?,
            ItemKind::SharedOutcome(outcome) => {
                let at = LifeId {
                    node: self.peer,
                    incarnation: self.from,
                };
                if outcome.incarnation == self.life.id.incarnation.0 {
                    self.life.on_shared(outcome.number, at, outcome.kind());
                }
            }
        }
        Ok(())
    }

    /// For one member of a shared subscription here. What became of it is reported, unless the sender
    /// does not keep it.
    fn deliver_shared(&self, shared: LiveShared) -> Result<(), Status> {
        let client_id = client_id(&shared.client_id)?;
        let message = decode_message(shared.message)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let filter = Arc::new(filter(&shared.filter)?);
        let from = LifeId {
            node: self.peer,
            incarnation: self.from,
        };
        let origin = (shared.number > 0).then_some(SharedOrigin {
            life: from,
            number: shared.number,
        });
        let registry = &self.life.registry;
        let fenced = shared.epoch > 0 && registry.is_fenced(&client_id, Epoch(shared.epoch));
        let kind = if fenced {
            SharedOutcomeKind::Refused
        } else {
            let live_message = LiveMessage {
                message: &message,
                expires_at: shared.expires_in_ms.map(clock::in_millis),
                retained_version: None,
                since: None,
            };
            match registry.deliver_shared(&filter, &live_message, origin) {
                SharedTaken::Placed => SharedOutcomeKind::Placed,
                SharedTaken::NoMember => SharedOutcomeKind::NoMember,
                SharedTaken::Full => SharedOutcomeKind::Full,
            }
        };
        if let Some(origin) = origin {
            self.life.report_shared(origin, kind);
        }
        Ok(())
    }

    fn deliver(&self, sequence: u64, publish: LivePublish) -> Result<(), Status> {
        let client_id = client_id(&publish.client_id)?;
        let message = decode_message(publish.message)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        if !self
            .life
            .registry
            .is_fenced(&client_id, Epoch(publish.epoch))
        {
            let live_message = LiveMessage {
                message: &message,
                expires_at: clock::expires_at(&message),
                retained_version: publish.retained_version,
                since: None,
            };
            let delivered = self.life.registry.deliver(&client_id, &live_message);
            if let Some(lagging) = &delivered.lagging {
                self.receipts.hold(sequence, lagging);
            }
        }
        Ok(())
    }
}

fn needed(request: &AwaitSeenRequest) -> Result<Seen, Status> {
    let mut needed = Seen::default();
    for position in &request.shards {
        let shard =
            u16::try_from(position.shard).map_err(|_range| Status::invalid_argument("shard"))?;
        needed.add(Change::Shard(ShardId(shard), position.index));
    }
    for position in &request.announcements {
        let node =
            u16::try_from(position.node).map_err(|_range| Status::invalid_argument("node"))?;
        let life = LifeId {
            node: NodeId(node),
            incarnation: Incarnation(position.incarnation),
        };
        needed.add(Change::Announcement(life, position.number));
    }
    Ok(needed)
}

/// Filters with their members, as peers list them.
pub(crate) fn announcements(filters: &[String], members: &[u32]) -> Result<Announcements, Status> {
    let members = members.iter().copied().chain(std::iter::repeat(1));
    let filters = filters.iter().zip(members);
    filters
        .map(|(text, members)| Ok((filter(text)?, members.max(1))))
        .collect()
}

fn client_id(text: &str) -> Result<ClientId, Status> {
    ClientId::new(text).map_err(|error| Status::invalid_argument(error.to_string()))
}

fn filter(text: &str) -> Result<TopicFilter, Status> {
    TopicFilter::try_from(text).map_err(|error| Status::invalid_argument(error.to_string()))
}
