//! A subscriber to everything of the run, at QoS 2: notes each message that it hands on to its
//! application.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::Ordering;

use codec::{
    Ack, Packet, PacketId, Publish, Qos, Subscribe, Subscription, SubscriptionOptions, TopicFilter,
};

use super::link::{Link, Place};
use super::{Phase, Stage, World};
use crate::wait::let_pass_until;

#[derive(Debug)]
pub(super) struct Subscriber {
    world: World,
    index: usize,
    place: Place,
    /// QoS 2 messages handed on, whose PUBREL has not come.
    received: BTreeSet<PacketId>,
    /// Answers that are kept back, in order.
    held: Vec<Packet>,
    is_subscribed: bool,
}

impl Subscriber {
    pub(super) fn new(world: World, index: usize, place: Place) -> Self {
        Self {
            world,
            index,
            place,
            received: BTreeSet::new(),
            held: Vec::new(),
            is_subscribed: false,
        }
    }

    pub(super) async fn run(mut self) {
        while let Some(mut link) = self.place.connect(&self.world).await {
            if self.is_subscribed && !link.session_present {
                self.world
                    .ledger
                    .violation(format!("{}: its session was lost", self.place.name));
                self.received.clear();
                self.is_subscribed = false;
            }
            // However it ended, the next connection goes on from here.
            drop(self.serve(&mut link).await);
            self.release_held();
        }
        self.place.clear(&self.world).await;
    }

    fn release_held(&mut self) -> Vec<Packet> {
        let count = u32::try_from(self.held.len()).unwrap_or(u32::MAX);
        self.world.held[self.place.node].fetch_sub(count, Ordering::Relaxed);
        std::mem::take(&mut self.held)
    }

    async fn serve(&mut self, link: &mut Link) -> io::Result<()> {
        if !self.is_subscribed {
            link.send(&self.subscribe()).await?;
        }
        let mut control = self.world.control.clone();
        loop {
            let told = *control.borrow_and_update();
            if told.phase == Phase::Stop || self.place.is_called_home(&self.world) {
                return Ok(());
            }
            let hold = told.hold.filter(|(node, _)| *node == self.place.node);
            if hold.is_none() {
                for packet in self.release_held() {
                    link.send(&packet).await?;
                }
            }
            let pings_at = link.pings_at;
            tokio::select! {
                packet = link.recv() => self.on_packet(link, packet?, hold.map(|(_, stage)| stage)).await?,
                () = let_pass_until(pings_at) => link.ping().await?,
                changed = control.changed() => if changed.is_err() { return Ok(()) },
            }
        }
    }

    fn subscribe(&self) -> Packet {
        let filter = format!("{}/#", self.world.topics);
        let filter = TopicFilter::try_from(filter.as_str()).expect("a legal filter");
        Packet::Subscribe(Subscribe {
            packet_id: PacketId::new(1).expect("it is not 0"),
            subscription_identifier: None,
            user_properties: Vec::new(),
            subscriptions: vec![Subscription {
                filter,
                options: SubscriptionOptions::new(Qos::ExactlyOnce),
            }],
        })
    }

    async fn on_packet(
        &mut self,
        link: &mut Link,
        packet: Packet,
        hold: Option<Stage>,
    ) -> io::Result<()> {
        match packet {
            Packet::Suback(suback) => {
                if suback.reason_codes.iter().any(|code| code.is_error()) {
                    self.world
                        .ledger
                        .violation(format!("{}: may not subscribe", self.place.name));
                }
                self.is_subscribed = true;
                self.world.ledger.subscribed(self.index);
                Ok(())
            }
            Packet::Publish(publish) => {
                let Some(answer) = self.on_publish(&publish) else {
                    return Ok(());
                };
                self.answer(link, answer, hold == Some(Stage::Early)).await
            }
            Packet::Pubrel(ack) => {
                self.received.remove(&ack.packet_id);
                let pubcomp = Packet::Pubcomp(Ack::success(ack.packet_id));
                self.answer(link, pubcomp, hold == Some(Stage::Late)).await
            }
            Packet::Disconnect(_) => Err(io::ErrorKind::ConnectionAborted.into()),
            other => {
                self.world.ledger.violation(format!(
                    "{}: {}",
                    self.place.name,
                    crate::summary::summary(&other)
                ));
                Ok(())
            }
        }
    }

    /// Hands the message on, unless it was; what it is answered with.
    fn on_publish(&mut self, publish: &Publish) -> Option<Packet> {
        let is_new = match (publish.qos, publish.packet_id) {
            (Qos::ExactlyOnce, Some(id)) => self.received.insert(id),
            (_, _) => true,
        };
        if is_new {
            self.world
                .ledger
                .received(self.index, &publish.payload, publish.dup);
        }
        let ack = Ack::success(publish.packet_id?);
        Some(match publish.qos {
            Qos::ExactlyOnce => Packet::Pubrec(ack),
            Qos::AtLeastOnce | Qos::AtMostOnce => Packet::Puback(ack),
        })
    }

    async fn answer(&mut self, link: &mut Link, answer: Packet, holds: bool) -> io::Result<()> {
        // Acknowledgements leave in the order of what they answer [MQTT-4.6.0-2]: behind one that is
        // kept, all are.
        if holds || !self.held.is_empty() {
            self.held.push(answer);
            self.world.held[self.place.node].fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        link.send(&answer).await
    }
}
