//! Runs one script against real brokers: what its actors send, and that they receive exactly what it
//! says.
//!
//! At the end of a turn every connected actor is asked for what it has not received yet: PINGRESP
//! comes after all that was sent to it. Where effects reach others without being acknowledged to the
//! actor, a message is sent through every shard behind them first ([`Barrier`](crate::barrier)).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use codec::ProtocolVersion;
use testkit::let_pass;
use testkit::script::{PacketLine, Script, Step, Turn, parse_seconds};
use tokio::time::Instant;

use crate::actor::{Actor, HANDSHAKE_WITHIN};
use crate::connection::{Connection, Setting};
use crate::label;
use crate::place::Place;
use testkit::lines::compare::{difference, expected_in};
use testkit::lines::encode::Encoder;

/// Until an expected packet must be there.
const PATIENCE: Duration = Duration::from_secs(10);
/// The same where a node was killed: longer than any election.
const PATIENCE_AFTER_KILL: Duration = Duration::from_secs(40);
/// A connection that was not accepted can't be asked whether anything comes: it is listened to.
const QUIET: Duration = Duration::from_millis(50);

/// One script at work.
pub(crate) struct Driver<'a> {
    place: Place<'a>,
    setting: Setting,
    actors: BTreeMap<String, Actor>,
    /// Line of the action that is carried out.
    line: usize,
    has_killed: bool,
    traces: crate::traces::Traces,
}

impl<'a> Driver<'a> {
    pub(crate) fn new(place: Place<'a>, setting: Setting) -> Self {
        Self {
            place,
            setting,
            actors: BTreeMap::new(),
            line: 0,
            has_killed: false,
            traces: crate::traces::Traces::default(),
        }
    }

    /// Runs all of it.
    ///
    /// # Errors
    /// The first difference, with its line.
    pub(crate) async fn run(&mut self, script: &Script) -> Result<(), String> {
        let turns = script.turns_for(label(self.setting.version));
        self.set_scene(&turns);
        let outcome = self.run_turns(&turns).await;
        self.leave().await;
        self.traces.remove(&self.place).await;
        outcome.map_err(|why| self.located(why))
    }

    /// All connections end, and what comes of that has come.
    async fn leave(&mut self) {
        for actor in self.actors.values_mut() {
            // Whether the scenario passed is known already.
            actor.close(PATIENCE).await.ok();
        }
        let nodes: BTreeSet<usize> = self.actors.values().map(|actor| actor.node).collect();
        if self.traces.is_empty() {
            return;
        }
        for node in nodes.iter().chain(&nodes) {
            self.place.pass_barrier(*node).await.ok();
        }
    }

