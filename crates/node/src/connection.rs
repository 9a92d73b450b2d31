//! One connection: one task, one select loop over socket, mailbox, lease and keep alive.
//!
//! Invariants:
//! - Nothing is read while the client does not read what it is sent, or while what it sent before
//!   waits for a slow shard or peer: TCP pushes back (G9).
//! - Without its node's lease a connection processes nothing but PINGREQ and DISCONNECT, and sends
//!   no acknowledgement and no QoS 1 or 2 message (G8).
//! - A connection is recorded closed only when everything that it sent has been answered.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use codec::{Disconnect, Packet, ProtocolVersion, ReasonCode, Timestamp};
use raft_store::{Acknowledgement, Command, ShardId};
use session::Output;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::auth::{AccessPolicy, Reauthentication};
use crate::broker::Broker;
use crate::client::Client;
use crate::clock;
use crate::count::{self, Tally};
use crate::deadline::wait_until;
use crate::end::End;
use crate::inbox::Unsent;
use crate::lease::LeaseState;
use crate::leaving::Leaving;
use crate::life::{Destination, Life};
use crate::mailbox::{Mail, Mailbox, drain, waking_at_the_end};
use crate::member::Handed;
use crate::pending::{ParkedPublish, PendingPublishes};
use crate::rate::ClientRates;
use crate::retained::RetainedReads;
use crate::session_place::SessionPlace;
use crate::subscribe::PendingSubscriptions;
use crate::topic_aliases::{InboundAliases, OutboundAliases};
use crate::waiter::CommandWaiter;
use crate::wire::{self, Wire};

/// Bytes waiting for the socket beyond which the connection takes neither mail nor packets.
const OUT_BYTES_HIGH: usize = 256 * 1024;
/// The same while the node's memory for such buffers is short.
const OUT_BYTES_HIGH_TIGHT: usize = 16 * 1024;
/// Bytes of a packet that a connection reads although that memory is used up.
const INPUT_BYTES_FULL_MAX: usize = 16 * 1024;
/// Bytes read ahead while the node has no lease.
const INPUT_BYTES_UNPROCESSED_MAX: usize = 64 * 1024;
/// How often a connection looks at memory that is used up.
const MEMORY_LOOK: Duration = Duration::from_millis(50);
/// How often a connection looks at a lost lease.
const LEASE_LOOK: Duration = Duration::from_millis(50);
/// One client's open connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) broker: Arc<Broker>,
    pub(crate) life: Arc<Life>,
    pub(crate) wire: Wire,
    /// Who it is, and what it asked for.
    pub(crate) client: Client,
    /// What others hand to it.
    pub(crate) mailbox: Arc<Mailbox>,
    /// Where its session lives.
    pub(crate) place: SessionPlace,
    /// Its PUBLISHes that are not acknowledged yet.
    pub(crate) publishes: PendingPublishes,
    /// Its SUBSCRIBEs and UNSUBSCRIBEs that are not acknowledged yet.
    pub(crate) subscriptions: PendingSubscriptions,
    /// A retained PUBLISH that is being stored; nothing more is taken from the client meanwhile.
    pub(crate) parked: Option<Box<ParkedPublish>>,
    /// Retained messages that it reads for new subscriptions.
    pub(crate) retained: RetainedReads,
    /// Messages for shared subscriptions that its session has not settled.
    pub(crate) handed: Handed,
    /// Its own name for the next thing that it waits for.
    next_tag: u64,
    /// Answers and receipts that are still to come.
    pub(crate) outstanding: u64,
    /// Topic Aliases that the client has defined; at most our Topic Alias Maximum.
    pub(crate) inbound_aliases: InboundAliases,
    /// Those that we have defined; at most the client's Topic Alias Maximum, and ours.
    pub(crate) outbound_aliases: OutboundAliases,
    /// The shard or peer whose queue was full when this connection last added to it.
    pub(crate) waits_for: Option<Destination>,
    /// Deliveries too large for the client, to be completed as if acknowledged.
    pub(crate) discarded: VecDeque<Acknowledgement>,
    /// Of what it subscribed to, something may not be delivered to it.
    pub(crate) holds_back: bool,
    /// An authentication that the client has begun again.
    pub(crate) reauthentication: Option<Box<Reauthentication>>,
    had_capacity: bool,
    /// How far it is on its way to another node.
    pub(crate) leaving: Leaving,
    /// What the client may send in a second; `None`: as much as it likes.
    pub(crate) rates: Option<Box<ClientRates>>,
    pub(crate) last_packet: Instant,
    /// Taken from the mailbox while there was no room for what follows from it.
    pub(crate) mail: VecDeque<Mail>,
    /// Live messages among that, and in the session's queue.
    pub(crate) unsent: Unsent,
    /// What its session says is to be done; empty between two inputs.
    pub(crate) outputs: Vec<Output>,
    /// PUBLISHes that the metrics do not know of.
    pub(crate) tally: Tally,
    /// Time of the pass under way, by this node's clock.
    pub(crate) now: Timestamp,
    /// When the PUBLISH that is handed on came.
    pub(crate) arrived: Instant,
    /// When the message came that is being sent, if it came to this node and did not wait for the
    /// client's window.
    pub(crate) sends_since: Option<Instant>,
}

