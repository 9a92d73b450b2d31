//! A publisher as a good client library has it: numbered messages on one topic, several in flight,
//! re-sent in order through another node when its own is gone.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use codec::{Packet, Qos, ReasonCode};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::client::{Client, Outgoing, RecvError};
use crate::connect::ConnectOptions;
use crate::history::History;
use crate::wait::wait_until;

/// Until everything in flight is acknowledged after the last fault.
const FINISH_WITHIN: Duration = Duration::from_secs(60);

/// What to publish.
#[derive(Debug, Clone)]
pub struct SenderOptions {
    /// How to connect; use a persistent session for QoS 2.
    pub connect: ConnectOptions,
    /// The nodes, in the order tried.
    pub addresses: Vec<SocketAddr>,
    /// Topic.
    pub topic: String,
    /// QoS 1 or 2.
    pub qos: Qos,
    /// Messages in flight at most.
    pub in_flight_max: usize,
    /// Between two messages: shapes the load.
    pub interval: Duration,
    /// Messages in all; `None`: until [`Sender::finish`].
    pub count: Option<u64>,
}

/// A running publisher. Its payloads are `CLIENT_ID/0`, `CLIENT_ID/1`, ...
#[derive(Debug)]
pub struct Sender {
    name: String,
    is_counted: bool,
    log: Arc<Mutex<SenderLog>>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// What a publisher did.
#[derive(Debug, Default, Clone)]
pub struct SenderLog {
    /// Messages begun: their numbers are below this.
    pub begun: u64,
    /// Numbers whose PUBACK or PUBCOMP (or, with PUBREC, whose promise) came, in that order.
    pub acknowledged: Vec<u64>,
    /// Numbers whose PUBREC came.
    pub received: Vec<u64>,
    /// Breaches of the protocol.
    pub violations: Vec<String>,
    /// When each CONNACK came.
    pub connected_at: Vec<Instant>,
    /// The port of the node of the newest connection.
    pub connected_to: u16,
    /// Nothing is in flight and nothing more will be sent.
    pub finished: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    AwaitAcknowledgement,
    AwaitPubcomp,
}

#[derive(Debug)]
struct Agent {
    options: SenderOptions,
    history: History,
    log: Arc<Mutex<SenderLog>>,
    stop: watch::Receiver<bool>,
    /// In the order first sent.
    in_flight: VecDeque<(u16, u64, Step)>,
    last_id: u16,
}

impl Sender {
    /// Connects and begins to publish.
    ///
    /// # Panics
    /// When it can't connect.
    pub async fn start(options: SenderOptions, history: &History) -> Self {
        let log = Arc::new(Mutex::new(SenderLog::default()));
        let (stop, stopped) = watch::channel(false);
        let name = options.connect.client_id.clone();
        let is_counted = options.count.is_some();
        let mut agent = Agent {
            options,
            history: history.clone(),
            log: Arc::clone(&log),
            stop: stopped,
            in_flight: VecDeque::new(),
            last_id: 0,
        };
        let client = agent.connect().await;
        let task = tokio::spawn(agent.run(client));
        Self {
            name,
            is_counted,
            log,
            stop,
            task,
        }
    }

    /// Its client id, which begins its payloads.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it did so far.
    #[must_use]
    pub fn log(&self) -> SenderLog {
        lock(&self.log).clone()
    }

