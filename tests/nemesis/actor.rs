//! A client that does everything a client may do, at random, and what the standard asks of it, always.

use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use codec::{
    Connack, Connect, Disconnect, Message, MessageProperties, Packet, PayloadFormat,
    ProtocolVersion, Publish, Qos, ReasonCode, RetainHandling, Subscribe, Subscription,
    SubscriptionIdentifier, SubscriptionOptions, TopicFilter, TopicName, Unsubscribe, Utf8, Will,
};
use testkit::recording::{End, Recording};
use testkit::{Random, let_pass, let_pass_until};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::features::Features;
use crate::half::Half;
use crate::profile::{Keep, Profile, Publishes, Topics};
use crate::wire::{Address, Name, Wire};

/// Session expiry of a persistent 5.0 client: longer than any test.
const PERSISTENT_S: u32 = 100_000;
const CONNACK_WITHIN: Duration = Duration::from_secs(4);
/// Between two attempts to connect.
const RETRY_AFTER: Duration = Duration::from_millis(200);
const PING_EVERY: Duration = Duration::from_secs(2);
/// Messages under way to the broker at most.
const IN_FLIGHT_MAX: usize = 12;
/// Of payloads, in bytes.
const FILLER_MAX: u64 = 300;

/// What a run is about at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Everything at random.
    Run,
    /// Connect, stay, publish nothing, finish every handshake.
    Drain,
    /// Go without a word.
    Stop,
}

/// What all clients of a run share.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) nodes: Vec<Address>,
    pub(crate) recording: Recording,
    pub(crate) topics: Arc<Topics>,
    pub(crate) features: Features,
    pub(crate) phase: watch::Receiver<Phase>,
}

/// A client.
pub(crate) struct Actor {
    world: World,
    profile: Profile,
    client: Arc<str>,
    random: Random,
    half: Half,
    connections: u32,
    messages: u64,
    /// Clean Start was sent and not answered: it is sent until it is.
    starting_clean: bool,
    /// This connection is only to clear the session.
    only_clears: bool,
    /// When it was last connected.
    connected_at: Instant,
    idle: Arc<AtomicBool>,
}

/// Why a client leaves a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leave {
    /// It ended without us.
    Ended(End),
    /// Without DISCONNECT.
    Drop,
    Disconnect,
    /// For a connection to another node, this one left open.
    Takeover,
    Stop,
}

/// What is decided anew for each connection.
struct Habits {
    /// Acknowledgements are held back for so long at most.
    holds_ms: u64,
    /// How long PINGRESP may take.
    patience: Duration,
    leaves_at: Instant,
}

impl Actor {
    /// `idle` says whether it is connected and has nothing under way.
    pub(crate) fn new(world: World, profile: Profile, seed: u64, idle: Arc<AtomicBool>) -> Self {
        let mut random = Random::new(seed);
        // Some wrap around soon.
        let last_id = *random.choose(&[0, 0, 59_900]);
        Self {
            client: Arc::from(profile.name.as_str()),
            world,
            profile,
            random,
            half: Half::new(last_id),
            connections: 0,
            messages: 0,
            starting_clean: false,
            only_clears: false,
            connected_at: Instant::now(),
            idle,
        }
    }

    /// Lives until the phase is [`Phase::Stop`].
    pub(crate) async fn run(mut self) {
        let mut node = self.any_node();
        loop {
            self.idle.store(false, Ordering::Relaxed);
            if self.phase() == Phase::Stop {
                return;
            }
            let Some((wire, connack)) = self.connect(node).await else {
                let_pass(RETRY_AFTER).await;
                node = self.any_node();
                continue;
            };
            let from = node;
            node = self.any_node();
            match self.live(wire, &connack).await {
                Leave::Stop => return,
                Leave::Takeover => {
                    while node == from {
                        node = self.any_node();
                    }
                }
                Leave::Ended(_) => {}
                Leave::Drop | Leave::Disconnect => self.stay_away().await,
            }
        }
    }

    fn phase(&self) -> Phase {
        *self.world.phase.borrow()
    }

    fn any_node(&mut self) -> usize {
        let nodes = u64::try_from(self.world.nodes.len()).expect("a few");
        usize::try_from(self.random.below(nodes)).expect("a few")
    }

    fn percent(&mut self, percent: u64) -> bool {
        self.random.below(100) < percent
    }