impl Connection {
    /// A connection whose session is open.
    pub(crate) fn new(
        (broker, life): (Arc<Broker>, Arc<Life>),
        wire: Wire,
        client: Client,
        mailbox: Arc<Mailbox>,
        place: SessionPlace,
    ) -> Self {
        let topic_alias_max = broker.config.mqtt.topic_alias_maximum;
        let topic_alias_max = client.topic_alias_maximum.min(topic_alias_max);
        let rates = ClientRates::new(&broker.limits(), Instant::now());
        Self {
            broker,
            life,
            wire,
            client,
            mailbox,
            place,
            publishes: PendingPublishes::default(),
            subscriptions: PendingSubscriptions::default(),
            parked: None,
            retained: RetainedReads::default(),
            handed: Handed::new(),
            next_tag: 1,
            outstanding: 0,
            inbound_aliases: InboundAliases::default(),
            outbound_aliases: OutboundAliases::new(topic_alias_max),
            waits_for: None,
            discarded: VecDeque::new(),
            holds_back: false,
            reauthentication: None,
            had_capacity: true,
            leaving: Leaving::No,
            rates,
            last_packet: Instant::now(),
            mail: VecDeque::new(),
            unsent: Unsent::default(),
            outputs: Vec::new(),
            tally: Tally::default(),
            now: clock::timestamp(),
            arrived: Instant::now(),
            sends_since: None,
        }
    }

    /// A name for the next thing that this connection waits for.
    pub(crate) fn tag(&mut self) -> u64 {
        let tag = self.next_tag;
        self.next_tag = tag.wrapping_add(1);
        tag
    }

    /// Proposes a command under a name of this connection; the answer comes by mail.
    pub(crate) fn command(&mut self, shard: ShardId, tag: u64, command: &Command) {
        let hands_on = matches!(
            command,
            Command::Publish { .. } | Command::ReceiveExactlyOnce { .. }
        );
        let waiter = CommandWaiter::Connection {
            mailbox: Arc::clone(&self.mailbox),
            tag,
            since: hands_on.then_some(self.arrived),
        };
        self.outstanding = self.outstanding.saturating_add(1);
        self.life.propose(shard, command, waiter);
        self.wait_if_full(Destination::Shard(shard));
    }

    /// Stops reading while the queue to a shard or peer is full: TCP pushes back (G9). Connections
    /// that send elsewhere go on.
    pub(crate) fn wait_if_full(&mut self, destination: Destination) {
        if self.life.is_full(destination) {
            self.waits_for = Some(destination);
        }
    }

    /// Serves the client until the connection ends, then records its end.
    pub(crate) async fn serve(mut self) {
        let end = self.run().await;
        if end != End::LifeOver {
            // What came together with the end counts; the epoch guards it.
            self.propose_acknowledgements();
        }
        let reason = end.log(&self.client);
        count::connection_closed(&self.client.origin.listener, reason);
        // From here on nobody hands it anything.
        self.life.registry.close(self.client.holder.connection);
        self.return_shared();
        self.mailbox.abandon();
        let Self {
            broker,
            life,
            mut wire,
            client,
            mailbox,
            place,
            outstanding,
            ..
        } = self;
        if let Some(reason_code) = end.reason_code()
            && client.version == ProtocolVersion::V5
        {
            let disconnect = Packet::Disconnect(Disconnect::new(reason_code));
            client
                .audience()
                .tell(&mut wire, disconnect, end.explanation());
        }
        place.leave(&life);
        wire.farewell().await;
        if end == End::LifeOver || life.ended.is_cancelled() {
            return;
        }
        let drained = drain(&mailbox, outstanding);
        life.ended.run_until_cancelled(drained).await;
        client.record_closed(&broker, &life, &end);
    }

