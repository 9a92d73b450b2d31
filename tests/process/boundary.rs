//! A client that stands at one packet boundary when its node dies, and what it must find when it
//! goes on through another node.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use codec::{Packet, ProtocolVersion, Qos};
use testkit::client::{delivery, is_unsuback};
use testkit::{
    Client, Cluster, ConnectOptions, Delivery, History, NodeId, Outgoing, Receiver, VERSIONS,
    oracle,
};

use crate::scene::{resent, tag};

const IN_TIME: Duration = Duration::from_secs(30);
/// The packet id of all that an actor publishes.
const ID: u16 = 9;

/// The last packet that the client wrote or read before the kill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Boundary {
    ConnectSent,
    ConnackRead,
    SubscribeSent,
    SubackRead,
    UnsubscribeSent,
    UnsubackRead,
    PublishOneSent,
    PubackRead,
    PublishTwoSent,
    PubrecRead,
    PubrelSent,
    PubcompRead,
    DeliveryOneRead,
    PubackSent,
    DeliveryTwoRead,
    PubrecSent,
    PubrelRead,
    PubcompSent,
}

use Boundary::{
    ConnackRead, ConnectSent, DeliveryOneRead, DeliveryTwoRead, PubackRead, PubackSent,
    PubcompRead, PubcompSent, PublishOneSent, PublishTwoSent, PubrecRead, PubrecSent, PubrelRead,
    PubrelSent, SubackRead, SubscribeSent, UnsubackRead, UnsubscribeSent,
};

/// Every packet boundary.
pub(crate) const BOUNDARIES: [Boundary; 18] = [
    ConnectSent,
    ConnackRead,
    SubscribeSent,
    SubackRead,
    UnsubscribeSent,
    UnsubackRead,
    PublishOneSent,
    PubackRead,
    PublishTwoSent,
    PubrecRead,
    PubrelSent,
    PubcompRead,
    DeliveryOneRead,
    PubackSent,
    DeliveryTwoRead,
    PubrecSent,
    PubrelRead,
    PubcompSent,
];

/// What an exchange is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// It must get what is published to its topic.
    Subscriber,
    /// It must not.
    Unsubscriber,
    /// Others must get what it publishes.
    Publisher,
}

impl Boundary {
    fn role(self) -> Role {
        match self {
            ConnectSent | ConnackRead | SubscribeSent | SubackRead => Role::Subscriber,
            UnsubscribeSent | UnsubackRead => Role::Unsubscriber,
            PublishOneSent | PubackRead | PublishTwoSent | PubrecRead | PubrelSent
            | PubcompRead => Role::Publisher,
            DeliveryOneRead | PubackSent | DeliveryTwoRead | PubrecSent | PubrelRead
            | PubcompSent => Role::Subscriber,
        }
    }
}

/// One client at one boundary.
pub(crate) struct Actor {
    boundary: Boundary,
    options: ConnectOptions,
    history: History,
    client: Client,
    /// What it received before the kill.
    message: Option<Delivery>,
}

impl Actor {
    /// Connects, or only opens the network connection when CONNECT itself is the boundary.
    pub(crate) async fn start(
        boundary: Boundary,
        client_id: String,
        version: ProtocolVersion,
        address: SocketAddr,
        history: &History,
    ) -> Self {
        let options = ConnectOptions::persistent(client_id, version);
        let client = match boundary {
            ConnectSent => Client::open(address, &options.client_id, version, history)
                .await
                .expect("it listens"),
            _ => Client::connect_any(&[address], &options, history).await,
        };
        Self {
            boundary,
            options,
            history: history.clone(),
            client,
            message: None,
        }
    }

    fn topic(&self) -> String {
        format!("k/{}", self.options.client_id)
    }

    async fn publish(&mut self, qos: Qos, dup: bool, number: u32) {
        let (topic, payload) = (
            format!("k-out/{}", self.options.client_id),
            format!("{}/{number}", self.options.client_id),
        );
        self.client
            .publish(&Outgoing {
                id: ID,
                dup,
                qos,
                topic: &topic,
                payload: &payload,
            })
            .await;
    }

    async fn receive(&mut self, source: &mut Client, qos: Qos) {
        let topic = self.topic();
        self.client.subscribe(&topic, qos).await;
        source
            .publish_acknowledged(qos, 1, &topic, &format!("{topic}/0"))
            .await;
        self.message = Some(self.client.expect_publish().await);
    }

    fn message_id(&self) -> u16 {
        self.message.as_ref().expect("it was received").id
    }

