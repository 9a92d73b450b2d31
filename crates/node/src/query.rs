//! What nodes ask each other so that any of them can answer an operator about the whole cluster.
//!
//! Sessions need no question: each node holds a replica of every shard. What only one node knows is
//! asked for: who holds a connection, what subscriptions a transient session has, how a node is. No
//! client waits for any of this, and a node that does not answer is named by whoever asked it.

mod cluster;
mod node;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use codec::TopicFilter;
use raft_store::{CloseReason, ConnectionId, Incarnation, NodeId, ShardId};
use tonic::{Request, Response, Status};

use crate::broker::Broker;
use crate::life::Life;
use crate::mailbox::Mail;
use crate::proto::query::query_server::{Query, QueryServer};
use crate::proto::query::{
    Connection, ConnectionsReply, ConnectionsRequest, DrainReply, DrainRequest, KickReply,
    KickRequest, NodeReply, NodeRequest, Subscription, TransferReply, TransferRequest,
    UndrainReply, UndrainRequest,
};

pub(crate) use cluster::{Cluster, Connections, Unreachable};
pub(crate) use node::of_this_node;

/// Answers the peers of one node.
#[derive(Clone, Debug)]
pub(crate) struct QueryService {
    broker: Arc<Broker>,
}

impl QueryService {
    /// The tonic service to mount on the cluster port.
    pub(crate) fn server(broker: Arc<Broker>) -> QueryServer<Self> {
        QueryServer::new(Self { broker })
    }

    fn admit(&self, cluster: &str) -> Result<(), Status> {
        if cluster == self.broker.config.cluster.name {
            Ok(())
        } else {
            Err(crate::peers::another_cluster("a node", cluster))
        }
    }
}

#[tonic::async_trait]
impl Query for QueryService {
    async fn connections(
        &self,
        request: Request<ConnectionsRequest>,
    ) -> Result<Response<ConnectionsReply>, Status> {
        let request = request.into_inner();
        self.admit(&request.cluster)?;
        Ok(Response::new(connections(&self.broker, &request)))
    }

    async fn kick(&self, request: Request<KickRequest>) -> Result<Response<KickReply>, Status> {
        let KickRequest {
            cluster,
            incarnation,
            connection,
        } = request.into_inner();
        self.admit(&cluster)?;
        let found = kick(
            &self.broker,
            Incarnation(incarnation),
            ConnectionId(connection),
        );
        Ok(Response::new(KickReply { found }))
    }

    async fn node(&self, request: Request<NodeRequest>) -> Result<Response<NodeReply>, Status> {
        self.admit(&request.into_inner().cluster)?;
        let document = Bytes::from(of_this_node(&self.broker).to_string());
        Ok(Response::new(NodeReply { document }))
    }

    async fn transfer(
        &self,
        request: Request<TransferRequest>,
    ) -> Result<Response<TransferReply>, Status> {
        let TransferRequest { cluster, shard, to } = request.into_inner();
        self.admit(&cluster)?;
        let id = |number: u32, what: &'static str| {
            u16::try_from(number).map_err(|_range| Status::invalid_argument(what))
        };
        let (shard, to) = (ShardId(id(shard, "shard")?), NodeId(id(to, "node")?));
        let refused = transfer(&self.broker, shard, to).await.err();
        Ok(Response::new(TransferReply {
            refused: refused.unwrap_or_default(),
        }))
    }

    async fn drain(&self, request: Request<DrainRequest>) -> Result<Response<DrainReply>, Status> {
        let DrainRequest {
            cluster,
            timeout_ms,
            force,
        } = request.into_inner();
        self.admit(&cluster)?;
        let limit = timeout_ms.map(Duration::from_millis);
        let refused = self.broker.request_drain(limit, force).err();
        Ok(Response::new(DrainReply {
            refused: refused
                .map(|refused| refused.to_string())
                .unwrap_or_default(),
        }))
    }

    async fn undrain(
        &self,
        request: Request<UndrainRequest>,
    ) -> Result<Response<UndrainReply>, Status> {
        self.admit(&request.into_inner().cluster)?;
        self.broker.undrain();
        Ok(Response::new(UndrainReply {}))
    }
}

/// The current life, if it is the one asked about.
fn life(broker: &Broker, incarnation: Incarnation) -> Option<Arc<Life>> {
    let life = broker.dispatch.life();
    life.filter(|life| life.id.incarnation == incarnation)
}

/// What this node knows of connections that it holds.
fn connections(broker: &Broker, request: &ConnectionsRequest) -> ConnectionsReply {
    let Some(life) = life(broker, Incarnation(request.incarnation)) else {
        return ConnectionsReply::default();
    };
    let describe = |id: &u64| connection(&life, ConnectionId(*id), request.subscriptions);
    ConnectionsReply {
        connections: request.connections.iter().filter_map(describe).collect(),
    }
}

fn connection(life: &Life, id: ConnectionId, with_subscriptions: bool) -> Option<Connection> {
    let facts = life.registry.facts(id)?;
    let mailbox = life.registry.mailbox(id)?;
    let (bytes_received, bytes_sent) = mailbox.traffic.bytes();
    let subscriptions = if with_subscriptions {
        let subscriptions = life.registry.subscriptions(id);
        subscriptions
            .iter()
            .map(|(filter, subscription)| to_proto(filter, subscription))
            .collect()
    } else {
        Vec::new()
    };
    Some(Connection {
        connection: id.0,
        address: facts.address,
        listener: facts.listener,
        since_ms: millis_since_1970(facts.since),
        protocol: u32::from(facts.version.level()),
        keep_alive_s: u32::from(facts.keep_alive_s),
        user: facts.user.unwrap_or_default(),
        bytes_received,
        bytes_sent,
        held_bytes: u64::try_from(mailbox.held_bytes()).unwrap_or(u64::MAX),
        subscriptions,
    })
}

fn to_proto(filter: &TopicFilter, subscription: &router::Subscription) -> Subscription {
    let options = subscription.options;
    Subscription {
        filter: filter.as_str().to_owned(),
        qos: u32::from(options.qos as u8),
        no_local: options.no_local,
        retain_as_published: options.retain_as_published,
        retain_handling: u32::from(options.retain_handling as u8),
        identifier: subscription.identifier.map_or(0, |id| id.get()),
    }
}

fn millis_since_1970(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Closes a connection that this node holds: a 5.0 client is told 0x98. False: it is closed already.
fn kick(broker: &Broker, incarnation: Incarnation, connection: ConnectionId) -> bool {
    let mailbox = life(broker, incarnation).and_then(|life| life.registry.mailbox(connection));
    let found = mailbox.is_some();
    if let Some(mailbox) = mailbox {
        mailbox.push(Mail::Close(CloseReason::Kicked));
    }
    found
}

/// Hands over a shard that this node leads.
async fn transfer(broker: &Broker, shard: ShardId, to: NodeId) -> Result<(), String> {
    let Some(shard) = broker.shards.shard(shard) else {
        return Err(format!("there is no shard {shard}"));
    };
    shard
        .transfer_to(to)
        .await
        .map_err(|error| error.to_string())
}