    async fn run(&mut self) -> End {
        let mut lease = self.broker.lease.watch();
        let mut stage = self.broker.drain.watch();
        // It may have begun before this connection did.
        stage.mark_changed();
        let mut access = self.broker.access.subscribe();
        self.see_access(&mut access);
        let deadline = sleep_until(self.deadline());
        tokio::pin!(deadline);
        loop {
            let worked = waking_at_the_end(|| self.work(&mut lease, &mut access));
            self.tally.tell(&mut self.wire.packets_sent);
            if let Some(end) = worked.err().or_else(|| self.end_of_leave()) {
                return end;
            }
            if self.wire.input.is_empty() {
                // What it borrows from may be large, and the client may be silent from now on.
                self.wire.input = BytesMut::new();
            }
            let held = self.broker.lease.is_held();
            let wants_mail = self.wants_mail(held);
            let wants_packets = self.wants_packets();
            let has_capacity = self.had_capacity;
            let is_input_affordable = self.is_input_affordable();
            let paused_until = self.paused_until();
            let reads = wants_packets
                && has_capacity
                && is_input_affordable
                && paused_until.is_none()
                && self.has_room_for_input();
            let read_bytes_max = self.read_bytes_max();
            tokio::select! {
                () = self.life.ended.cancelled() => return End::LifeOver,
                written = wire::write(&mut self.wire.writer, &mut self.wire.output),
                    if self.wire.has_output() =>
                {
                    if !self.has_written(written, reads) {
                        return End::ClientGone;
                    }
                }
                read = wire::read(&mut self.wire.reader, &mut self.wire.input, read_bytes_max),
                    if reads =>
                {
                    if !self.has_read(read) {
                        return End::ClientGone;
                    }
                }
                // Until now it was this node that did not read.
                () = wait_until(paused_until), if paused_until.is_some() => self.last_packet = Instant::now(),
                () = self.mailbox.arrived(), if wants_mail => {}
                () = self.mailbox.closing(), if !wants_mail => {}
                () = tokio::task::yield_now(), if self.retained.is_paused() => {}
                () = self.broker.capacity(&self.life, self.waits_for),
                    if wants_packets && !has_capacity => {}
                () = async { sleep(MEMORY_LOOK).await }, if !is_input_affordable => {}
                // A lease that ran out and was renewed at once shows no change.
                () = async { sleep(LEASE_LOOK).await }, if !held => {}
                // The senders live as long as the broker.
                _ = lease.changed() => {}
                leaving = self.leaving.next(&self.broker.drain, &mut stage) => self.leaving = leaving,
                _ = access.changed() => access.mark_changed(),
                () = &mut deadline => {
                    if !reads && self.has_room_for_output() {
                        // The client may have sent: it is this node that does not read.
                        self.last_packet = Instant::now();
                    }
                    if let Err(end) = self.check_deadlines() {
                        return end;
                    }
                    deadline.as_mut().reset(self.deadline());
                }
            }
        }
    }

    /// A connection may have been admitted by a policy that is not in force any more.
    fn see_access(&self, access: &mut watch::Receiver<Arc<AccessPolicy>>) {
        let is_stale = !Arc::ptr_eq(&access.borrow_and_update(), &self.client.policy);
        if is_stale {
            access.mark_changed();
        }
    }

    /// Something went out, or what was written before was flushed; false: the connection is closed.
    fn has_written(&mut self, written: io::Result<usize>, reads: bool) -> bool {
        let Ok(bytes) = written else { return false };
        self.tally.bytes_sent(bytes);
        self.mailbox.traffic.sent(bytes);
        // A client that reads slowly is alive, although nothing is read from it.
        if !reads && bytes > 0 {
            self.last_packet = Instant::now();
        }
        true
    }

    /// Something came; false: the connection is closed.
    fn has_read(&mut self, read: io::Result<usize>) -> bool {
        let bytes = read.unwrap_or(0);
        self.spend_bytes(bytes);
        self.tally.bytes_received(bytes);
        self.mailbox.traffic.received(bytes);
        bytes > 0
    }

    /// Everything that can be done without waiting.
    fn work(
        &mut self,
        lease: &mut watch::Receiver<LeaseState>,
        access: &mut watch::Receiver<Arc<AccessPolicy>>,
    ) -> Result<(), End> {
        match *lease.borrow_and_update() {
            LeaseState::Held | LeaseState::Lost => {}
            LeaseState::Closing => {
                return Err(End::closed(ReasonCode::UseAnotherServer, "no_quorum"));
            }
        }
        self.now = clock::timestamp();
        self.arrived = Instant::now();
        // Whatever comes after a reload is judged by it.
        if access.has_changed().unwrap_or(false) {
            let policy = Arc::clone(&access.borrow_and_update());
            self.take_access(policy)?;
        }
        if self.wants_mail(self.broker.lease.is_held()) {
            self.take_mail()?;
        }
        self.take_packets()?;
        self.read_retained()?;
        self.complete_discarded()?;
        self.propose_acknowledgements();
        if self.broker.lease.is_held() {
            self.acknowledge_publishes();
        }
        self.settle();
        Ok(())
    }