    async fn run_turns(&mut self, turns: &[Turn<'_>]) -> Result<(), String> {
        for turn in turns {
            self.line = turn.action.line;
            self.turn(turn).await?;
        }
        self.end().await
    }

    /// Actors in the order in which they appear, on different nodes.
    fn set_scene(&mut self, turns: &[Turn<'_>]) {
        let steps = turns
            .iter()
            .flat_map(|turn| std::iter::once(turn.action).chain(turn.expected.iter().copied()));
        let mut names: Vec<&str> = Vec::new();
        for step in steps.filter(|step| step.actor != "broker") {
            if !names.contains(&step.actor.as_str()) {
                names.push(&step.actor);
            }
        }
        let fails_over = |name: &str| {
            let mut actions = turns.iter().map(|turn| turn.action);
            actions.any(|step| step.actor == name && step.packet.name == "failover")
        };
        let nodes = self.place.nodes_of(&names, fails_over);
        for (name, node) in names.into_iter().zip(nodes) {
            let actor = Actor::new(name, node, &self.setting);
            self.actors.insert(name.to_owned(), actor);
        }
    }

    fn located(&self, why: String) -> String {
        if why.starts_with("line ") {
            why
        } else {
            format!("line {}: {why}", self.line)
        }
    }

    async fn turn(&mut self, turn: &Turn<'_>) -> Result<(), String> {
        let mut expected: BTreeMap<String, Vec<&Step>> = BTreeMap::new();
        for step in turn.expected.iter().filter(|step| step.actor != "broker") {
            expected.entry(step.actor.clone()).or_default().push(step);
        }
        let version = self.setting.version;
        let expected: BTreeMap<String, Vec<Step>> = expected
            .into_iter()
            .map(|(actor, steps)| (actor, expected_in(version, &steps)))
            .collect();
        self.act(turn, &expected).await?;
        if self.collect(&expected).await {
            if is_unacknowledged(turn.action) {
                self.pass_barrier(&turn.action.actor).await?;
            }
            if ends_connection(turn) {
                // A node records that a connection ended once all that was under way on it is
                // answered, so behind the first message.
                self.pass_barrier(&turn.action.actor).await?;
            }
            self.settle().await;
        }
        self.compare(&expected)
    }

    async fn act(
        &mut self,
        turn: &Turn<'_>,
        expected: &BTreeMap<String, Vec<Step>>,
    ) -> Result<(), String> {
        let (name, packet) = (turn.action.actor.as_str(), &turn.action.packet);
        if turn.is_send && packet.name == "CONNECT" && self.actor(name)?.connection.is_none() {
            self.connect(name, packet).await?;
            let steps = expected.get(name).map_or(&[][..], Vec::as_slice);
            let first = steps.first().map(|step| &step.packet);
            let is_answered = first.is_some_and(|first| {
                let is_refusal = first
                    .value("reason")
                    .is_some_and(|code| code.contains("88"));
                first.name == "CONNACK" && !is_refusal
            });
            if is_answered {
                self.insist(name, packet).await?;
            }
            return Ok(());
        }
        if turn.is_send {
            let closes = expected
                .get(name)
                .is_some_and(|steps| steps.iter().any(|step| step.packet.name == "CLOSED"));
            return self.send(name, packet, closes).await;
        }
        match (name, packet.name.as_str()) {
            ("broker", "wait") => {
                let text = packet.positional(0).unwrap_or("");
                let seconds = parse_seconds(text).ok_or("wait for how many seconds?")?;
                let_pass(Duration::from_secs(u64::from(seconds))).await;
                Ok(())
            }
            ("broker", _) => Err(format!("{packet} is for sessions only")),
            (_, "open") => self.open(name, packet).await.map(drop),
            (_, "drop") => self.actor(name)?.close(HANDSHAKE_WITHIN).await,
            (_, "reset") => self.actor(name)?.reset(),
            (_, "failover") => self.fail_over(name, packet.has("everyone")).await,
            (_, "stall") => {
                self.actor(name)?.is_stalled = true;
                Ok(())
            }
            (_, "read") => {
                self.actor(name)?.is_stalled = false;
                Ok(())
            }
            _ => Err(format!("no such event: {packet}")),
        }
    }

    async fn send(&mut self, name: &str, packet: &PacketLine, closes: bool) -> Result<(), String> {
        if packet.name == "CONNECT" {
            return self.connect(name, packet).await;
        }
        if self.actor(name)?.connection.is_none() {
            self.connect_silently(name).await?;
        }
        self.traces.note(name, packet, &self.setting.prefix)?;
        let actor = self.actor(name)?;
        let is_hidden = packet.name == "PUBLISH"
            && packet.qos().is_some_and(|qos| qos.as_u8() > 0)
            && packet.value("id").is_none();
        if is_hidden {
            return actor.publish_completely(packet).await;
        }
        actor.send(packet).await?;
        if packet.name == "DISCONNECT" {
            return actor.leave(closes, PATIENCE).await;
        }
        Ok(())
    }

    /// CONNECT: on the connection that is open, if one is.
    async fn connect(&mut self, name: &str, packet: &PacketLine) -> Result<(), String> {
        let packet = self.with_assigned_id(packet)?;
        self.traces.note(name, &packet, &self.setting.prefix)?;
        if self.actor(name)?.connection.is_none() {
            self.open(name, &packet).await?;
        }
        let actor = self.actor(name)?;
        actor.connect_line = Some(packet.clone());
        let max_packet = packet.number("max_packet");
        if let Some(connection) = &mut actor.connection {
            connection.max_packet = max_packet.and_then(|max| usize::try_from(max).ok());
            connection.alias_max = packet.number("alias_max").unwrap_or(0);
        }
        actor.send(&packet).await
    }

    /// An actor that did not say how it connects is a plain client.
    async fn connect_silently(&mut self, name: &str) -> Result<(), String> {
        let packet = PacketLine::new("CONNECT").with("clean_start", 1);
        self.connect(name, &packet).await?;
        self.insist(name, &packet).await?;
        let actor = self.actor(name)?;
        match actor.received.pop() {
            Some(_) if actor.is_accepted() => Ok(()),
            other => Err(format!("{name} is not connected: {other:?}")),
        }
    }

    /// Reads the answer to CONNECT. A node that is out of reach of the others for a moment, as on a
    /// busy machine, refuses it with 0x88: it is sent again.
    async fn insist(&mut self, name: &str, packet: &PacketLine) -> Result<(), String> {
        let until = Instant::now() + PATIENCE;
        loop {
            let actor = self.actor(name)?;
            actor.read_one(until).await;
            let is_refused = actor
                .received
                .first()
                .is_some_and(|one| one.line.value("reason") == Some("0x88"));
            if !is_refused || Instant::now() >= until {
                return Ok(());
            }
            actor.lose();
            let_pass(QUIET).await;
            self.connect(name, packet).await?;
        }
    }

    /// `client_id=assigned:a`: the id that the broker assigned to `a`.
    fn with_assigned_id(&self, packet: &PacketLine) -> Result<PacketLine, String> {
        let assigned = packet
            .value("client_id")
            .and_then(|id| id.strip_prefix("assigned:"));
        let Some(owner) = assigned else {
            return Ok(packet.clone());
        };
        let owner = self.actors.get(owner).ok_or("no such actor")?;
        let id = owner.assigned.as_deref().ok_or("it was assigned no id")?;
        let words = packet.words().iter().map(|word| {
            if word.starts_with("client_id=") {
                format!("client_id=assigned:{id}")
            } else {
                word.clone()
            }
        });
        Ok(packet.with_words(words.collect()))
    }

    async fn open(&mut self, name: &str, packet: &PacketLine) -> Result<(), String> {
        let node = packet
            .number("node")
            .and_then(|node| usize::try_from(node).ok());
        if let Some(node) = node {
            self.actor(name)?.node = self.place.existing(node);
        }
        let node = self
            .place
            .living(self.actors.get(name).map_or(1, |actor| actor.node));
        self.actor(name)?.node = node;
        let address = self.place.address(node);
        let connection = Connection::open(address, name, &self.setting).await?;
        let actor = self.actor(name)?;
        if let Some(old) = actor.connection.replace(connection) {
            drop(old);
        }
        actor.is_stalled = false;
        Ok(())
    }

    /// The connection is lost, in the kill form with its node; the session goes on elsewhere. Where
    /// others are connected, a node is killed only if `everyone` may lose the connection.
    async fn fail_over(&mut self, name: &str, everyone: bool) -> Result<(), String> {
        self.pass_barrier(name).await?;
        let node = self.actor(name)?.node;
        let others: Vec<usize> = self
            .actors
            .values()
            .filter(|actor| actor.name != name && actor.connection.is_some())
            .map(|actor| actor.node)
            .collect();
        let is_spared = others.contains(&node) && !everyone;
        let is_killed = self.place.kill(node, is_spared).await;
        self.has_killed |= is_killed;
        if is_killed {
            for actor in self.actors.values_mut().filter(|one| one.node == node) {
                actor.lose();
            }
        } else {
            self.actor(name)?.close(HANDSHAKE_WITHIN).await?;
            self.pass_barrier(name).await?;
            self.pass_barrier(name).await?;
        }
        let next = self.place.elsewhere(node, &others);
        self.actor(name)?.node = next;
        let packet = resuming(
            self.actor(name)?
                .connect_line
                .as_ref()
                .ok_or("CONNECT first")?,
        );
        let deadline = Instant::now() + PATIENCE_AFTER_KILL;
        loop {
            let outcome = self.try_connect(name, &packet).await;
            match outcome {
                Ok(()) => return Ok(()),
                Err(_) if is_killed && Instant::now() < deadline => {
                    self.actor(name)?.lose();
                    let_pass(QUIET).await;
                }
                Err(why) => return Err(why),
            }
        }
    }

    async fn try_connect(&mut self, name: &str, packet: &PacketLine) -> Result<(), String> {
        self.connect(name, packet).await?;
        let actor = self.actor(name)?;
        actor.read_one(Instant::now() + PATIENCE).await;
        if actor.is_accepted() {
            Ok(())
        } else {
            Err(format!("{name} can't connect again: {:?}", actor.received))
        }
    }

    /// Waits for what is expected. `false`: it did not come.
    async fn collect(&mut self, expected: &BTreeMap<String, Vec<Step>>) -> bool {
        let patience = if self.has_killed {
            PATIENCE_AFTER_KILL
        } else {
            PATIENCE
        };
        let until = Instant::now() + patience;
        for (name, steps) in expected {
            if let Some(actor) = self.actors.get_mut(name) {
                while actor.received.len() < steps.len() {
                    if !actor.read_one(until).await {
                        return false;
                    }
                }
            }
        }
        true
    }

    /// Everything that `name` caused has happened on all nodes.
    async fn pass_barrier(&mut self, name: &str) -> Result<(), String> {
        let node = self.actors.get(name).map_or(1, |actor| actor.node);
        // What it sent has been read by its node.
        if let Some(actor) = self.actors.get_mut(name) {
            actor.ping(PATIENCE).await;
        }
        self.place.pass_barrier(node).await
    }

    /// Reads all that has been sent to anyone.
    async fn settle(&mut self) {
        for actor in self.actors.values_mut() {
            actor.ping(PATIENCE).await;
        }
    }

    fn compare(&mut self, expected: &BTreeMap<String, Vec<Step>>) -> Result<(), String> {
        let version = self.setting.version;
        let line = self.line;
        for (name, actor) in &mut self.actors {
            if actor.is_stalled {
                continue;
            }
            let received = std::mem::take(&mut actor.received);
            let steps = expected.get(name).map_or(&[][..], Vec::as_slice);
            if let Some(why) = difference(version, steps, &received) {
                if why.starts_with("line ") {
                    return Err(why);
                }
                return Err(format!("after line {line}, {name}:\n{why}"));
            }
        }
        Ok(())
    }

    /// Nothing comes late.
    async fn end(&mut self) -> Result<(), String> {
        self.settle().await;
        let nodes: BTreeSet<usize> = self.actors.values().map(|actor| actor.node).collect();
        for node in nodes {
            self.place.pass_barrier(node).await?;
        }
        for actor in self.actors.values_mut() {
            if actor.connection.is_some() && !actor.is_accepted() {
                actor.read_one(Instant::now() + QUIET).await;
            }
        }
        self.settle().await;
        self.compare(&BTreeMap::new())
    }

    fn actor(&mut self, name: &str) -> Result<&mut Actor, String> {
        self.actors
            .get_mut(name)
            .ok_or_else(|| format!("there is no actor {name}"))
    }
}

/// Whether what it does to others is not acknowledged to the actor.
fn is_unacknowledged(action: &Step) -> bool {
    match action.packet.name.as_str() {
        "CONNECT" | "SUBSCRIBE" | "UNSUBSCRIBE" | "PINGREQ" | "AUTH" | "open" | "stall"
        | "read" | "wait" => false,
        "PUBLISH" => action.packet.has("q0") || action.packet.value("id").is_some(),
        _ => true,
    }
}

/// Whether a connection ends in it.
fn ends_connection(turn: &Turn<'_>) -> bool {
    let is_end = |name: &str| matches!(name, "drop" | "reset" | "DISCONNECT" | "CLOSED");
    let mut expected = turn.expected.iter();
    is_end(&turn.action.packet.name) || expected.any(|step| is_end(&step.packet.name))
}

/// The same CONNECT, for the session that is there.
fn resuming(packet: &PacketLine) -> PacketLine {
    let words = packet
        .words()
        .iter()
        .filter(|word| !word.starts_with("clean_start=") && !word.starts_with("node="));
    packet
        .with_words(words.cloned().collect())
        .with("clean_start", 0)
}

/// Encodes a line of an actor.
pub(crate) fn encode(
    setting: &Setting,
    packet: &PacketLine,
    client_id: &str,
) -> Result<Vec<u8>, String> {
    let encoder = Encoder {
        version: setting.version,
        prefix: &setting.prefix,
    };
    encoder.encode(packet, client_id)
}

/// The versions that scripts name.
pub(crate) const VERSIONS: [ProtocolVersion; 3] = [
    ProtocolVersion::V31,
    ProtocolVersion::V311,
    ProtocolVersion::V5,
];