    /// A random time with this mean.
    fn around(&mut self, mean: Duration) -> Duration {
        let twice = u64::try_from(mean.as_millis()).expect("short") * 2;
        Duration::from_millis(self.random.below(twice.max(1)))
    }

    async fn stay_away(&mut self) {
        let away = self.around(self.profile.away / 2);
        let mut phase = self.world.phase.clone();
        tokio::select! {
            () =  let_pass(away) => {}
            // Fails when the run is over.
            _ = phase.wait_for(|phase| *phase != Phase::Run) => {}
        }
    }

    /// One attempt.
    async fn connect(&mut self, node: usize) -> Option<(Wire, Connack)> {
        let name = Name {
            client: Arc::clone(&self.client),
            connection: self.connections + 1,
            version: self.profile.version,
        };
        let address = self.world.nodes[node];
        let mut wire = Wire::open(address, name, &self.world.recording).await?;
        self.connections += 1;
        let may_start_clean = self.profile.starts_clean && self.phase() == Phase::Run;
        if self.profile.keep == Keep::Transient || (may_start_clean && self.percent(15)) {
            self.starting_clean = true;
        }
        if self.starting_clean {
            self.half.forget();
        }
        let connect = self.connect_packet();
        wire.send(Packet::Connect(Box::new(connect))).await;
        let end = match timeout(CONNACK_WITHIN, wire.recv()).await {
            Ok(Ok(packet)) => match &*packet {
                Packet::Connack(connack) if connack.reason_code == ReasonCode::Success => {
                    self.only_clears = self.starting_clean && self.is_transient_for_once();
                    self.starting_clean = false;
                    return Some((wire, (**connack).clone()));
                }
                Packet::Connack(_) => End::Closed,
                _ => End::Malformed,
            },
            Ok(Err(end)) => end,
            Err(_) => End::Unanswered,
        };
        wire.end(end);
        // A session that it finds next time might be one that this CONNECT began.
        self.starting_clean |= self.may_have_expired();
        None
    }

    /// Before 5.0 a session that starts clean ends with its connection.
    fn is_transient_for_once(&self) -> bool {
        self.profile.version != ProtocolVersion::V5
            && self.profile.keep == Keep::Persistent
            && !self.world.features.changes_kind
    }

    fn may_have_expired(&self) -> bool {
        match self.profile.keep {
            // With room for a broker that noticed the end of the connection earlier.
            Keep::Seconds(seconds) => {
                self.connected_at.elapsed() * 3 > Duration::from_secs(seconds.into())
            }
            Keep::Transient | Keep::Persistent => false,
        }
    }

    fn connect_packet(&mut self) -> Connect {
        let version = self.profile.version;
        let is_v5 = version == ProtocolVersion::V5;
        let client_id = Utf8::try_from(self.profile.name.as_str()).expect("a legal client id");
        let expiry_s = match self.profile.keep {
            Keep::Transient => 0,
            Keep::Persistent => PERSISTENT_S,
            Keep::Seconds(seconds) => seconds,
        };
        let receive_maximum = *self.random.choose(&[0, 0, 1, 4, 20]);
        let will = self.profile.has_will.then(|| Will {
            message: Message {
                topic: topic(&self.world.topics.will(&self.profile.name)),
                payload: format!("{}:will{}", self.client, self.connections).into(),
                qos: *self.random.choose(&[Qos::AtLeastOnce, Qos::ExactlyOnce]),
                retain: false,
                properties: MessageProperties::default(),
            },
            delay_interval_s: if is_v5 {
                *self.random.choose(&[0, 3, 30])
            } else {
                0
            },
        });
        Connect {
            clean_start: self.starting_clean,
            keep_alive_s: 30,
            session_expiry_interval: is_v5.then_some(expiry_s),
            receive_maximum: NonZeroU16::new(receive_maximum).filter(|_| is_v5),
            will,
            ..Connect::new(version, client_id)
        }
    }

    /// From CONNACK to the end of the connection.
    async fn live(&mut self, mut wire: Wire, connack: &Connack) -> Leave {
        if !connack.session_present {
            self.half.forget();
        }
        for packet in self.half.resend() {
            wire.send(packet).await;
        }
        let habits = self.habits();
        let leave = self.serve(&mut wire, &habits).await;
        self.connected_at = Instant::now();
        self.half.disconnected();
        match leave {
            Leave::Ended(end) => wire.end(end),
            Leave::Drop => wire.end(End::Dropped),
            Leave::Takeover => wire.supersede(),
            Leave::Disconnect => {
                let normal = Disconnect::new(ReasonCode::Success);
                wire.send(Packet::Disconnect(normal)).await;
                wire.disconnected().await;
            }
            Leave::Stop => {}
        }
        leave
    }

