//! One node asks all the others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use raft_store::{ConnectionId, Holder, Incarnation, NodeId, ShardId, peer_channel};
use tokio::time::timeout;
use tonic::transport::Channel;

use super::{connections, kick, of_this_node, transfer};
use crate::broker::Broker;
use crate::proto::query::query_client::QueryClient;
use crate::proto::query::{
    Connection, ConnectionsRequest, DrainRequest, KickRequest, NodeRequest, TransferRequest,
    UndrainRequest,
};

/// A peer that takes longer counts as not answering.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// A hand-over of a leadership may take five seconds.
const HANDED_OVER_WITHIN: Duration = Duration::from_secs(8);

/// The members of the cluster, to be asked.
#[derive(Debug)]
pub(crate) struct Cluster {
    /// This node.
    pub(crate) broker: Arc<Broker>,
    peers: BTreeMap<NodeId, QueryClient<Channel>>,
}

/// What was found out about connections.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    /// Those that are open.
    pub(crate) found: BTreeMap<Holder, Connection>,
    /// Nodes that hold some of them and did not answer.
    pub(crate) incomplete: BTreeSet<NodeId>,
}

/// A node that did not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unreachable(pub(crate) NodeId);

impl Cluster {
    /// # Errors
    /// A peer's address is not a valid `host:port`.
    pub(crate) fn new(broker: Arc<Broker>) -> Result<Self, tonic::transport::Error> {
        let mut peers = BTreeMap::new();
        for (peer, address) in broker.peers() {
            peers.insert(
                peer,
                QueryClient::new(peer_channel(address, broker.shards.security())?),
            );
        }
        Ok(Self { broker, peers })
    }

    fn name(&self) -> String {
        self.broker.config.cluster.name.clone()
    }

    fn peer(&self, node: NodeId) -> Result<QueryClient<Channel>, Unreachable> {
        self.peers.get(&node).cloned().ok_or(Unreachable(node))
    }

    /// What the nodes that hold these connections know of them.
    pub(crate) async fn connections(
        &self,
        holders: impl IntoIterator<Item = Holder>,
        subscriptions: bool,
    ) -> Connections {
        let mut by_life: BTreeMap<(NodeId, Incarnation), Vec<u64>> = BTreeMap::new();
        for holder in holders {
            let life = (holder.node, holder.incarnation);
            by_life.entry(life).or_default().push(holder.connection.0);
        }
        let asked = by_life.into_iter().map(|((node, incarnation), ids)| {
            let request = ConnectionsRequest {
                cluster: self.name(),
                incarnation: incarnation.0,
                connections: ids,
                subscriptions,
            };
            async move {
                let answer = self.ask_connections(node, request).await;
                (node, incarnation, answer)
            }
        });
        let mut result = Connections::default();
        for (node, incarnation, answer) in join_all(asked).await {
            let Ok(found) = answer else {
                result.incomplete.insert(node);
                continue;
            };
            for connection in found {
                let holder = Holder {
                    node,
                    incarnation,
                    connection: ConnectionId(connection.connection),
                };
                result.found.insert(holder, connection);
            }
        }
        result
    }

    async fn ask_connections(
        &self,
        node: NodeId,
        request: ConnectionsRequest,
    ) -> Result<Vec<Connection>, Unreachable> {
        if node == self.broker.node {
            return Ok(connections(&self.broker, &request).connections);
        }
        let mut peer = self.peer(node)?;
        match timeout(ANSWER_WITHIN, peer.connections(request)).await {
            Ok(Ok(reply)) => Ok(reply.into_inner().connections),
            Ok(Err(_)) | Err(_) => Err(Unreachable(node)),
        }
    }