    /// Goes up to the boundary, without the last packet if it is we who send it.
    pub(crate) async fn prepare(&mut self, source: &mut Client) {
        let topic = self.topic();
        match self.boundary {
            ConnectSent | ConnackRead | SubscribeSent | PublishOneSent | PublishTwoSent => {}
            SubackRead | UnsubscribeSent => {
                drop(self.client.subscribe(&topic, Qos::ExactlyOnce).await)
            }
            UnsubackRead => {
                self.client.subscribe(&topic, Qos::ExactlyOnce).await;
                self.unsubscribe().await;
            }
            PubackRead => {
                self.publish(Qos::AtLeastOnce, false, 0).await;
                self.client.expect_puback(ID).await;
            }
            PubrecRead | PubrelSent | PubcompRead => {
                self.publish(Qos::ExactlyOnce, false, 0).await;
                self.client.expect_pubrec(ID).await;
                if self.boundary == PubcompRead {
                    self.release().await;
                }
            }
            DeliveryOneRead | PubackSent => self.receive(source, Qos::AtLeastOnce).await,
            DeliveryTwoRead | PubrecSent => self.receive(source, Qos::ExactlyOnce).await,
            PubrelRead | PubcompSent => {
                self.receive(source, Qos::ExactlyOnce).await;
                self.client.pubrec(self.message_id()).await;
                self.client.expect_pubrel(self.message_id()).await;
            }
        }
    }

    /// The last packet, if it is we who send it.
    pub(crate) async fn strike(&mut self) {
        let topic = self.topic();
        match self.boundary {
            ConnectSent => {
                self.client
                    .send(&Packet::Connect(Box::new(self.options.packet())))
                    .await
            }
            SubscribeSent => drop(self.client.send_subscribe(&topic, Qos::ExactlyOnce).await),
            UnsubscribeSent => drop(self.client.send_unsubscribe(&topic).await),
            PublishOneSent => self.publish(Qos::AtLeastOnce, false, 0).await,
            PublishTwoSent => self.publish(Qos::ExactlyOnce, false, 0).await,
            PubrelSent => self.client.pubrel(ID).await,
            PubackSent => self.client.puback(self.message_id()).await,
            PubrecSent => self.client.pubrec(self.message_id()).await,
            PubcompSent => self.client.pubcomp(self.message_id()).await,
            ConnackRead | SubackRead | UnsubackRead | PubackRead | PubrecRead | PubcompRead
            | DeliveryOneRead | DeliveryTwoRead | PubrelRead => {}
        }
    }

    /// Connects to a survivor.
    pub(crate) async fn resume(&mut self, address: SocketAddr) {
        self.client = Client::connect_any(&[address], &self.options, &self.history).await;
        // Whether the last CONNECT took effect is the only open question.
        assert!(
            self.client.session_present() || self.boundary == ConnectSent,
            "{}",
            self.options.client_id
        );
    }

    /// When it was connected again.
    pub(crate) fn connected_at(&self) -> Instant {
        self.client.connected_at()
    }

    /// Completes the exchange on the new connection, and shows that nothing of it is left.
    pub(crate) async fn finish(&mut self, source: &mut Client) {
        let topic = self.topic();
        match self.boundary {
            ConnectSent | ConnackRead | SubscribeSent => {
                let before = self.client.subscribe(&topic, Qos::ExactlyOnce).await;
                assert!(before.is_empty(), "{topic}: {before:?}");
            }
            UnsubscribeSent => self.unsubscribe().await,
            PublishOneSent => {
                self.publish(Qos::AtLeastOnce, true, 0).await;
                self.client.expect_puback(ID).await;
            }
            PublishTwoSent => {
                self.publish(Qos::ExactlyOnce, true, 0).await;
                self.client.expect_pubrec(ID).await;
                self.release().await;
            }
            PubrecRead | PubrelSent => self.release().await,
            DeliveryOneRead | PubackSent | DeliveryTwoRead | PubrecSent | PubrelRead
            | PubcompSent => {}
            SubackRead | UnsubackRead | PubackRead | PubcompRead => {}
        }
        match self.boundary.role() {
            Role::Publisher => {
                self.publish(Qos::ExactlyOnce, false, 1).await;
                self.client.expect_pubrec(ID).await;
                self.release().await;
            }
            Role::Subscriber => self.take_end(source).await,
            Role::Unsubscriber => self.miss_then_take_end(source).await,
        }
    }

    async fn release(&mut self) {
        self.client.pubrel(ID).await;
        self.client.expect_pubcomp(ID).await;
    }

    async fn unsubscribe(&mut self) {
        let topic = self.topic();
        let id = self.client.send_unsubscribe(&topic).await;
        let before = self
            .client
            .recv_until("UNSUBACK", |packet| is_unsuback(packet, id))
            .await;
        assert!(before.is_empty(), "{topic}: {before:?}");
    }