    fn habits(&mut self) -> Habits {
        let stays = self.around(self.profile.stays);
        Habits {
            holds_ms: *self.random.choose(&[0, 0, 0, 50, 50, 400, 4_000]),
            patience: Duration::from_millis(1_000 + self.random.below(6_000)),
            leaves_at: Instant::now() + stays,
        }
    }

    async fn serve(&mut self, wire: &mut Wire, habits: &Habits) -> Leave {
        let mut phase = self.world.phase.clone();
        let mut acts_at = Instant::now();
        let mut pings_at = Instant::now() + PING_EVERY;
        let mut pinged_at: Option<Instant> = None;
        let mut acknowledges_at = Instant::now();
        if self.only_clears {
            return Leave::Disconnect;
        }
        loop {
            let is_idle = self.half.is_idle() && self.fixed_missing().is_none();
            self.idle.store(is_idle, Ordering::Relaxed);
            let now = *phase.borrow_and_update();
            let runs = now == Phase::Run;
            match now {
                Phase::Stop => return Leave::Stop,
                Phase::Drain => acknowledges_at = acknowledges_at.min(Instant::now()),
                Phase::Run if Instant::now() >= habits.leaves_at => return self.leave(),
                Phase::Run => {}
            }
            if pinged_at.is_some_and(|at| at.elapsed() > habits.patience) {
                return Leave::Ended(End::Unanswered);
            }
            if self.half.asked.is_none()
                && let Some((filter, qos)) = self.fixed_missing()
            {
                self.subscribe(wire, &filter, SubscriptionOptions::new(qos), None)
                    .await;
            }
            tokio::select! {
                packet = wire.recv() => match packet {
                    Ok(packet) => {
                        if matches!(*packet, Packet::Pingresp) {
                            pinged_at = None;
                        }
                        let held_before = self.half.holds();
                        self.on_packet(wire, &packet).await;
                        if self.half.holds() && !held_before {
                            let hold = self.random.below(habits.holds_ms + 1);
                            acknowledges_at = Instant::now() + Duration::from_millis(hold);
                        }
                    }
                    Err(end) => return Leave::Ended(end),
                },
                () = let_pass_until(acknowledges_at), if self.half.holds() => {
                    while let Some(packet) = self.half.next_held() {
                        wire.send(packet).await;
                    }
                }
                () = let_pass_until(acts_at), if runs => {
                    self.act(wire).await;
                    acts_at = Instant::now() + self.around(self.profile.pace);
                }
                () = let_pass_until(pings_at) => {
                    pings_at = Instant::now() + PING_EVERY;
                    if pinged_at.is_none() {
                        pinged_at = Some(Instant::now());
                        wire.send(Packet::Pingreq).await;
                    }
                }
                () = let_pass_until(habits.leaves_at), if runs => {}
                // Fails when the run is over.
                changed = phase.changed() => if changed.is_err() {
                    return Leave::Stop;
                },
            }
        }
    }

    fn leave(&mut self) -> Leave {
        *self
            .random
            .choose(&[Leave::Drop, Leave::Drop, Leave::Disconnect, Leave::Takeover])
    }

    async fn on_packet(&mut self, wire: &mut Wire, packet: &Packet) {
        self.half.on_incoming(packet);
        if let Some(answer) = self.half.on_ack(packet) {
            wire.send(answer).await;
        }
        let answered = match packet {
            Packet::Suback(suback) => Some((suback.packet_id, !suback.reason_codes[0].is_error())),
            Packet::Unsuback(unsuback) => Some((unsuback.packet_id, false)),
            _ => None,
        };
        if let (Some((id, subscribed)), Some((asked, filter))) = (answered, &self.half.asked)
            && id == *asked
        {
            if subscribed {
                self.half.filters.insert(filter.clone());
            } else {
                self.half.filters.remove(filter);
            }
            self.half.asked = None;
        }
    }

    /// A fixed subscription that the session lacks.
    fn fixed_missing(&self) -> Option<(String, Qos)> {
        let mut fixed = self.profile.fixed.iter();
        fixed
            .find(|(filter, _)| !self.half.filters.contains(filter))
            .cloned()
    }

