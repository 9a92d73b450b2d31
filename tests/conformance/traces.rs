//! What a scenario leaves behind on a broker that others use after it: retained messages, sessions.

use std::collections::BTreeSet;
use std::time::Duration;

use codec::ProtocolVersion;
use testkit::History;
use testkit::script::PacketLine;
use tokio::time::Instant;

use crate::actor::Actor;
use crate::connection::{Connection, Setting};
use crate::place::Place;
use testkit::lines::prefix::Prefix;
use testkit::lines::words::{Words, escaped};

/// A broker that does not answer is looked into by the next scenario.
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);

/// What to remove.
#[derive(Default)]
pub(crate) struct Traces {
    retained: BTreeSet<Vec<u8>>,
    sessions: BTreeSet<Vec<u8>>,
}

impl Traces {
    /// Notes what a packet of an actor leaves.
    pub(crate) fn note(
        &mut self,
        actor: &str,
        packet: &PacketLine,
        prefix: &Prefix,
    ) -> Result<(), String> {
        if !matches!(packet.name.as_str(), "PUBLISH" | "CONNECT") {
            return Ok(());
        }
        let words = Words::of(packet)?;
        if words.has("retain") {
            self.retained
                .extend(words.get("topic").map(|topic| prefix.topic(topic)));
        }
        if words.has("will_retain") {
            self.retained
                .extend(words.get("will_topic").map(|topic| prefix.topic(topic)));
        }
        if words.get("clean_start") == Some(b"0") {
            let id = words.get("client_id").unwrap_or(actor.as_bytes());
            self.sessions.insert(prefix.id(id));
        }
        Ok(())
    }

    /// Whether it leaves nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.retained.is_empty() && self.sessions.is_empty()
    }

    /// Removes it. Whatever fails here is found by those who meet it.
    pub(crate) async fn remove(&self, place: &Place<'_>) {
        if self.is_empty() {
            return;
        }
        let address = place.address(place.living(1));
        let setting = Setting {
            version: ProtocolVersion::V5,
            prefix: Prefix::none(),
            history: History::new(),
        };
        let own = format!("cleaner{self:p}");
        let ids = self.sessions.iter().filter(|id| !id.is_empty());
        for id in std::iter::once(own).chain(ids.map(|id| escaped(id))) {
            let mut actor = Actor::new("cleaner", 1, &setting);
            let Ok(connection) = Connection::open(address, "cleaner", &setting).await else {
                return;
            };
            actor.connection = Some(connection);
            let connect = PacketLine::new("CONNECT")
                .with("clean_start", 1)
                .with("client_id", format!("\"{id}\""));
            if actor.send(&connect).await.is_err() {
                return;
            }
            actor.read_one(Instant::now() + ANSWERED_WITHIN).await;
            if id.starts_with("cleaner") {
                self.clear_retained(&mut actor).await;
            }
            let disconnect = PacketLine::new("DISCONNECT");
            if actor.send(&disconnect).await.is_ok() {
                actor.close(ANSWERED_WITHIN).await.ok();
            }
        }
    }

    async fn clear_retained(&self, actor: &mut Actor) {
        for topic in &self.retained {
            let publish = PacketLine::new("PUBLISH")
                .word(format!("\"{}\"", escaped(topic)))
                .word("q1")
                .word("retain");
            if actor.publish_completely(&publish).await.is_err() {
                return;
            }
        }
    }
}