    /// What was in flight comes first, as the boundary allows; then the message `end`.
    async fn take_end(&mut self, source: &mut Client) {
        let topic = self.topic();
        source.publish_qos1(1, &topic, "end").await;
        let is_end =
            |packet: &Packet| delivery(packet).is_some_and(|message| message.payload == "end");
        let mut before = Vec::new();
        let end = loop {
            match self.client.recv().await {
                Ok(packet) if is_end(&packet) => break delivery(&packet).unwrap(),
                Ok(packet) => before.push(packet),
                Err(error) => panic!("{topic}: {error:?} instead of the end"),
            }
        };
        assert!(!end.dup, "{topic}: {end:?}");
        self.client.puback(end.id).await;
        self.check_resumed(&before);
        for packet in before {
            self.answer(&packet).await;
        }
        let rest = self.client.commit_barrier().await;
        assert!(rest.is_empty(), "{topic}: {rest:?}");
    }

    fn check_resumed(&self, before: &[Packet]) {
        let publish = self.message.as_ref().map(resent);
        let is_publish = |packet: &Packet| publish.is_some() && delivery(packet) == publish;
        let is_pubrel = |packet: &Packet| matches!(packet, Packet::Pubrel(ack) if ack.packet_id.get() == self.message_id());
        let ok = match (self.boundary, before) {
            (DeliveryOneRead | DeliveryTwoRead, [packet]) => is_publish(packet),
            (PubrelRead, [packet]) => is_pubrel(packet),
            (PubrecSent, [packet]) => is_publish(packet) || is_pubrel(packet),
            (PubackSent, before) => {
                before.is_empty() || (before.len() == 1 && is_publish(&before[0]))
            }
            (PubcompSent, before) => {
                before.is_empty() || (before.len() == 1 && is_pubrel(&before[0]))
            }
            (ConnectSent | ConnackRead | SubscribeSent | SubackRead, before) => before.is_empty(),
            _ => false,
        };
        assert!(
            ok,
            "{}: resumed with {before:?}, received was {:?}",
            self.options.client_id, self.message
        );
    }

    async fn answer(&mut self, packet: &Packet) {
        match packet {
            Packet::Pubrel(ack) => self.client.pubcomp(ack.packet_id.get()).await,
            Packet::Publish(publish) if publish.qos == Qos::AtLeastOnce => {
                self.client.puback(self.message_id()).await
            }
            _ => {
                let id = self.message_id();
                self.client.pubrec(id).await;
                self.client.expect_pubrel(id).await;
                self.client.pubcomp(id).await;
            }
        }
    }

    /// The topic that was unsubscribed stays silent.
    async fn miss_then_take_end(&mut self, source: &mut Client) {
        let topic = self.topic();
        let other = format!("{topic}/other");
        let before = self.client.subscribe(&other, Qos::AtLeastOnce).await;
        assert!(before.is_empty(), "{topic}: {before:?}");
        source.publish_qos1(1, &topic, "unwanted").await;
        source.publish_qos1(1, &other, "end").await;
        let end = self.client.take_message().await;
        assert_eq!(end.payload, "end", "{topic}");
    }
}

/// Subscribers to all that the actors publish: per version one persistent and one transient.
pub(crate) async fn witnesses(cluster: &Cluster, node: NodeId, round: usize) -> Vec<Receiver> {
    let mut witnesses = Vec::new();
    for version in VERSIONS {
        let client_id = format!("k{round}-witness-{}", tag(version));
        for options in [
            ConnectOptions::persistent(format!("{client_id}-persistent"), version),
            ConnectOptions::transient(format!("{client_id}-transient"), version),
        ] {
            let filters = [("k-out/#", Qos::ExactlyOnce)];
            let addresses = vec![cluster.mqtt(node)];
            witnesses.push(Receiver::start(options, addresses, &filters, cluster.history()).await);
        }
    }
    witnesses
}

/// What a witness saw of an actor: each message once; a re-sent one of QoS 1 at least once.
pub(crate) async fn check_witness(witness: &Receiver, actor: &Actor) {
    if actor.boundary.role() != Role::Publisher {
        return;
    }
    let client_id = &actor.options.client_id;
    witness.wait_for(&format!("{client_id}/1"), IN_TIME).await;
    let seen = witness.sequence(client_id);
    let verdict = match actor.boundary {
        PublishOneSent => oracle::at_least_once(&seen, &[0, 1]),
        _ => oracle::exactly_once(&seen, 2),
    };
    assert_eq!(verdict, Ok(()), "{} of {client_id}", witness.name());
}
