//! The handshakes as the receiving client sees them, packet by packet: which packet ids are in use,
//! what is sent again and how, and what the client hands on to its application.

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use codec::{Ack, Packet, PacketId, Publish, Qos};

use super::Story;
use super::story::{Connection, Session};
use super::verdict::{Rule, Verdict};

/// One message that a client handed on to its application: its first reception.
#[derive(Debug)]
pub(super) struct Delivery<'a> {
    pub(super) session: usize,
    pub(super) connection: usize,
    pub(super) record: usize,
    /// `None`: nobody published this payload, or it is empty.
    pub(super) message: Option<usize>,
    pub(super) publish: &'a Publish,
}

/// How far the client is with one packet id. It can't know whether its last packet arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// PUBLISH was received, no acknowledgement sent.
    Received,
    /// PUBREC was sent.
    PubrecSent,
    /// PUBREL was received.
    Released,
    /// PUBACK or PUBCOMP was sent: the id is free, unless that packet was lost.
    Completed,
}

#[derive(Debug)]
struct InFlight<'a> {
    publish: &'a Publish,
    progress: Progress,
    /// Counts first receptions in this session.
    position: usize,
    record: usize,
    /// The connection that last brought the PUBLISH.
    connection: usize,
}

/// The client's half of one session.
struct Receiver<'a, 'v> {
    story: &'v Story<'a>,
    session: usize,
    ids: BTreeMap<PacketId, InFlight<'a>>,
    positions: usize,
    pubrecs_sent: usize,
    /// The place of each PUBREC among all that were sent.
    pubrecs: BTreeMap<PacketId, usize>,
    deliveries: Vec<Delivery<'a>>,
    verdict: &'v mut Verdict,
}

/// What counts anew on each connection.
#[derive(Debug)]
struct OnConnection {
    number: usize,
    is_resumed: bool,
    window: usize,
    /// PUBLISHes of this connection that are not completed.
    open: BTreeMap<PacketId, usize>,
    /// PUBRELs of this connection.
    pubrels: BTreeMap<PacketId, usize>,
    /// The first PUBLISH without DUP.
    first_new: Option<usize>,
    /// Position and record of the PUBLISH sent again last.
    last_again: Option<(usize, usize)>,
    /// Place of its PUBREC, and record, of the last PUBREL.
    last_pubrel: Option<(usize, usize)>,
}

/// Judges all sessions; returns all first receptions, in order of the records.
pub(super) fn check<'a>(story: &Story<'a>, verdict: &mut Verdict) -> Vec<Delivery<'a>> {
    let mut deliveries = Vec::new();
    for (number, session) in story.sessions.iter().enumerate() {
        let mut receiver = Receiver {
            story,
            session: number,
            ids: BTreeMap::new(),
            positions: 0,
            pubrecs_sent: 0,
            pubrecs: BTreeMap::new(),
            deliveries: Vec::new(),
            verdict,
        };
        receiver.run(session);
        deliveries.append(&mut receiver.deliveries);
    }
    deliveries.sort_by_key(|delivery| delivery.record);
    deliveries
}

