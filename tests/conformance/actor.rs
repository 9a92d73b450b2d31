//! One actor of a script: its connection, and what it received and no line has taken yet.

use std::time::Duration;

use testkit::script::PacketLine;
use tokio::time::Instant;

use crate::connection::{Connection, Setting};
use crate::driver::encode;
use testkit::lines::compare::Received;

/// Until a handshake that the script does not show is complete.
pub(crate) const HANDSHAKE_WITHIN: Duration = Duration::from_secs(20);
/// Packet ids of publishes whose handshake is not shown: away from those that scripts choose.
const FIRST_HIDDEN_ID: u16 = 50_000;

/// One actor.
pub(crate) struct Actor {
    pub(crate) name: String,
    /// From 1.
    pub(crate) node: usize,
    pub(crate) connection: Option<Connection>,
    /// How it connected last.
    pub(crate) connect_line: Option<PacketLine>,
    pub(crate) received: Vec<Received>,
    /// The client id that the broker chose.
    pub(crate) assigned: Option<String>,
    /// It does not read.
    pub(crate) is_stalled: bool,
    hidden_id: u16,
    setting: Setting,
}

impl Actor {
    pub(crate) fn new(name: &str, node: usize, setting: &Setting) -> Self {
        Self {
            name: name.to_owned(),
            node,
            connection: None,
            connect_line: None,
            received: Vec::new(),
            assigned: None,
            is_stalled: false,
            hidden_id: FIRST_HIDDEN_ID,
            setting: setting.clone(),
        }
    }

    /// Whether it got CONNACK with success.
    pub(crate) fn is_accepted(&self) -> bool {
        self.connection
            .as_ref()
            .is_some_and(|connection| connection.is_accepted)
    }

    /// Sends a packet as it stands in the script.
    pub(crate) async fn send(&mut self, packet: &PacketLine) -> Result<(), String> {
        let bytes = encode(&self.setting, packet, &self.name)?;
        let connection = self.connection.as_mut().ok_or("not connected")?;
        connection.send(&bytes, packet.to_string()).await;
        Ok(())
    }

    /// Reads one packet, or that the connection was closed. `false`: nothing came.
    pub(crate) async fn read_one(&mut self, until: Instant) -> bool {
        let Some(connection) = &mut self.connection else {
            return false;
        };
        let Some(received) = connection.receive(until).await else {
            return false;
        };
        if let Some(id) = received.line.value("assigned_client_id") {
            self.assigned = Some(id.to_owned());
        }
        if received.line.name == "CLOSED" {
            self.connection = None;
        }
        self.received.push(received);
        true
    }

    /// Publishes with QoS 1 or 2 and carries out the handshake, of which the script shows nothing.
    pub(crate) async fn publish_completely(&mut self, packet: &PacketLine) -> Result<(), String> {
        let id = self.hidden_id;
        self.hidden_id += 1;
        self.send(&packet.clone().with("id", id)).await?;
        if packet.has("q1") {
            return self.take_acknowledgement("PUBACK", id).await.map(drop);
        }
        let Some(received) = self.take_acknowledgement("PUBREC", id).await? else {
            return Ok(());
        };
        let is_refused = received
            .line
            .value("reason")
            .is_some_and(|code| code >= "0x80");
        if is_refused {
            return Ok(());
        }
        self.send(&PacketLine::new("PUBREL").with("id", id)).await?;
        self.take_acknowledgement("PUBCOMP", id).await.map(drop)
    }

    /// Waits for one acknowledgement; `None`: the connection was closed.
    async fn take_acknowledgement(
        &mut self,
        name: &str,
        id: u16,
    ) -> Result<Option<Received>, String> {
        let until = Instant::now() + HANDSHAKE_WITHIN;
        loop {
            let place = self
                .received
                .iter()
                .position(|one| one.line.name == name && one.line.number("id") == Some(id.into()));
            if let Some(place) = place {
                return Ok(Some(self.received.remove(place)));
            }
            if self.connection.is_none() {
                return Ok(None);
            }
            if !self.read_one(until).await {
                return Err(format!("{} waited for {name} id={id}", self.name));
            }
        }
    }

    /// After DISCONNECT: the connection ends, by the broker's hand if the script says so.
    pub(crate) async fn leave(&mut self, closes: bool, limit: Duration) -> Result<(), String> {
        if closes {
            let until = Instant::now() + limit;
            while self.read_one(until).await {}
            return Ok(());
        }
        self.close(limit).await
    }

    /// Closes our half, and waits until the broker has noticed it.
    pub(crate) async fn close(&mut self, limit: Duration) -> Result<(), String> {
        let Some(connection) = &mut self.connection else {
            return Ok(());
        };
        connection.half_close().await;
        let until = Instant::now() + limit;
        while self.read_one(until).await {}
        if self.connection.take().is_some() {
            return Err(format!("{}: the broker does not close", self.name));
        }
        // We closed it.
        self.received.retain(|one| one.line.name != "CLOSED");
        if self.is_stalled {
            self.received.clear();
            self.is_stalled = false;
        }
        Ok(())
    }

    /// Closes the connection with RST.
    pub(crate) fn reset(&mut self) -> Result<(), String> {
        self.connection.take().ok_or("not connected")?.reset();
        Ok(())
    }

    /// The connection is gone, and what was not read of it.
    pub(crate) fn lose(&mut self) {
        self.connection = None;
        self.received.clear();
        self.is_stalled = false;
    }

    /// Reads all that was sent to it before now.
    pub(crate) async fn ping(&mut self, limit: Duration) {
        let is_stalled = self.is_stalled;
        let Some(connection) = &mut self.connection else {
            return;
        };
        if is_stalled || !connection.is_accepted || !connection.is_between_packets() {
            return;
        }
        connection.ping().await;
        let until = Instant::now() + limit;
        while self.read_one(until).await {
            let is_pong = |one: &Received| one.line.name == "PINGRESP";
            if self.received.last().is_some_and(is_pong) {
                self.received.pop();
                return;
            }
        }
        if self.connection.is_some() {
            self.received.push(Received {
                line: PacketLine::new("SILENCE").quoted("no PINGRESP came"),
                bytes: Vec::new(),
                topic: None,
            });
        }
    }
}