    /// Something at random.
    async fn act(&mut self, wire: &mut Wire) {
        if self.profile.browses && self.percent(20) && self.half.asked.is_none() {
            return self.browse(wire).await;
        }
        if self.profile.publishes != Publishes::Nothing && self.half.in_flight() < IN_FLIGHT_MAX {
            let publish = self.message();
            let packet = self.half.publish(publish);
            wire.send(packet).await;
        }
    }

    async fn browse(&mut self, wire: &mut Wire) {
        let filters = self.world.topics.filters();
        let filter = self.random.choose(&filters).clone();
        if self.half.filters.contains(&filter) && self.percent(50) {
            return self.unsubscribe(wire, &filter).await;
        }
        let is_v5 = self.profile.version == ProtocolVersion::V5;
        let qos = *self
            .random
            .choose(&[Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce]);
        let options = SubscriptionOptions {
            qos,
            no_local: is_v5 && self.percent(30),
            retain_as_published: is_v5 && self.percent(30),
            retain_handling: RetainHandling::Send,
        };
        let number = u32::try_from(self.random.below(1_000)).expect("small");
        let identifier = SubscriptionIdentifier::new(number).filter(|_| is_v5);
        self.subscribe(wire, &filter, options, identifier).await;
    }

    async fn subscribe(
        &mut self,
        wire: &mut Wire,
        filter: &str,
        options: SubscriptionOptions,
        subscription_identifier: Option<SubscriptionIdentifier>,
    ) {
        let packet_id = self.half.control_id();
        self.half.asked = Some((packet_id, filter.to_owned()));
        let packet = Packet::Subscribe(Subscribe {
            packet_id,
            subscription_identifier,
            user_properties: Vec::new(),
            subscriptions: vec![Subscription {
                filter: TopicFilter::try_from(filter).expect("a legal filter"),
                options,
            }],
        });
        wire.send(packet).await;
    }

    async fn unsubscribe(&mut self, wire: &mut Wire, filter: &str) {
        let packet_id = self.half.control_id();
        self.half.asked = Some((packet_id, filter.to_owned()));
        let packet = Packet::Unsubscribe(Unsubscribe {
            packet_id,
            user_properties: Vec::new(),
            filters: vec![TopicFilter::try_from(filter).expect("a legal filter")],
        });
        wire.send(packet).await;
    }

    fn message(&mut self) -> Publish {
        let retain = self.profile.publishes == Publishes::Values;
        let topics = match self.profile.publishes {
            Publishes::Values => self.world.topics.values(&self.profile.name),
            Publishes::Shared => self.world.topics.shared(),
            Publishes::News | Publishes::Nothing => self.world.topics.news(),
        };
        let topic = topic(self.random.choose(&topics).as_str());
        let least = u64::from(self.profile.publishes != Publishes::News) * 10;
        let qos = match least + self.random.below(100 - least) {
            0..10 => Qos::AtMostOnce,
            10..55 => Qos::AtLeastOnce,
            _ => Qos::ExactlyOnce,
        };
        self.messages += 1;
        let filler = usize::try_from(self.random.below(FILLER_MAX)).expect("small");
        let clears = retain && self.percent(15);
        let payload = if clears {
            String::new()
        } else {
            format!("{}:{} {}", self.client, self.messages, "x".repeat(filler))
        };
        Publish {
            dup: false,
            qos,
            retain,
            packet_id: None,
            topic: Some(topic),
            topic_alias: None,
            payload: payload.into(),
            properties: self.properties(retain),
            subscription_identifiers: Vec::new(),
        }
    }

    fn properties(&mut self, retain: bool) -> MessageProperties {
        if self.profile.version != ProtocolVersion::V5 || self.percent(50) {
            return MessageProperties::default();
        }
        let text = |text: &str| Utf8::try_from(text).expect("legal");
        let may_expire = self.world.features.expiry && !retain;
        let expiry_s = match (may_expire, retain) {
            (_, true) => None,
            (true, false) => *self.random.choose(&[None, Some(3), Some(3_600)]),
            (false, false) => None,
        };
        MessageProperties {
            payload_format_indicator: Some(PayloadFormat::Utf8),
            message_expiry_interval: expiry_s,
            content_type: Some(text("text/plain")),
            response_topic: TopicName::try_from("answers/here").ok(),
            correlation_data: Some(self.messages.to_be_bytes().to_vec().into()),
            user_properties: vec![(text("a"), text("1")), (text("a"), text("2"))],
        }
    }
}

fn topic(name: &str) -> TopicName {
    TopicName::try_from(name).expect("a legal topic")
}