impl<'a> Receiver<'a, '_> {
    fn run(&mut self, session: &Session<'_>) {
        for number in &session.connections {
            let connection = &self.story.connections[*number];
            let mut here = OnConnection {
                number: *number,
                is_resumed: connection.is_resumed(),
                window: receive_maximum(connection),
                open: BTreeMap::new(),
                pubrels: BTreeMap::new(),
                first_new: None,
                last_again: None,
                last_pubrel: None,
            };
            for record in &connection.packets {
                if let Some(packet) = self.story.sent(*record) {
                    self.on_sent(&mut here, packet);
                }
                match self.story.received(*record) {
                    Some(Packet::Publish(publish)) => self.on_publish(&mut here, *record, publish),
                    Some(Packet::Pubrel(ack)) => self.on_pubrel(&mut here, *record, ack),
                    _ => {}
                }
            }
        }
    }

    fn on_sent(&mut self, here: &mut OnConnection, packet: &Packet) {
        let (id, progress) = match packet {
            Packet::Puback(ack) | Packet::Pubcomp(ack) => (ack.packet_id, Progress::Completed),
            Packet::Pubrec(ack) => {
                self.pubrecs_sent += 1;
                self.pubrecs.insert(ack.packet_id, self.pubrecs_sent);
                (ack.packet_id, Progress::PubrecSent)
            }
            _ => return,
        };
        if progress == Progress::Completed {
            here.open.remove(&id);
        }
        if let Some(one) = self.ids.get_mut(&id) {
            one.progress = progress;
        }
    }

    fn on_publish(&mut self, here: &mut OnConnection, record: usize, publish: &'a Publish) {
        let Some(id) = publish.packet_id else {
            return self.hand_on(here, record, publish);
        };
        if publish.dup {
            self.check_again(here, record);
        } else if here.first_new.is_none() {
            here.first_new = Some(record);
            self.check_all_sent_again(here, record);
        }
        let is_same = |one: &InFlight<'_>| is_same(one.publish, publish);
        match self.ids.get(&id) {
            None => self.bind(here, id, record, publish),
            Some(one) if one.connection == here.number => {
                let is_free = one.progress == Progress::Completed;
                if is_free && !(publish.dup && is_same(one)) {
                    if publish.dup {
                        let records = [one.record, record];
                        let text = self.text(publish, "has DUP the first time");
                        self.verdict.add(Rule::Dup, &records, text);
                    }
                    self.bind(here, id, record, publish);
                } else {
                    self.on_second_time(id, record, publish);
                }
            }
            Some(one) if one.progress == Progress::Completed => {
                let again = publish.dup && is_same(one);
                match (again, publish.qos) {
                    (true, Qos::ExactlyOnce) => {
                        let text = self.text(publish, "is sent after its PUBCOMP");
                        self.verdict.add(Rule::Release, &[one.record, record], text);
                    }
                    (true, _) => self.again(here, id, record),
                    (false, _) => self.bind(here, id, record, publish),
                }
            }
            Some(_) => self.on_unfinished(here, id, record, publish),
        }
        here.open.insert(id, record);
        if here.open.len() > here.window {
            let open: Vec<usize> = here.open.values().copied().collect();
            let text = self.text(publish, &format!("exceeds Receive Maximum {}", here.window));
            self.verdict.add(Rule::Window, &open, text);
        }
    }

    /// DUP: only on a resumed session, and before anything new [MQTT-4.4.0-1].
    fn check_again(&mut self, here: &OnConnection, record: usize) {
        if !here.is_resumed {
            let text = "DUP on a session that is new".to_owned();
            self.verdict.add(Rule::Dup, &[record], text);
        }
        if let Some(first_new) = here.first_new {
            let text = "DUP after a message that was sent for the first time".to_owned();
            self.verdict.add(Rule::Dup, &[first_new, record], text);
        }
    }

    /// Before anything new comes everything that the client never acknowledged.
    fn check_all_sent_again(&mut self, here: &OnConnection, record: usize) {
        let missing = self
            .ids
            .iter()
            .find(|(_, one)| one.progress == Progress::Received && one.connection != here.number);
        if let Some((id, one)) = missing {
            let text = self.text(
                one.publish,
                &format!("id={id} was not acknowledged, and is not sent again before new messages"),
            );
            self.verdict.add(Rule::Resend, &[one.record, record], text);
        }
    }

    /// A second PUBLISH with an id that this connection brought already and that is not free.
    fn on_second_time(&mut self, id: PacketId, record: usize, publish: &'a Publish) {
        let Some(one) = self.ids.get(&id) else {
            return;
        };
        let (rule, what) = if is_same(one.publish, publish) {
            (Rule::Resend, "is sent twice on one connection")
        } else {
            (Rule::PacketId, "has an id that is in use")
        };
        let records = [one.record, record];
        let text = self.text(publish, what);
        self.verdict.add(rule, &records, text);
    }

    /// The first PUBLISH of a new connection with an id that an older one left unfinished.
    fn on_unfinished(
        &mut self,
        here: &mut OnConnection,
        id: PacketId,
        record: usize,
        publish: &'a Publish,
    ) {
        let Some(one) = self.ids.get(&id) else {
            return;
        };
        let records = [one.record, record];
        if !is_same(one.publish, publish) {
            let text = self.text(publish, "has an id that is in use");
            self.verdict.add(Rule::PacketId, &records, text);
            return self.bind(here, id, record, publish);
        }
        if !publish.dup {
            let text = self.text(publish, "is sent again without DUP");
            self.verdict.add(Rule::Dup, &records, text);
        }
        if one.publish.qos != publish.qos {
            let text = self.text(publish, "is sent again with another QoS");
            self.verdict.add(Rule::Altered, &records, text);
        }
        if one.progress == Progress::Released {
            let text = self.text(publish, "is sent after its PUBREL");
            self.verdict.add(Rule::Release, &records, text);
        }
        self.again(here, id, record);
    }

    /// A PUBLISH that is known comes again, in the order of the first time [MQTT-4.6.0-1].
    fn again(&mut self, here: &mut OnConnection, id: PacketId, record: usize) {
        let Some(one) = self.ids.get_mut(&id) else {
            return;
        };
        one.connection = here.number;
        if one.progress == Progress::Completed {
            one.progress = Progress::Received;
        }
        let position = one.position;
        match here.last_again {
            Some((last, before)) if last > position => {
                let text = format!("id={id} is sent again after one that came later");
                self.verdict.add(Rule::Resend, &[before, record], text);
            }
            _ => here.last_again = Some((position, record)),
        }
    }

    fn bind(&mut self, here: &OnConnection, id: PacketId, record: usize, publish: &'a Publish) {
        self.positions += 1;
        let one = InFlight {
            publish,
            progress: Progress::Received,
            position: self.positions,
            record,
            connection: here.number,
        };
        self.ids.insert(id, one);
        self.pubrecs.remove(&id);
        self.hand_on(here, record, publish);
    }

    /// PUBREL answers PUBREC [MQTT-4.3.3-4], in the order of the PUBRECs [MQTT-4.6.0-4], once.
    fn on_pubrel(&mut self, here: &mut OnConnection, record: usize, ack: &Ack) {
        let id = ack.packet_id;
        if let Some(before) = here.pubrels.insert(id, record) {
            let is_new = self
                .ids
                .get(&id)
                .is_some_and(|one| one.record > before && one.connection == here.number);
            if !is_new {
                let text = format!("PUBREL id={id} comes twice on one connection");
                self.verdict.add(Rule::Release, &[before, record], text);
            }
        }
        let progress = self.ids.get(&id).map(|one| one.progress);
        match (progress, self.pubrecs.get(&id)) {
            (Some(Progress::Received) | None, _) | (_, None) => {
                let text = format!("PUBREL id={id} comes without PUBREC");
                self.verdict.add(Rule::Release, &[record], text);
            }
            (Some(_), Some(place)) => match here.last_pubrel {
                Some((last, before)) if last > *place => {
                    let text = format!("PUBREL id={id} comes after one whose PUBREC was later");
                    self.verdict.add(Rule::Release, &[before, record], text);
                }
                _ => here.last_pubrel = Some((*place, record)),
            },
        }
        if let Some(one) = self.ids.get_mut(&id)
            && one.progress == Progress::PubrecSent
        {
            one.progress = Progress::Released;
        }
    }

    fn hand_on(&mut self, here: &OnConnection, record: usize, publish: &'a Publish) {
        self.deliveries.push(Delivery {
            session: self.session,
            connection: here.number,
            record,
            message: self.story.message_of(&publish.payload),
            publish,
        });
    }

    fn text(&self, publish: &Publish, what: &str) -> String {
        let client = self.story.sessions[self.session].client;
        let payload = String::from_utf8_lossy(&publish.payload);
        let payload: String = payload.chars().take(40).collect();
        format!("{client}: {payload:?} {what}")
    }
}

fn is_same(one: &Publish, other: &Publish) -> bool {
    one.topic == other.topic && one.payload == other.payload
}

/// 65,535 unless CONNECT says less [MQTT-3.3.4-9]; before 5.0 there is no limit.
fn receive_maximum(connection: &Connection<'_>) -> usize {
    let limit = connection
        .connect
        .and_then(|(_, connect)| connect.receive_maximum);
    usize::from(limit.map_or(u16::MAX, NonZeroU16::get))
}
