//! A subscriber as a good client library has it: acknowledges everything, keeps its half of the
//! session over connections, connects to another node when its own is gone. It notes each message
//! that it hands on to its application, and every breach of the protocol's promises that it sees.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use codec::{Packet, Qos};
use tokio::task::JoinHandle;

use crate::client::{Client, Delivery, RecvError, delivery};
use crate::connect::ConnectOptions;
use crate::history::History;
use crate::oracle::sequence_of;
use crate::wait::wait_until;

/// A running subscriber.
#[derive(Debug)]
pub struct Receiver {
    name: String,
    log: Arc<Mutex<Log>>,
    task: JoinHandle<()>,
}

/// What a subscriber saw.
#[derive(Debug, Default, Clone)]
pub struct Log {
    /// Handed on to the application, in order.
    pub messages: Vec<Delivery>,
    /// Breaches of the protocol.
    pub violations: Vec<String>,
    /// When each CONNACK came.
    pub connected_at: Vec<Instant>,
    /// The port of the node of the newest connection.
    pub connected_to: u16,
    /// Whether a transient subscriber's connection ended.
    pub ended: bool,
}

#[derive(Debug)]
struct Agent {
    options: ConnectOptions,
    addresses: Vec<SocketAddr>,
    history: History,
    log: Arc<Mutex<Log>>,
    /// QoS 2 ids between PUBLISH and PUBREL, with the payload handed on.
    received: BTreeMap<u16, String>,
    order: ResendOrder,
}

/// Where in its life a connection is: re-sent messages come first, and only on a resumed session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ResendOrder {
    MayResend,
    OnlyNew,
}

impl Receiver {
    /// Connects to the first of `addresses` (to the next one whenever a connection ends) and
    /// subscribes; returns after SUBACK.
    ///
    /// # Panics
    /// When it can't.
    pub async fn start(
        options: ConnectOptions,
        addresses: Vec<SocketAddr>,
        filters: &[(&str, Qos)],
        history: &History,
    ) -> Self {
        let log = Arc::new(Mutex::new(Log::default()));
        let name = options.client_id.clone();
        let mut agent = Agent {
            options,
            addresses,
            history: history.clone(),
            log: Arc::clone(&log),
            received: BTreeMap::new(),
            order: ResendOrder::OnlyNew,
        };
        let mut client = agent.connect().await;
        for (filter, qos) in filters {
            for packet in client.subscribe(filter, *qos).await {
                agent.on_packet(packet, &mut client).await;
            }
        }
        let task = tokio::spawn(agent.run(client));
        Self { name, log, task }
    }

    /// Its client id.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it saw so far.
    #[must_use]
    pub fn log(&self) -> Log {
        lock(&self.log).clone()
    }

    /// The sequence numbers at the ends of the payloads that begin with `prefix/`, in the order
    /// handed on.
    #[must_use]
    pub fn sequence(&self, prefix: &str) -> Vec<u64> {
        lock(&self.log)
            .messages
            .iter()
            .filter_map(|message| sequence_of(&message.payload, prefix))
            .collect()
    }

    /// Waits until a message with this payload was handed on.
    ///
    /// # Panics
    /// When it is not, within `limit`.
    pub async fn wait_for(&self, payload: &str, limit: Duration) {
        wait_until(
            &format!("{} gets {payload}", self.name),
            limit,
            async || {
                lock(&self.log)
                    .messages
                    .iter()
                    .rev()
                    .any(|message| message.payload == payload)
            },
        )
        .await;
    }

    /// The port of the node of its newest connection.
    #[must_use]
    pub fn connected_to(&self) -> u16 {
        lock(&self.log).connected_to
    }

    /// The first CONNACK after `instant`.
    #[must_use]
    pub fn connected_after(&self, instant: Instant) -> Option<Instant> {
        lock(&self.log)
            .connected_at
            .iter()
            .copied()
            .find(|at| *at > instant)
    }