    /// Waits until `count` messages were acknowledged since the beginning.
    ///
    /// # Panics
    /// When they are not, within `limit`.
    pub async fn wait_acknowledged(&self, count: usize, limit: Duration) {
        wait_until(
            &format!("{} has {count} acknowledged", self.name),
            limit,
            async || lock(&self.log).acknowledged.len() >= count,
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

    /// Waits until all messages are acknowledged, and disconnects. Begins no more of them unless a
    /// count was given.
    ///
    /// # Panics
    /// When they are not acknowledged in time.
    pub async fn finish(self) -> SenderLog {
        self.stop.send_replace(!self.is_counted);
        wait_until(
            &format!("{} has everything acknowledged", self.name),
            FINISH_WITHIN,
            async || lock(&self.log).finished,
        )
        .await;
        self.log()
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Agent {
    async fn run(mut self, mut client: Client) {
        let mut pace = tokio::time::interval(self.options.interval);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let wants_more = self.wants_more();
            if !wants_more && self.in_flight.is_empty() {
                client.disconnect().await;
                lock(&self.log).finished = true;
                return;
            }
            let has_room = wants_more && self.in_flight.len() < self.options.in_flight_max;
            // `recv_within` keeps partial packets in the client: dropping it loses nothing.
            tokio::select! {
                received = client.recv_within(Duration::from_secs(3_600)) => match received {
                    Ok(packet) => self.on_packet(&packet, &mut client).await,
                    Err(RecvError::Closed) => client = self.resume().await,
                    Err(RecvError::Silent) => {}
                    Err(RecvError::Malformed(error)) => return self.violation(format!("malformed: {error}")),
                },
                _ = pace.tick(), if has_room => self.publish_next(&mut client).await,
                // Only wakes the loop.
                _ = self.stop.changed(), if wants_more => {}
            }
        }
    }

    fn wants_more(&self) -> bool {
        let count = self.options.count.unwrap_or(u64::MAX);
        !*self.stop.borrow() && lock(&self.log).begun < count
    }

    async fn publish_next(&mut self, client: &mut Client) {
        let number = {
            let mut log = lock(&self.log);
            log.begun += 1;
            log.begun - 1
        };
        let id = self.next_id();
        self.in_flight
            .push_back((id, number, Step::AwaitAcknowledgement));
        self.send(id, number, false, client).await;
    }

    async fn send(&self, id: u16, number: u64, dup: bool, client: &mut Client) {
        let payload = format!("{}/{number}", self.options.connect.client_id);
        let (qos, topic) = (self.options.qos, &self.options.topic);
        client
            .publish(&Outgoing {
                id,
                dup,
                qos,
                topic,
                payload: &payload,
            })
            .await;
    }

    fn next_id(&mut self) -> u16 {
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            if self.in_flight.iter().all(|(id, ..)| *id != self.last_id) {
                return self.last_id;
            }
        }
    }

    async fn on_packet(&mut self, packet: &Packet, client: &mut Client) {
        match packet {
            Packet::Puback(ack) => self.complete(ack.packet_id.get(), ack.reason_code, "PUBACK"),
            Packet::Pubcomp(ack) => {
                self.complete(ack.packet_id.get(), ReasonCode::Success, "PUBCOMP")
            }
            Packet::Pubrec(ack) => {
                self.on_pubrec(ack.packet_id.get(), ack.reason_code, client)
                    .await
            }
            Packet::Disconnect(disconnect) => {
                let name = &self.options.connect.client_id;
                self.history
                    .note(format!("{name} is told {:?}", disconnect.reason_code));
            }
            other => self.violation(format!("unexpected {}", crate::summary::summary(other))),
        }
    }

    async fn on_pubrec(&mut self, id: u16, reason: ReasonCode, client: &mut Client) {
        let Some(entry) = self.in_flight.iter_mut().find(|(known, ..)| *known == id) else {
            return self.violation(format!("PUBREC for {id}, which is not in flight"));
        };
        entry.2 = Step::AwaitPubcomp;
        let number = entry.1;
        if reason.is_error() {
            return self.violation(format!("PUBREC for {id} refuses: {reason:?}"));
        }
        lock(&self.log).received.push(number);
        client.pubrel(id).await;
    }

    fn complete(&mut self, id: u16, reason: ReasonCode, kind: &str) {
        let Some(position) = self.in_flight.iter().position(|(known, ..)| *known == id) else {
            return self.violation(format!("{kind} for {id}, which is not in flight"));
        };
        let Some((_, number, _)) = self.in_flight.remove(position) else {
            return;
        };
        if reason.is_error() {
            return self.violation(format!("{kind} for {id} refuses: {reason:?}"));
        }
        lock(&self.log).acknowledged.push(number);
    }

    async fn resume(&mut self) -> Client {
        self.options.addresses.rotate_left(1);
        let mut client = self.connect().await;
        let is_persistent = self.options.connect.is_persistent();
        if is_persistent && !client.session_present() {
            self.violation("the session was lost".to_owned());
        }
        for (id, number, step) in self.in_flight.clone() {
            match step {
                Step::AwaitAcknowledgement => {
                    self.send(id, number, is_persistent, &mut client).await
                }
                Step::AwaitPubcomp => client.pubrel(id).await,
            }
        }
        client
    }

    async fn connect(&mut self) -> Client {
        let client = Client::connect_any(
            &self.options.addresses,
            &self.options.connect,
            &self.history,
        )
        .await;
        let port = client.peer_port();
        while self
            .options
            .addresses
            .first()
            .is_some_and(|address| address.port() != port)
        {
            self.options.addresses.rotate_left(1);
        }
        let mut log = lock(&self.log);
        log.connected_at.push(client.connected_at());
        log.connected_to = port;
        drop(log);
        client
    }

    fn violation(&self, text: String) {
        self.history.note(format!(
            "VIOLATION {}: {text}",
            self.options.connect.client_id
        ));
        lock(&self.log).violations.push(text);
    }
}

fn lock(log: &Mutex<SenderLog>) -> MutexGuard<'_, SenderLog> {
    log.lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stub::Stub;
    use codec::ProtocolVersion;

    #[tokio::test]
    async fn a_sender_goes_on_where_it_was() {
        let stub = Stub::start().await;
        let options = SenderOptions {
            connect: ConnectOptions::persistent("s", ProtocolVersion::V5),
            addresses: vec![stub.address()],
            topic: "t".to_owned(),
            qos: Qos::ExactlyOnce,
            in_flight_max: 3,
            interval: Duration::from_millis(1),
            count: Some(3),
        };
        let start = Sender::start(options, stub.history());
        let (sender, ()) = tokio::join!(start, stub.accept(false));
        let first = stub.recv_texts(3).await;
        assert_eq!(
            first,
            [
                "PUBLISH id=1 q2 t \"s/0\"",
                "PUBLISH id=2 q2 t \"s/1\"",
                "PUBLISH id=3 q2 t \"s/2\""
            ]
        );
        stub.send(&Stub::pubrec(2)).await;
        assert_eq!(stub.recv_texts(1).await, ["PUBREL id=2"]);
        stub.close().await;
        stub.accept(true).await;
        let again = stub.recv_texts(3).await;
        assert_eq!(
            again,
            [
                "PUBLISH id=1 q2 dup t \"s/0\"",
                "PUBREL id=2",
                "PUBLISH id=3 q2 dup t \"s/2\""
            ]
        );
        for id in [1, 3] {
            stub.send(&Stub::pubrec(id)).await;
            assert_eq!(stub.recv_texts(1).await, [format!("PUBREL id={id}")]);
        }
        for id in [2, 1, 3] {
            stub.send(&Stub::pubcomp(id)).await;
        }
        let log = sender.finish().await;
        assert_eq!(
            (log.acknowledged, log.violations),
            (vec![1, 0, 2], Vec::new())
        );
    }
}
