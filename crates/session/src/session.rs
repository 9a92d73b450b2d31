//! The session: the one place that matches on `Input`.

use codec::{PacketId, Timestamp, TopicFilter};

use crate::event::{Input, Output, Resend, Subscription};
use crate::expiry::ConnectionState;
use crate::inbound::Inbound;
use crate::limits::SessionLimits;
use crate::outbound::{Outbound, Terms};
use crate::parts::{self, DeliveryRecord, PartsError, SessionMeta, SessionParts};
use crate::subscriptions::Subscriptions;

/// The session state of one client (section 4.1). See the crate documentation for the contract.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    connection: ConnectionState,
    session_expiry_interval_s: u32,
    client_receive_maximum: u16,
    limits: SessionLimits,
    subscriptions: Subscriptions,
    inbound: Inbound,
    outbound: Outbound,
}

impl Session {
    /// A session with nothing in it, not connected, with default limits; `Input::Connect` begins it.
    #[must_use]
    pub fn new() -> Self {
        let limits = SessionLimits::default();
        Self {
            connection: ConnectionState::Disconnected { ends_at: None },
            session_expiry_interval_s: 0,
            client_receive_maximum: u16::MAX,
            limits,
            subscriptions: Subscriptions::default(),
            inbound: Inbound::new(&limits),
            outbound: Outbound::starting_at(1, 1, None),
        }
    }

    /// Advances the session by one input. Everything to be done as a result is appended to `out`, in
    /// order.
    ///
    /// Never fails and never panics. Deterministic: equal sessions, `now` and input give equal
    /// sessions and outputs. `now` is shard time and never goes back. After [`Output::Ended`] the
    /// session is as new.
    pub fn apply(&mut self, now: Timestamp, input: Input, out: &mut Vec<Output>) {
        let terms = self.terms(now);
        match input {
            Input::Connect {
                receive_maximum,
                session_expiry_interval_s,
                limits,
            } => {
                self.session_expiry_interval_s = session_expiry_interval_s;
                self.connect(now, receive_maximum, limits, out);
            }
            Input::Disconnect {
                session_expiry_interval_s,
            } => {
                self.disconnect(now, session_expiry_interval_s, out);
            }
            Input::End => self.end(out),
            Input::Subscribe {
                filter,
                subscription,
            } => {
                out.push(self.subscriptions.subscribe(&filter, subscription));
            }
            Input::Unsubscribe { filter } => out.push(self.subscriptions.unsubscribe(&filter)),
            Input::Deliver(delivery) => self.outbound.deliver(delivery, &terms, out),
            Input::Puback { packet_id } => self.outbound.on_puback(packet_id, &terms, out),
            Input::Pubrec {
                packet_id,
                reason_code,
            } => {
                self.outbound.on_pubrec(packet_id, reason_code, &terms, out);
            }
            Input::Pubcomp { packet_id } => self.outbound.on_pubcomp(packet_id, &terms, out),
            Input::ReceiveExactlyOnce { packet_id } => out.push(self.inbound.on_publish(packet_id)),
            Input::Pubrel { packet_id } => out.push(self.inbound.on_pubrel(packet_id)),
            Input::Deadline => {
                if self.next_deadline().is_some_and(|deadline| now >= deadline) {
                    self.end(out);
                }
            }
        }
    }

    /// What is in flight, for a new connection to re-send [MQTT-4.4.0-1]. Read it *before* applying
    /// `Input::Connect`, which may put more in flight.
    ///
    /// First the PUBRELs in the order of their PUBRECs [MQTT-4.6.0-4], then the PUBLISHes in the
    /// order they were first sent, QoS 1 and 2 together [MQTT-4.6.0-1]. The standard sets no order
    /// between the two; PUBRELs come first because only PUBLISHes may have to wait for a window that
    /// became smaller: the owner then sends as many PUBLISHes as the new window holds, in order, and
    /// one more with each that completes. O(in flight).
    #[must_use]
    pub fn resume(&self) -> Vec<Resend> {
        self.outbound.resume()
    }