    /// Closes a connection wherever it is. `Ok(false)`: it is closed already.
    pub(crate) async fn kick(&self, holder: Holder) -> Result<bool, Unreachable> {
        if holder.node == self.broker.node {
            return Ok(kick(&self.broker, holder.incarnation, holder.connection));
        }
        let request = KickRequest {
            cluster: self.name(),
            incarnation: holder.incarnation.0,
            connection: holder.connection.0,
        };
        let mut peer = self.peer(holder.node)?;
        match timeout(ANSWER_WITHIN, peer.kick(request)).await {
            Ok(Ok(reply)) => Ok(reply.into_inner().found),
            Ok(Err(_)) | Err(_) => Err(Unreachable(holder.node)),
        }
    }

    /// What each member says of itself; `None`: it does not answer.
    pub(crate) async fn nodes(&self) -> BTreeMap<NodeId, Option<serde_json::Value>> {
        let asked = self
            .broker
            .members
            .keys()
            .map(|node| async move { (*node, self.node(*node).await.ok()) });
        join_all(asked).await.into_iter().collect()
    }

    /// What one member says of itself.
    pub(crate) async fn node(&self, node: NodeId) -> Result<serde_json::Value, Unreachable> {
        if node == self.broker.node {
            return Ok(of_this_node(&self.broker));
        }
        let request = NodeRequest {
            cluster: self.name(),
        };
        let mut peer = self.peer(node)?;
        let answer = timeout(ANSWER_WITHIN, peer.node(request)).await;
        let Ok(Ok(reply)) = answer else {
            return Err(Unreachable(node));
        };
        serde_json::from_slice(&reply.into_inner().document).map_err(|error| {
            tracing::warn!(peer = %node, %error, "a node described itself in words not known here");
            Unreachable(node)
        })
    }

    /// Has the leader of a shard hand it over. `Err`: why it did not, for people.
    pub(crate) async fn transfer(&self, shard: ShardId, to: NodeId) -> Result<(), String> {
        let leader = self
            .broker
            .shards
            .shard(shard)
            .and_then(|shard| shard.leader());
        let Some(leader) = leader else {
            return Err(format!("shard {shard} has no leader"));
        };
        if leader == self.broker.node {
            return transfer(&self.broker, shard, to).await;
        }
        let silent = || format!("node {leader}, which leads shard {shard}, does not answer");
        let mut peer = self.peer(leader).map_err(|Unreachable(_)| silent())?;
        let request = TransferRequest {
            cluster: self.name(),
            shard: u32::from(shard.0),
            to: u32::from(to.0),
        };
        match timeout(HANDED_OVER_WITHIN, peer.transfer(request)).await {
            Ok(Ok(reply)) => match reply.into_inner().refused {
                refused if refused.is_empty() => Ok(()),
                refused => Err(refused),
            },
            Ok(Err(_)) | Err(_) => Err(silent()),
        }
    }

    /// Has a node begin to drain itself. `Ok(Some(_))`: why it does not, for people.
    pub(crate) async fn drain(
        &self,
        node: NodeId,
        limit: Option<Duration>,
        force: bool,
    ) -> Result<Option<String>, Unreachable> {
        if node == self.broker.node {
            let refused = self.broker.request_drain(limit, force).err();
            return Ok(refused.map(|refused| refused.to_string()));
        }
        let request = DrainRequest {
            cluster: self.name(),
            timeout_ms: limit.map(|limit| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX)),
            force,
        };
        let mut peer = self.peer(node)?;
        match timeout(ANSWER_WITHIN, peer.drain(request)).await {
            Ok(Ok(reply)) => {
                let refused = reply.into_inner().refused;
                Ok((!refused.is_empty()).then_some(refused))
            }
            Ok(Err(_)) | Err(_) => Err(Unreachable(node)),
        }
    }

    /// Calls the drain of a node off.
    pub(crate) async fn undrain(&self, node: NodeId) -> Result<(), Unreachable> {
        if node == self.broker.node {
            self.broker.undrain();
            return Ok(());
        }
        let request = UndrainRequest {
            cluster: self.name(),
        };
        let mut peer = self.peer(node)?;
        match timeout(ANSWER_WITHIN, peer.undrain(request)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Unreachable(node)),
        }
    }
}