    /// Mail is taken while the client reads what it is sent and the node may send.
    fn wants_mail(&self, held: bool) -> bool {
        self.mailbox.is_closing() || (self.has_room_for_output() && held)
    }

    /// Packets are read while the client reads what it is sent and does not send too far ahead.
    fn wants_packets(&self) -> bool {
        self.has_room_for_output()
            && self.parked.is_none()
            && self.place.is_resumed()
            && !self.has_many_subscribes()
            && !(self.publishes.is_full(&self.broker.config) && self.next_must_wait())
    }

    /// The next packet waits for others, as far as that is known: a PUBLISH at QoS 1 or 2, or a
    /// PUBREL. Acknowledgements never do: what this client has published may wait for them.
    fn next_must_wait(&self) -> bool {
        self.wire
            .input
            .first()
            .is_some_and(|byte| matches!((byte >> 4, byte & 0b110), (3, 0b010..) | (6, _)))
    }

    /// The client reads what it is sent.
    pub(crate) fn has_room_for_output(&self) -> bool {
        let waits = self.wire.output.len();
        waits < OUT_BYTES_HIGH_TIGHT
            || (waits < OUT_BYTES_HIGH && !self.broker.pressure.budget.is_tight())
    }

    /// The node has memory for more of a packet, or there is little of it yet.
    fn is_input_affordable(&self) -> bool {
        self.wire.input.len() < INPUT_BYTES_FULL_MAX || !self.broker.pressure.budget.is_full()
    }

    /// Without its lease the node does not process what it reads.
    fn has_room_for_input(&self) -> bool {
        self.wire.input.len() < INPUT_BYTES_UNPROCESSED_MAX || self.broker.lease.is_held()
    }

    /// What the client sends next can be taken without growing a queue beyond its bound.
    fn has_capacity(&mut self) -> bool {
        self.waits_for = self
            .waits_for
            .filter(|destination| self.life.is_full(*destination))
            .or_else(|| self.life.overfull_peer().map(Destination::Peer));
        self.waits_for.is_none() && !self.broker.is_outbox_full()
    }

    fn take_packets(&mut self) -> Result<(), End> {
        while self.wants_packets() {
            // Remembered: the loop waits for exactly what stopped it here.
            self.had_capacity = self.has_capacity();
            if !self.had_capacity {
                return Ok(());
            }
            if self.mailbox.is_closing() || self.is_publish_early() {
                return Ok(());
            }
            if !self.broker.lease.is_held() && !self.next_needs_no_lease() {
                return Ok(());
            }
            let version = self.client.version;
            let packet = self
                .wire
                .decoder
                .decode(&mut self.wire.input)
                .map_err(|error| {
                    End::violation(
                        error.reason_code(),
                        format!("{error} [{}]", error.rule(version)),
                    )
                })?;
            let Some(packet) = packet else { return Ok(()) };
            self.on_packet(packet)?;
        }
        Ok(())
    }

    /// PINGREQ and DISCONNECT are answered at once, whatever the cluster does [MQTT-3.12.4-1].
    fn next_needs_no_lease(&self) -> bool {
        self.wire
            .input
            .first()
            .is_some_and(|byte| matches!(byte >> 4, 12 | 14))
    }

    fn on_packet(&mut self, packet: Packet) -> Result<(), End> {
        self.tally.packet_received(packet.packet_type());
        // Not when some of its bytes came: who never completes one is not alive [MQTT-3.1.2-22].
        self.last_packet = Instant::now();
        match packet {
            Packet::Publish(publish) => {
                self.spend_publish();
                self.on_publish(publish)
            }
            Packet::Puback(ack) => self.on_puback(&ack),
            Packet::Pubrec(ack) => self.on_pubrec(&ack),
            Packet::Pubrel(ack) => self.on_pubrel(&ack),
            Packet::Pubcomp(ack) => self.on_pubcomp(&ack),
            Packet::Subscribe(subscribe) => self.on_subscribe(subscribe),
            Packet::Unsubscribe(unsubscribe) => self.on_unsubscribe(unsubscribe),
            Packet::Pingreq => {
                self.wire.send(&Packet::Pingresp, self.client.version);
                Ok(())
            }
            Packet::Disconnect(disconnect) => Err(self.on_disconnect(&disconnect)),
            Packet::Auth(auth) => self.on_auth(auth),
            Packet::Connect(_)
            | Packet::Connack(_)
            | Packet::Suback(_)
            | Packet::Unsuback(_)
            | Packet::Pingresp => Err(End::violation(
                ReasonCode::ProtocolError,
                "a packet that a client must not send here [MQTT-3.1.0-2]",
            )),
        }
    }
}