    /// When `Input::Deadline` is due. `None`: nothing is pending.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.connection.deadline()
    }

    /// Whether a connection serves the session.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.connection.is_connected()
    }

    /// Seconds the session outlives its connection; `u32::MAX`: for ever. 0: a transient session.
    #[must_use]
    pub fn session_expiry_interval_s(&self) -> u32 {
        self.session_expiry_interval_s
    }

    /// All subscriptions, ordered by filter.
    pub fn subscriptions(&self) -> impl ExactSizeIterator<Item = (&TopicFilter, &Subscription)> {
        self.subscriptions.as_map().iter()
    }

    /// The subscription with the identical filter.
    #[must_use]
    pub fn subscription(&self, filter: &TopicFilter) -> Option<&Subscription> {
        self.subscriptions.as_map().get(filter)
    }

    /// Subscriptions.
    #[must_use]
    pub fn subscription_count(&self) -> usize {
        self.subscriptions.as_map().len()
    }

    /// The delivery at a position as it is to be stored; `None`: nothing is to be stored there (any
    /// more). O(log in flight).
    #[must_use]
    pub fn delivery_record(&self, position: u64) -> Option<DeliveryRecord> {
        self.outbound.record(position)
    }

    /// Positions, from one on, at which something is to be stored, ascending.
    pub fn delivery_positions_from(&self, from: u64) -> impl Iterator<Item = u64> {
        self.outbound.positions_from(from)
    }

    /// Ids of QoS 2 messages from the client that wait for PUBREL, ascending.
    pub fn awaiting_pubrel(&self) -> impl ExactSizeIterator<Item = PacketId> {
        self.inbound.ids().iter().copied()
    }

    /// Messages that wait behind the window.
    #[must_use]
    pub fn queue_len(&self) -> usize {
        self.outbound.queue().len()
    }

    /// Bytes (`Message::size`) that wait behind the window.
    #[must_use]
    pub fn queue_bytes(&self) -> u64 {
        self.outbound.queue().bytes()
    }

    /// Deliveries that have a packet id.
    #[must_use]
    pub fn inflight_len(&self) -> usize {
        self.outbound.in_flight_len()
    }

    /// Those of QoS 2 whose PUBREC has come. O(deliveries that have a packet id).
    #[must_use]
    pub fn awaiting_pubcomp_len(&self) -> usize {
        self.outbound.awaiting_pubcomp_len()
    }

    /// Position of the oldest of them.
    #[must_use]
    pub fn oldest_in_flight(&self) -> Option<u64> {
        self.outbound.oldest_in_flight()
    }

    /// The small part of fixed size alone. O(1).
    #[must_use]
    pub fn meta(&self) -> SessionMeta {
        SessionMeta {
            connection: self.connection,
            session_expiry_interval_s: self.session_expiry_interval_s,
            client_receive_maximum: self.client_receive_maximum,
            limits: self.limits,
            awaiting_pubrel_max: self.inbound.ids_max(),
            next_position: self.outbound.next_position(),
            next_pubrec_position: self.outbound.next_pubrec_position(),
            last_packet_id: self.outbound.last_packet_id(),
        }
    }

    /// The whole session as plain values. O(everything in it).
    #[must_use]
    pub fn parts(&self) -> SessionParts {
        SessionParts {
            meta: self.meta(),
            subscriptions: self.subscriptions.as_map().clone(),
            deliveries: self.outbound.parts(),
            awaiting_pubrel: self.inbound.ids().clone(),
        }
    }

    /// The session that has these parts; it names its bodies and holds none.
    ///
    /// # Errors
    /// The first invariant that the parts break.
    pub fn from_parts(parts: SessionParts) -> Result<Self, PartsError> {
        let SessionParts {
            meta,
            subscriptions,
            deliveries,
            awaiting_pubrel,
        } = parts;
        let (outbound, inbound) = parts::restore(&meta, deliveries, awaiting_pubrel)?;
        Ok(Self {
            connection: meta.connection,
            session_expiry_interval_s: meta.session_expiry_interval_s,
            client_receive_maximum: meta.client_receive_maximum,
            limits: meta.limits,
            subscriptions: Subscriptions::from_map(subscriptions),
            inbound,
            outbound,
        })
    }

    /// Checks every invariant of the crate documentation; for tests, since it is O(everything).
    ///
    /// # Errors
    /// A sentence about the first one that is broken.
    pub fn check_invariants(&self) -> Result<(), String> {
        // Indexes, sums and counters are derived: a session equals what its parts rebuild.
        let rebuilt = Self::from_parts(self.parts()).map_err(|error| error.to_string())?;
        let mut named = self.clone();
        named.outbound = self.outbound.with_names_alone();
        if rebuilt != named {
            return Err(format!("{named:?} is rebuilt as {rebuilt:?}"));
        }
        Ok(())
    }

    /// A connection opens; one that was open before is taken over.
    fn connect(
        &mut self,
        now: Timestamp,
        receive_maximum: u16,
        limits: SessionLimits,
        out: &mut Vec<Output>,
    ) {
        self.connection = ConnectionState::Connected;
        self.client_receive_maximum = receive_maximum;
        self.limits = limits;
        self.inbound.on_connect(&limits);
        self.outbound.fill_window(&self.terms(now), out);
    }

    /// The connection is gone. Without one nothing happens: a running expiry is not started anew.
    fn disconnect(
        &mut self,
        now: Timestamp,
        session_expiry_interval_s: Option<u32>,
        out: &mut Vec<Output>,
    ) {
        if !self.is_connected() {
            return;
        }
        if let Some(interval) = session_expiry_interval_s {
            self.session_expiry_interval_s = interval;
        }
        match ConnectionState::after_disconnect(now, self.session_expiry_interval_s) {
            Some(connection) => self.connection = connection,
            None => self.end(out),
        }
    }

    fn end(&mut self, out: &mut Vec<Output>) {
        self.outbound.discard_all(out);
        *self = Self::new();
        out.push(Output::Ended);
    }

    fn terms(&self, now: Timestamp) -> Terms {
        Terms {
            now,
            window: self.meta().window(),
            limits: self.limits,
        }
    }
}

impl Default for Session {
    fn default() -> Self {
        Self::new()
    }
}
