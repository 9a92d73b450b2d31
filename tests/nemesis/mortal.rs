//! Clients that come to die: each has a will and ends in one of the ways in which clients end.

use std::sync::Arc;
use std::time::Duration;

use codec::{
    Connect, Disconnect, Message, MessageProperties, Packet, ProtocolVersion, Qos, ReasonCode,
    TopicName, Utf8, Will,
};
use testkit::recording::End;
use testkit::{Random, let_pass};
use tokio::time::{Instant, timeout, timeout_at};

use crate::actor::{Phase, World};
use crate::wire::{Name, Wire};

const CONNACK_WITHIN: Duration = Duration::from_secs(4);
const PING_EVERY: Duration = Duration::from_millis(500);
/// Of those that have a keep alive, in seconds.
const KEEP_ALIVE_S: u16 = 1;
/// Longer than any broker may need to notice a silent client.
const NOTICED_WITHIN: Duration = Duration::from_secs(20);
/// How long a client waits for the death of its node.
const LIFE_MAX: Duration = Duration::from_secs(15);
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// How a client ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Death {
    /// Its connection is gone without DISCONNECT.
    Drop,
    /// It says nothing any more: its keep alive runs out.
    Silence,
    /// DISCONNECT: no will.
    Disconnect,
    /// 5.0: DISCONNECT 0x04 asks for the will.
    DisconnectWithWill,
    /// It stays until its node dies.
    WithItsNode,
    /// It drops its connection and comes back at once: a will with a delay is not published.
    Return,
}

const DEATHS: [Death; 6] = [
    Death::Drop,
    Death::Silence,
    Death::Disconnect,
    Death::DisconnectWithWill,
    Death::WithItsNode,
    Death::Return,
];

/// One such client after another.
pub(crate) struct Mortals {
    world: World,
    prefix: String,
    random: Random,
}

impl Mortals {
    pub(crate) fn new(world: World, prefix: String, seed: u64) -> Self {
        Self {
            world,
            prefix,
            random: Random::new(seed),
        }
    }

    pub(crate) async fn run(mut self) {
        let mut number = 0;
        while *self.world.phase.borrow() == Phase::Run {
            number += 1;
            self.live_and_die(number).await;
            let_pass(RETRY_AFTER).await;
        }
    }

    async fn live_and_die(&mut self, number: u32) {
        let version = *self
            .random
            .choose(&[ProtocolVersion::V311, ProtocolVersion::V5]);
        let is_v5 = version == ProtocolVersion::V5;
        let mut death = *self.random.choose(&DEATHS);
        if death == Death::DisconnectWithWill && !is_v5 {
            death = Death::Drop;
        }
        let delay_s = *self.random.choose(&[0, 0, 2, 5]);
        let name = Name {
            client: Arc::from(format!("{}-{number}", self.prefix)),
            connection: 1,
            version,
        };
        let connect = self.connect_packet(&name, delay_s);
        let Some(wire) = self.connect(name.clone(), connect.clone()).await else {
            return;
        };
        let life = match death {
            Death::WithItsNode => LIFE_MAX,
            _ => Duration::from_millis(self.random.below(3_000)),
        };
        let Some(wire) = self.stay(wire, life).await else {
            return;
        };
        match death {
            Death::Drop | Death::WithItsNode => wire.end(End::Dropped),
            Death::Silence => stay_silent(wire).await,
            Death::Disconnect => disconnect(wire, ReasonCode::Success).await,
            Death::DisconnectWithWill => {
                disconnect(wire, ReasonCode::DisconnectWithWillMessage).await;
            }
            Death::Return => {
                wire.end(End::Dropped);
                let again = Name {
                    connection: 2,
                    ..name
                };
                let connect = Connect {
                    will: None,
                    ..connect
                };
                if let Some(wire) = self.connect(again, connect).await {
                    wire.end(End::Dropped);
                }
            }
        }
    }

    async fn connect(&mut self, name: Name, connect: Connect) -> Option<Wire> {
        let address = *self.random.choose(&self.world.nodes);
        let mut wire = Wire::open(address, name, &self.world.recording).await?;
        wire.send(Packet::Connect(Box::new(connect))).await;
        let end = match timeout(CONNACK_WITHIN, wire.recv()).await {
            Ok(Ok(packet)) => match &*packet {
                Packet::Connack(connack) if connack.reason_code == ReasonCode::Success => {
                    return Some(wire);
                }
                _ => End::Closed,
            },
            Ok(Err(end)) => end,
            Err(_) => End::Unanswered,
        };
        wire.end(end);
        None
    }

    /// Keeps the connection alive; `None` when it ends by itself.
    async fn stay(&self, mut wire: Wire, life: Duration) -> Option<Wire> {
        let until = Instant::now() + life;
        let mut next_ping = Instant::now();
        while Instant::now() < until && *self.world.phase.borrow() == Phase::Run {
            if Instant::now() >= next_ping {
                wire.send(Packet::Pingreq).await;
                next_ping = Instant::now() + PING_EVERY;
            }
            if let Ok(Err(end)) = timeout_at(next_ping.min(until), wire.recv()).await {
                wire.end(end);
                return None;
            }
        }
        Some(wire)
    }

    fn connect_packet(&mut self, name: &Name, delay_s: u32) -> Connect {
        let is_v5 = name.version == ProtocolVersion::V5;
        let client_id = Utf8::try_from(&*name.client).expect("a legal client id");
        let topic = self.world.topics.will(&self.prefix);
        Connect {
            // With a session that outlives the connection, or the delay would be cut short.
            clean_start: !is_v5,
            session_expiry_interval: is_v5.then_some(if delay_s > 0 { 60 } else { 0 }),
            keep_alive_s: KEEP_ALIVE_S,
            will: Some(Will {
                message: Message {
                    topic: TopicName::try_from(topic.as_str()).expect("a legal topic"),
                    payload: format!("{} died", name.client).into(),
                    qos: *self.random.choose(&[Qos::AtLeastOnce, Qos::ExactlyOnce]),
                    retain: false,
                    properties: MessageProperties::default(),
                },
                delay_interval_s: if is_v5 { delay_s } else { 0 },
            }),
            ..Connect::new(name.version, client_id)
        }
    }
}

/// Reads, but writes nothing, until the broker closes.
async fn stay_silent(mut wire: Wire) {
    let end = timeout(NOTICED_WITHIN, async {
        loop {
            if let Err(end) = wire.recv().await {
                return end;
            }
        }
    });
    let end = end.await.unwrap_or(End::Dropped);
    wire.end(end);
}

async fn disconnect(mut wire: Wire, reason: ReasonCode) {
    wire.send(Packet::Disconnect(Disconnect::new(reason))).await;
    wire.disconnected().await;
}