    /// Drops the connection without DISCONNECT and returns what it saw.
    #[must_use]
    pub fn stop(self) -> Log {
        self.task.abort();
        lock(&self.log).clone()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Agent {
    async fn run(mut self, mut client: Client) {
        loop {
            match client.recv_within(Duration::from_secs(3_600)).await {
                Ok(packet) => self.on_packet(packet, &mut client).await,
                Err(RecvError::Malformed(error)) => {
                    return self.violation(format!("malformed: {error}"));
                }
                Err(RecvError::Silent) => {}
                Err(RecvError::Closed) if self.options.is_persistent() => {
                    self.addresses.rotate_left(1);
                    client = self.connect().await;
                    if !client.session_present() {
                        self.violation("the session was lost".to_owned());
                    }
                }
                Err(RecvError::Closed) => {
                    lock(&self.log).ended = true;
                    return;
                }
            }
        }
    }

    async fn connect(&mut self) -> Client {
        let client = Client::connect_any(&self.addresses, &self.options, &self.history).await;
        let port = client.peer_port();
        // The node we are on comes first, so that the next rotation leaves it.
        while self
            .addresses
            .first()
            .is_some_and(|address| address.port() != port)
        {
            self.addresses.rotate_left(1);
        }
        self.order = if client.session_present() {
            ResendOrder::MayResend
        } else {
            ResendOrder::OnlyNew
        };
        let mut log = lock(&self.log);
        log.connected_at.push(client.connected_at());
        log.connected_to = port;
        drop(log);
        client
    }

    async fn on_packet(&mut self, packet: Packet, client: &mut Client) {
        match &packet {
            Packet::Publish(_) => {
                if let Some(message) = delivery(&packet) {
                    self.on_publish(message, client).await;
                }
            }
            Packet::Pubrel(ack) => {
                let id = ack.packet_id.get();
                // Unknown when our PUBCOMP was lost with its node: answered all the same.
                self.received.remove(&id);
                client.pubcomp(id).await;
            }
            Packet::Disconnect(disconnect) => {
                self.history.note(format!(
                    "{} is told {:?}",
                    self.options.client_id, disconnect.reason_code
                ));
            }
            other => self.violation(format!("unexpected {}", crate::summary::summary(other))),
        }
    }

    async fn on_publish(&mut self, message: Delivery, client: &mut Client) {
        self.check_dup(&message);
        match message.qos {
            Qos::AtMostOnce => self.hand_on(message),
            Qos::AtLeastOnce => {
                let id = message.id;
                self.hand_on(message);
                client.puback(id).await;
            }
            Qos::ExactlyOnce => {
                let id = message.id;
                match self.received.get(&id) {
                    Some(payload) if *payload != message.payload => {
                        self.violation(format!(
                            "id {id} still names {payload:?} and came with {:?}",
                            message.payload
                        ));
                    }
                    Some(_) if !message.dup => {
                        self.violation(format!("id {id} was sent again without DUP"))
                    }
                    Some(_) => {}
                    None => {
                        self.received.insert(id, message.payload.clone());
                        self.hand_on(message);
                    }
                }
                client.pubrec(id).await;
            }
        }
    }

    /// DUP=1 only at the start of a resumed connection [MQTT-4.4.0-1].
    fn check_dup(&mut self, message: &Delivery) {
        if message.qos == Qos::AtMostOnce {
            return;
        }
        if !message.dup {
            self.order = ResendOrder::OnlyNew;
        } else if self.order == ResendOrder::OnlyNew {
            self.violation(format!(
                "{:?} was sent again on a connection that did not drop",
                message.payload
            ));
        }
    }

    fn hand_on(&self, message: Delivery) {
        lock(&self.log).messages.push(message);
    }

    fn violation(&self, text: String) {
        self.history
            .note(format!("VIOLATION {}: {text}", self.options.client_id));
        lock(&self.log).violations.push(text);
    }
}

fn lock(log: &Mutex<Log>) -> MutexGuard<'_, Log> {
    log.lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stub::Stub;
    use codec::ProtocolVersion;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn message(id: u16, dup: bool, qos: Qos, payload: &str) -> Packet {
        Stub::publish(id, dup, qos, payload)
    }

    async fn receiver(stub: &Stub) -> Receiver {
        let options = ConnectOptions::persistent("r", ProtocolVersion::V5);
        let addresses = vec![stub.address()];
        let start = Receiver::start(
            options,
            addresses,
            &[("t", Qos::ExactlyOnce)],
            stub.history(),
        );
        let (receiver, ()) = tokio::join!(start, async {
            stub.accept(false).await;
            stub.grant().await;
        });
        receiver
    }

    async fn violations_after(receiver: &Receiver, last: &str) -> Vec<String> {
        receiver.wait_for(last, PATIENCE).await;
        receiver.log().violations
    }

    #[tokio::test]
    async fn a_resent_qos2_message_is_handed_on_once() {
        let stub = Stub::start().await;
        let receiver = receiver(&stub).await;
        stub.send(&message(1, false, Qos::ExactlyOnce, "r/0")).await;
        receiver.wait_for("r/0", PATIENCE).await;
        stub.close().await;
        stub.accept(true).await;
        stub.send(&message(1, true, Qos::ExactlyOnce, "r/0")).await;
        stub.send(&message(2, false, Qos::ExactlyOnce, "r/1")).await;
        assert_eq!(violations_after(&receiver, "r/1").await, [""; 0]);
        assert_eq!(receiver.sequence("r"), [0, 1]);
    }

    #[tokio::test]
    async fn breaches_are_noted() {
        let stub = Stub::start().await;
        let receiver = receiver(&stub).await;
        stub.send(&message(1, true, Qos::AtLeastOnce, "dup on a new session"))
            .await;
        stub.send(&message(2, false, Qos::ExactlyOnce, "first"))
            .await;
        stub.send(&message(2, false, Qos::ExactlyOnce, "first"))
            .await;
        stub.send(&message(
            2,
            false,
            Qos::ExactlyOnce,
            "another under the same id",
        ))
        .await;
        stub.send(&message(3, false, Qos::AtLeastOnce, "last"))
            .await;
        let violations = violations_after(&receiver, "last").await;
        assert_eq!(violations.len(), 3, "{violations:?}");
        stub.close().await;
        stub.accept(false).await;
        stub.send(&message(1, false, Qos::AtLeastOnce, "after the loss"))
            .await;
        let violations = violations_after(&receiver, "after the loss").await;
        assert_eq!(
            violations.last().map(String::as_str),
            Some("the session was lost")
        );
    }
}
