//! What connections publish and acknowledge.

use codec::{Message, PacketId, Qos, TopicFilter};
use raft_store::{Acknowledgement, Command, OutboxTarget, ShardId};

use super::super::action::{
    Among, Audience, CLIENTS, Choice, Content, NODES, PERSISTENT, Pick, Place, SHARES,
};
use super::super::oracle::Kind;
use super::{Connection, Life, World};

impl World {
    fn message(&mut self, from: &Connection, content: Content, kind: Kind) -> Message {
        self.oracle
            .message((&from.client_id, from.epoch), content, kind)
    }

    /// A connection that may publish: a closed one has nothing to say, its node drops what it reads.
    pub(super) fn publisher(&self, mut pick: Pick) -> Option<Connection> {
        if pick.among == Among::All {
            pick.among = Among::Unclosed;
        }
        self.pick(&pick)
    }

    pub(super) fn publish(&mut self, pick: Pick, mut content: Content, shards: u8) {
        let Some(connection) = self.publisher(pick) else {
            return;
        };
        // At QoS 2, what a session is kept for goes through its shard.
        if CLIENTS[..PERSISTENT].contains(&connection.client_id.as_str()) {
            content.qos = Qos::AtLeastOnce;
        }
        let message = self.message(&connection, content, Kind::Plain);
        self.publish_to(&connection, &message, None, shards);
    }

    /// `shards` is a set of bits.
    pub(super) fn publish_to(
        &mut self,
        connection: &Connection,
        message: &Message,
        retained_version: Option<u64>,
        shards: u8,
    ) {
        for shard in self.shards_of(shards) {
            let command = Command::Publish {
                client_id: connection.client_id.clone(),
                epoch: connection.epoch,
                message: message.clone(),
                retained_version,
            };
            self.submit_fenced(connection, shard, command);
        }
    }

    pub(super) fn publish_shared(
        &mut self,
        pick: Pick,
        content: Content,
        (share, shard): (usize, ShardId),
        handed_on: bool,
    ) {
        let Some(connection) = self.publisher(pick) else {
            return;
        };
        let kind = if handed_on {
            Kind::HandedOn
        } else {
            Kind::Plain
        };
        let message = self.message(&connection, content, kind);
        let interval = message.properties.message_expiry_interval;
        let left = interval.map(|seconds| u64::from(seconds) * 1_000 / 2);
        let command = Command::PublishShared {
            client_id: connection.client_id.clone(),
            epoch: (!handed_on).then_some(connection.epoch),
            filter: share_filter(share),
            message,
            expires_in_ms: left.filter(|_| handed_on),
        };
        self.submit_fenced(&connection, shard, command);
    }

    /// To another shard, behind a `Fence` while an earlier connection may have something under way.
    pub(super) fn submit_fenced(
        &mut self,
        connection: &Connection,
        shard: ShardId,
        command: Command,
    ) {
        let Connection {
            client_id,
            home,
            holder,
            epoch,
            ..
        } = connection.clone();
        let life = (holder.node, holder.incarnation);
        if shard != home && self.has_formers(connection, shard) {
            self.submit(shard, life, Command::Fence { client_id, epoch });
            self.connection(connection).fenced.insert(shard);
        }
        self.submit(shard, life, command);
    }

    pub(super) fn receive_exactly_once(
        &mut self,
        pick: Pick,
        packet_id: PacketId,
        mut content: Content,
        audience: &Audience,
    ) {
        let Some(connection) = self.pick(&pick) else {
            return;
        };
        content.qos = Qos::ExactlyOnce;
        let message = self.message(&connection, content, Kind::Plain);
        let (shards, nodes, shared) = self.places(audience);
        self.submit_home(pick, |client_id, epoch| Command::ReceiveExactlyOnce {
            client_id,
            epoch,
            packet_id,
            message,
            shards,
            nodes,
            retained_version: None,
            shared,
        });
    }

    fn shards_of(&self, bits: u8) -> Vec<ShardId> {
        let is_set = |shard: &ShardId| bits & (1 << shard.0) != 0;
        self.shard_ids().filter(is_set).collect()
    }

    pub(super) fn newest_life(&self, node: usize) -> Life {
        let mut lives = self.lives.iter().rev();
        *lives.find(|(of, _)| *of == NODES[node]).unwrap()
    }

    pub(super) fn target(&self, place: Place) -> OutboxTarget {
        match place {
            Place::Shard(shard) => OutboxTarget::Shard(self.shard(shard)),
            Place::Node(node) => {
                let (node, life) = self.newest_life(node);
                OutboxTarget::Node(node, life)
            }
            Place::Nowhere => OutboxTarget::Unplaced,
        }
    }

    pub(super) fn places(
        &self,
        audience: &Audience,
    ) -> (Vec<ShardId>, Vec<Life>, Vec<(TopicFilter, OutboxTarget)>) {
        let nodes = (0..NODES.len()).filter(|node| audience.nodes & (1 << node) != 0);
        let nodes = nodes.map(|node| self.newest_life(node)).collect();
        let mut shared: Vec<(TopicFilter, OutboxTarget)> = Vec::new();
        for (share, place) in &audience.shared {
            let share = share_filter(*share);
            // One place per shared subscription.
            if !shared.iter().any(|(other, _)| *other == share) {
                shared.push((share, self.target(*place)));
            }
        }
        (self.shards_of(audience.shards), nodes, shared)
    }

    pub(super) fn acknowledgements(
        &self,
        connection: &Connection,
        choices: &[Choice],
    ) -> Vec<Acknowledgement> {
        let ids = self.ids_in_flight(connection);
        choices.iter().map(|choice| choice.resolve(&ids)).collect()
    }

    pub(super) fn ids_in_flight(&self, connection: &Connection) -> Vec<PacketId> {
        let model = &self.shards[usize::from(connection.home.0)].model;
        let session = model
            .clients
            .get(&connection.client_id)
            .and_then(|each| each.session.as_ref());
        session
            .map(|session| session.ids_in_flight())
            .unwrap_or_default()
    }
}

pub(super) fn share_filter(share: usize) -> TopicFilter {
    TopicFilter::try_from(SHARES[share]).unwrap()
}
