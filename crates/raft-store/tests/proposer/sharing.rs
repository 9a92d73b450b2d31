//! Shared messages and wills among three shards and two nodes, over networks that lose and repeat, under
//! leaders that come and go and know old states: each message begins its way to exactly one member,
//! though places vanish, and each will is published once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use codec::{
    ClientId, Message, MessageProperties, PacketId, Qos, ReasonCode, SubscriptionOptions,
    TopicFilter, TopicName, Will,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::strategy::ValueTree;
use proptest::test_runner::{TestCaseResult, TestRunner};
use raft_store::encoding::decode_command;
use raft_store::{
    Acknowledgement, Applied, Batch, Command, Connect, ConnectionId, Effect, Ending, Epoch, Holder,
    Incarnation, Machine, NodeId, OutboxTarget, ProposerCore, ProposerId, Response, ShardId,
    encode_command,
};
use session::{Body, SessionLimits, StoredMessage, Subscription};

use super::raft::{Fault, Raft, client_id, fault, idempotent};
use super::seeded;

const SHARDS: usize = 3;
const NODES: usize = 2;
const MEMBERS: usize = 5;
const SHARE: &str = "$share/g/t";
/// Where connections live that this test does not end.
const ELSEWHERE: (NodeId, Incarnation) = (NodeId(9), Incarnation(1));

type Life = (NodeId, Incarnation);

#[derive(Clone, Debug)]
enum Step {
    /// A shared message, for the place that its publisher picked.
    Publish {
        shard: usize,
        place: Place,
    },
    /// A client with a will is lost.
    Lose {
        shard: usize,
    },
    /// A member connects and subscribes, or leaves in one of several ways.
    Join(usize),
    Leave(usize, Leaving),
    /// A member acknowledges everything that it was sent.
    Acknowledge(usize),
    /// Leaders, and nodes that take themselves for one.
    Cut {
        way: (usize, usize),
        count: usize,
        stale: bool,
    },
    Learn {
        way: (usize, usize),
        answer: Index,
    },
    Record {
        way: (usize, usize),
    },
    Place {
        shard: usize,
        item: Index,
        place: Place,
        stale: bool,
    },
    PublishWills {
        shard: usize,
        stale: bool,
    },
    NewLeader {
        shard: usize,
    },
    CatchUp {
        shard: usize,
        count: usize,
    },
    /// A node proposes to a shard what waits, or refuses for want of a member.
    Propose {
        node: usize,
        shard: usize,
    },
    Refuse {
        node: usize,
        item: Index,
    },
    Restart {
        node: usize,
    },
    Fault {
        shard: usize,
        fault: Fault,
    },
    /// Everything on its way to a shard arrives.
    Heal {
        shard: usize,
    },
}

#[derive(Clone, Copy, Debug)]
enum Place {
    Shard(usize),
    Node(usize),
    /// A life that may be over.
    FormerNode(usize),
}

#[derive(Clone, Copy, Debug)]
enum Leaving {
    Unsubscribe,
    Disconnect,
    EndSession,
}

fn place() -> impl Strategy<Value = Place> {
    prop_oneof![
        4 => (0..SHARDS).prop_map(Place::Shard),
        2 => (0..NODES).prop_map(Place::Node),
        1 => (0..NODES).prop_map(Place::FormerNode),
    ]
}

fn leaving() -> impl Strategy<Value = Leaving> {
    prop_oneof![
        Just(Leaving::Unsubscribe),
        Just(Leaving::Disconnect),
        Just(Leaving::EndSession),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let shard = || 0..SHARDS;
    let way = || (0..SHARDS, 0..SHARDS);
    let stale = any::<bool>;
    prop_oneof![
        9 => (shard(), place()).prop_map(|(shard, place)| Step::Publish { shard, place }),
        1 => shard().prop_map(|shard| Step::Lose { shard }),
        3 => (0..MEMBERS).prop_map(Step::Join),
        3 => (0..MEMBERS, leaving()).prop_map(|(member, how)| Step::Leave(member, how)),
        2 => (0..MEMBERS).prop_map(Step::Acknowledge),
        8 => (way(), 1..4_usize, stale())
            .prop_map(|(way, count, stale)| Step::Cut { way, count, stale }),
        6 => (way(), any::<Index>()).prop_map(|(way, answer)| Step::Learn { way, answer }),
        4 => way().prop_map(|way| Step::Record { way }),
        4 => (shard(), any::<Index>(), place(), stale())
            .prop_map(|(shard, item, place, stale)| Step::Place { shard, item, place, stale }),
        4 => (shard(), stale()).prop_map(|(shard, stale)| Step::PublishWills { shard, stale }),
        1 => shard().prop_map(|shard| Step::NewLeader { shard }),
        2 => (shard(), 1..6_usize).prop_map(|(shard, count)| Step::CatchUp { shard, count }),
        4 => (0..NODES, shard()).prop_map(|(node, shard)| Step::Propose { node, shard }),
        2 => (0..NODES, any::<Index>()).prop_map(|(node, item)| Step::Refuse { node, item }),
        1 => (0..NODES).prop_map(|node| Step::Restart { node }),
        24 => (shard(), fault()).prop_map(|(shard, fault)| Step::Fault { shard, fault }),
        4 => shard().prop_map(|shard| Step::Heal { shard }),
    ]
}

/// How far the leader of a source knows a target to be.
#[derive(Clone, Debug, Default)]
struct Known {
    upto: u64,
    refused: BTreeSet<u64>,
}

struct Shard {
    id: ShardId,
    raft: Raft,
    /// Applies what is committed at once.
    machine: Machine,
    applied: usize,
    behind: Machine,
    behind_applied: usize,
    /// What its leader knows of each target.
    known: BTreeMap<ShardId, Known>,
    published: u16,
}

/// A target's answer to a batch: first and last number, and all that it refused.
type Answer = (u64, u64, Vec<u64>);
/// An item of a node's lane in the outbox of a shard.
type LaneItem = (ShardId, u64);

struct Node {
    life: Life,
    /// Of each item that waits to be claimed, the message.
    offered: BTreeMap<LaneItem, u64>,
    cores: Vec<ProposerCore<Option<LaneItem>>>,
}

struct Sharing {
    shards: Vec<Shard>,
    nodes: Vec<Node>,
    lives: u64,
    connections: u64,
    messages: u64,
    wills: u64,
    members: Vec<Option<Epoch>>,
    /// What clients were sent and have not acknowledged.
    in_flight: BTreeMap<ClientId, BTreeSet<PacketId>>,
    /// What each target answered: first and last number, and what it refused.
    answers: BTreeMap<(ShardId, ShardId), Vec<Answer>>,
    /// Whose connection each is.
    owners: BTreeMap<ConnectionId, ClientId>,
    /// The messages of all lanes that ever were.
    lanes: BTreeMap<(Life, LaneItem), u64>,
    /// Items that are claimed in the log, and how often their node handed them to a member.
    claimed: BTreeMap<(Life, LaneItem), u32>,
    /// How often each message was sent to a member.
    begun: BTreeMap<u64, u32>,
    wills_received: BTreeMap<u64, u32>,
    /// Answers, and how often they were given.
    seen: BTreeMap<&'static str, u32>,
}

fn message(topic: &str, number: u64) -> Message {
    Message {
        topic: TopicName::try_from(topic).unwrap(),
        payload: Bytes::from(number.to_string()),
        qos: Qos::ExactlyOnce,
        retain: false,
        properties: MessageProperties::default(),
    }
}

fn number_in(message: &Message) -> u64 {
    let text = std::str::from_utf8(&message.payload).unwrap();
    text.parse().unwrap()
}

/// A message's content, which replicas that were never restarted have in memory.
fn content(body: &Body) -> Arc<StoredMessage> {
    match body {
        Body::Here(stored) => Arc::clone(stored),
        Body::Stored(name) => panic!("{name:?} is in no memory"),
    }
}

/// What a leader of `source` sends to `target`: items behind `after`.
fn items_of(
    machine: &Machine,
    (source, target): (ShardId, ShardId),
    after: u64,
    count: usize,
) -> Option<Batch> {
    let lane = OutboxTarget::Shard(target);
    let items = machine.outbox_items(lane, after, count, usize::MAX);
    let (first, _) = *items.front()?;
    let now = machine.time();
    let items = items.into_iter().map(|(_, item)| {
        let content = content(&item.body);
        item.into_item(content, now)
    });
    let command = Command::TakeOutbox {
        source,
        settled: machine.outbox_settled(lane),
        first,
        items: items.collect(),
    };
    let batch = idempotent(vec![encode_command(&command)]);
    let proposer = ProposerId::Outbox { source };
    Some(Batch { proposer, ..batch })
}

fn filter(text: &str) -> TopicFilter {
    TopicFilter::try_from(text).unwrap()
}

fn member(number: usize) -> ClientId {
    client_id(&format!("member {number}"))
}

impl Shard {
    fn new(id: ShardId) -> Self {
        Self {
            id,
            raft: Raft::default(),
            machine: Machine::new(id),
            applied: 0,
            behind: Machine::new(id),
            behind_applied: 0,
            known: BTreeMap::new(),
            published: 0,
        }
    }

    fn leader(&self, stale: bool) -> &Machine {
        if stale { &self.behind } else { &self.machine }
    }

    /// Puts a command on its way to the log.
    fn propose(&mut self, command: &Command) {
        let batch = idempotent(vec![encode_command(command)]);
        self.raft.network.push(batch);
    }
}

impl Sharing {
    fn new() -> Result<Self, TestCaseError> {
        let mut sharing = Self {
            shards: (0..SHARDS as u16)
                .map(|id| Shard::new(ShardId(id)))
                .collect(),
            nodes: Vec::new(),
            lives: 0,
            connections: 0,
            messages: 0,
            wills: 0,
            members: vec![None; MEMBERS],
            in_flight: BTreeMap::new(),
            answers: BTreeMap::new(),
            owners: BTreeMap::new(),
            lanes: BTreeMap::new(),
            claimed: BTreeMap::new(),
            begun: BTreeMap::new(),
            wills_received: BTreeMap::new(),
            seen: BTreeMap::new(),
        };
        for node in 0..NODES {
            let node = sharing.begin_life(node);
            sharing.nodes.push(node);
        }
        for shard in 0..SHARDS {
            sharing.connect(shard, &client_id("publisher"), u16::MAX, None)?;
        }
        let epoch = sharing.connect(0, &client_id("mourner"), u16::MAX, None)?;
        sharing.subscribe(0, &client_id("mourner"), epoch, "will")?;
        Ok(sharing)
    }

    fn begin_life(&mut self, node: usize) -> Node {
        self.lives += 1;
        let (node, incarnation) = (NodeId(node as u16 + 1), Incarnation(self.lives));
        let proposer = ProposerId::Node { node, incarnation };
        let cores = (0..SHARDS).map(|_| {
            let mut core = ProposerCore::new(proposer);
            core.submit(encode_command(&Command::Hello), None);
            core
        });
        Node {
            life: (node, incarnation),
            offered: BTreeMap::new(),
            cores: cores.collect(),
        }
    }

    fn target(&self, place: Place) -> OutboxTarget {
        match place {
            Place::Shard(shard) => OutboxTarget::Shard(self.shards[shard].id),
            Place::Node(node) => {
                let (node, life) = self.nodes[node].life;
                OutboxTarget::Node(node, life)
            }
            Place::FormerNode(node) => {
                let former = Incarnation(node as u64 + 1);
                OutboxTarget::Node(NodeId(node as u16 + 1), former)
            }
        }
    }

    // What clients do is committed at once: their nodes' streams are another test's subject.

    fn commit(&mut self, shard: usize, command: &Command) -> Result<Response, TestCaseError> {
        self.observe(shard)?;
        let batch = idempotent(vec![encode_command(command)]);
        self.shards[shard].raft.log.push(batch);
        let applied = self.observe(shard)?;
        Ok(applied.last().unwrap().answers[0].clone())
    }

    fn connect(
        &mut self,
        shard: usize,
        client_id: &ClientId,
        inflight_max: u16,
        will: Option<Will>,
    ) -> Result<Epoch, TestCaseError> {
        self.connections += 1;
        let (node, incarnation) = ELSEWHERE;
        let connection = ConnectionId(self.connections);
        self.owners.insert(connection, client_id.clone());
        let holder = Holder {
            node,
            incarnation,
            connection,
        };
        let limits = SessionLimits {
            inflight_max,
            receive_maximum: u16::MAX,
            ..SessionLimits::default()
        };
        let connect = Connect {
            client_id: client_id.clone(),
            holder,
            clean_start: false,
            session_expiry_interval_s: u32::MAX,
            receive_maximum: u16::MAX,
            limits,
            will,
            owner: None,
        };
        let answer = self.commit(shard, &Command::Connect(Box::new(connect)))?;
        match answer {
            Response::Connected { epoch, .. } => Ok(epoch),
            other => Err(TestCaseError::fail(format!("{other:?}"))),
        }
    }

    fn subscribe(
        &mut self,
        shard: usize,
        client_id: &ClientId,
        epoch: Epoch,
        text: &str,
    ) -> TestCaseResult {
        let subscription = Subscription {
            options: SubscriptionOptions::new(Qos::ExactlyOnce),
            identifier: None,
        };
        let subscribe = Command::Subscribe {
            client_id: client_id.clone(),
            epoch,
            filters: vec![(filter(text), subscription)],
            reads_retained: false,
        };
        self.commit(shard, &subscribe)?;
        Ok(())
    }

    fn publish(&mut self, shard: usize, place: Place) -> TestCaseResult {
        self.messages += 1;
        self.begun.insert(self.messages, 0);
        self.shards[shard].published += 1;
        let packet_id = PacketId::new(self.shards[shard].published).unwrap();
        let (client_id, epoch) = (client_id("publisher"), Epoch(1));
        let target = self.target(place);
        let receive = Command::ReceiveExactlyOnce {
            client_id: client_id.clone(),
            epoch,
            packet_id,
            message: message("t", self.messages),
            shards: Vec::new(),
            nodes: Vec::new(),
            retained_version: None,
            shared: vec![(filter(SHARE), target)],
        };
        let first = self.commit(shard, &receive)?;
        prop_assert_eq!(first, Response::Received { first: true });
        let again = self.commit(shard, &receive)?;
        prop_assert_eq!(again, Response::Received { first: false });
        let release = Command::Release {
            client_id,
            epoch,
            packet_id,
        };
        self.commit(shard, &release)?;
        Ok(())
    }

    fn lose(&mut self, shard: usize) -> TestCaseResult {
        self.wills += 1;
        let will = Will {
            message: message("will", self.wills),
            delay_interval_s: 0,
        };
        let client_id = client_id("mortal");
        let epoch = self.connect(shard, &client_id, 1, Some(will))?;
        self.disconnect(shard, &client_id, epoch, Some(0))
    }

    fn disconnect(
        &mut self,
        shard: usize,
        client_id: &ClientId,
        epoch: Epoch,
        session_expiry_interval_s: Option<u32>,
    ) -> TestCaseResult {
        let disconnect = Command::Disconnect {
            client_id: client_id.clone(),
            epoch,
            session_expiry_interval_s,
            ending: Ending::Abnormal,
        };
        self.commit(shard, &disconnect)?;
        Ok(())
    }

    fn join(&mut self, number: usize, inflight_max: u16) -> TestCaseResult {
        let (shard, client_id) = (number % SHARDS, member(number));
        if let Some(former) = self.members[number].take() {
            self.disconnect(shard, &client_id, former, None)?;
        }
        let epoch = self.connect(shard, &client_id, inflight_max, None)?;
        self.members[number] = Some(epoch);
        self.subscribe(shard, &client_id, epoch, SHARE)
    }

    fn leave(&mut self, number: usize, how: Leaving) -> TestCaseResult {
        let (shard, client_id) = (number % SHARDS, member(number));
        let Some(epoch) = self.members[number] else {
            return Ok(());
        };
        match how {
            Leaving::Unsubscribe => {
                let filters = vec![filter(SHARE)];
                let unsubscribe = Command::Unsubscribe {
                    client_id,
                    epoch,
                    filters,
                };
                self.commit(shard, &unsubscribe)?;
                return Ok(());
            }
            Leaving::Disconnect => self.disconnect(shard, &client_id, epoch, None)?,
            Leaving::EndSession => {
                self.disconnect(shard, &client_id, epoch, Some(0))?;
                self.in_flight.remove(&client_id);
            }
        }
        self.members[number] = None;
        Ok(())
    }

    fn acknowledge(&mut self, number: usize) -> Result<bool, TestCaseError> {
        let client_id = member(number);
        let Some(epoch) = self.members[number] else {
            return Ok(false);
        };
        let ids = self.in_flight.remove(&client_id).unwrap_or_default();
        let acknowledgements: Vec<_> = ids
            .into_iter()
            .flat_map(|id| {
                [
                    Acknowledgement::Pubrec(id, ReasonCode::Success),
                    Acknowledgement::Pubcomp(id),
                ]
            })
            .collect();
        let is_some = !acknowledgements.is_empty();
        let acknowledge = Command::Acknowledge {
            client_id,
            epoch,
            acknowledgements,
        };
        self.commit(number % SHARDS, &acknowledge)?;
        Ok(is_some)
    }

    // What follows from committed entries.

    fn observe(&mut self, shard: usize) -> Result<Vec<Applied>, TestCaseError> {
        let mut all = Vec::new();
        while self.shards[shard].applied < self.shards[shard].raft.log.len() {
            let Shard {
                machine,
                applied: index,
                raft,
                ..
            } = &mut self.shards[shard];
            let batch = raft.log[*index].clone();
            *index += 1;
            let applied = machine.apply(*index as u64, &batch);
            self.watch(shard, &batch, &applied)?;
            all.push(applied);
        }
        Ok(all)
    }

    fn watch(&mut self, shard: usize, batch: &Batch, applied: &Applied) -> TestCaseResult {
        let id = self.shards[shard].id;
        let commands = batch
            .commands
            .iter()
            .map(|bytes| decode_command(bytes.clone()));
        for (command, answer) in commands.zip(applied.answers.iter()) {
            let command = command.unwrap();
            let kind = match (&command, answer) {
                (Command::TakeOutbox { .. }, Response::TookOutbox { refused }) => {
                    if refused.is_empty() {
                        "taken"
                    } else {
                        "refused"
                    }
                }
                (Command::Claim { .. }, Response::Claimed { claimed: true }) => "claimed",
                (Command::Claim { .. }, _) => "claimed in vain",
                (Command::Place { .. }, Response::Claimed { claimed: true }) => "placed",
                (Command::Place { .. }, _) => "placed in vain",
                (Command::PublishWill { .. }, Response::Claimed { claimed: true }) => "will",
                (Command::PublishWill { .. }, _) => "will in vain",
                (_, _) => "something else",
            };
            *self.seen.entry(kind).or_insert(0) += 1;
            match (command, answer) {
                (
                    Command::TakeOutbox {
                        source,
                        first,
                        items,
                        ..
                    },
                    Response::TookOutbox { refused },
                ) => {
                    let last = first + items.len() as u64 - 1;
                    let answers = self.answers.entry((source, id)).or_default();
                    answers.push((first, last, refused.clone()));
                }
                (Command::Claim { target, number }, Response::Claimed { claimed: true }) => {
                    let OutboxTarget::Node(node, life) = target else {
                        return Err(TestCaseError::fail("claimed of no node"));
                    };
                    self.claimed
                        .entry(((node, life), (id, number)))
                        .or_insert(0);
                }
                (_, _) => {}
            }
        }
        for effect in &applied.effects {
            self.carry_out(id, effect)?;
        }
        for node in 0..NODES {
            let (of, incarnation) = self.nodes[node].life;
            let proposer = ProposerId::Node {
                node: of,
                incarnation,
            };
            if applied.proposer == proposer {
                let core = &mut self.nodes[node].cores[shard];
                let answers = core.on_answers(applied.sequence, &applied.answers);
                for (item, answer) in answers {
                    self.on_claim(node, item, &answer)?;
                }
            }
        }
        Ok(())
    }

    fn carry_out(&mut self, shard: ShardId, effect: &Effect) -> TestCaseResult {
        match effect {
            Effect::Send {
                packet_id,
                delivery,
                holder,
                ..
            } => {
                let number = number_in(&content(&delivery.body).message);
                if delivery.share.is_some() {
                    self.begin(number)?;
                    let owner = self.owners[&holder.connection].clone();
                    self.in_flight.entry(owner).or_default().insert(*packet_id);
                } else {
                    let received = self.wills_received.entry(number).or_insert(0);
                    *received += 1;
                    prop_assert_eq!(*received, 1, "will {} comes twice", number);
                }
            }
            Effect::LiveOutbox {
                node,
                incarnation,
                number,
                item,
            } => {
                let message = number_in(&content(&item.body).message);
                let life = (*node, *incarnation);
                self.lanes.insert((life, (shard, *number)), message);
                if let Some(node) = self.nodes.iter_mut().find(|node| node.life == life) {
                    let item = (shard, *number);
                    node.offered.insert(item, message);
                    let target = OutboxTarget::Node(life.0, life.1);
                    let number = *number;
                    let claim = encode_command(&Command::Claim { target, number });
                    node.cores[usize::from(shard.0)].submit(claim, Some(item));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// A message is sent to a member for the first time, or a node hands it to one.
    fn begin(&mut self, number: u64) -> TestCaseResult {
        let begun = self.begun.get_mut(&number).unwrap();
        *begun += 1;
        prop_assert_eq!(*begun, 1, "{} goes to two members", number);
        Ok(())
    }

    fn on_claim(
        &mut self,
        node: usize,
        item: Option<LaneItem>,
        answer: &Response,
    ) -> TestCaseResult {
        let Some(item) = item else {
            return Ok(());
        };
        let life = self.nodes[node].life;
        let message = self.nodes[node].offered.remove(&item);
        if *answer == (Response::Claimed { claimed: true }) {
            let handed = self.claimed.get_mut(&(life, item)).unwrap();
            *handed += 1;
            prop_assert_eq!(*handed, 1, "{:?} is handed over twice", item);
            self.begin(message.unwrap())?;
        }
        Ok(())
    }

    fn step(&mut self, step: &Step) -> TestCaseResult {
        match *step {
            Step::Publish { shard, place } => self.publish(shard, place)?,
            Step::Lose { shard } => self.lose(shard)?,
            Step::Join(member) => self.join(member, 1)?,
            Step::Leave(member, how) => self.leave(member, how)?,
            Step::Acknowledge(member) => {
                self.acknowledge(member)?;
            }
            Step::Cut { way, count, stale } => self.cut(way, count, stale),
            Step::Learn { way, ref answer } => self.learn(way, |count| answer.index(count)),
            Step::Record { way } => self.record(way),
            Step::Place {
                shard,
                ref item,
                place,
                stale,
            } => self.place(shard, |count| item.index(count), place, stale),
            Step::PublishWills { shard, stale } => self.publish_wills(shard, stale),
            Step::NewLeader { shard } => self.shards[shard].known.clear(),
            Step::CatchUp { shard, count } => self.catch_up(shard, count),
            Step::Propose { node, shard } => self.propose(node, shard),
            Step::Refuse { node, ref item } => self.refuse(node, item),
            Step::Restart { node } => self.nodes[node] = self.begin_life(node),
            Step::Fault { shard, ref fault } => self.shards[shard].raft.suffer(fault),
            Step::Heal { shard } => self.shards[shard].raft.heal(),
        }
        (0..SHARDS).try_for_each(|shard| self.observe(shard).map(|_| ()))
    }

    // Leaders.

    fn cut(&mut self, (from, to): (usize, usize), count: usize, stale: bool) {
        let source = &mut self.shards[from];
        let target = ShardId(to as u16);
        let after = source.known.get(&target).map_or(0, |known| known.upto);
        let way = (source.id, target);
        let batch = items_of(source.leader(stale), way, after, count);
        self.shards[to].raft.network.extend(batch);
    }

    /// The leader of the source hears of an answer. What lies between it and what it knows, it has to
    /// ask for first.
    fn learn(&mut self, (from, to): (usize, usize), pick: impl Fn(usize) -> usize) {
        let (source, target) = (ShardId(from as u16), ShardId(to as u16));
        let answers = self.answers.entry((source, target)).or_default();
        if answers.is_empty() {
            return;
        }
        let (first, last, refused) = answers[pick(answers.len())].clone();
        let shard = &mut self.shards[from];
        let settled = shard.machine.outbox_settled(OutboxTarget::Shard(target));
        let known = shard.known.entry(target).or_default();
        known.upto = known.upto.max(settled);
        if first <= known.upto + 1 {
            known.upto = known.upto.max(last);
            known.refused.extend(refused);
        }
    }

    fn record(&mut self, (from, to): (usize, usize)) {
        let target = ShardId(to as u16);
        let Some(Known { upto, refused }) = self.shards[from].known.get(&target).cloned() else {
            return;
        };
        let taken = Command::Taken {
            target: OutboxTarget::Shard(target),
            upto,
            refused: refused.into_iter().collect(),
        };
        self.shards[from].propose(&taken);
    }

    fn place(&mut self, shard: usize, pick: impl Fn(usize) -> usize, place: Place, stale: bool) {
        let to = Some(self.target(place));
        let leader = self.shards[shard].leader(stale);
        let items = leader.outbox_items(OutboxTarget::Unplaced, 0, usize::MAX, usize::MAX);
        if !items.is_empty() {
            let (number, _) = items[pick(items.len())];
            self.shards[shard].propose(&Command::Place { number, to });
        }
    }

    fn publish_wills(&mut self, shard: usize, stale: bool) {
        let leader = self.shards[shard].leader(stale);
        let now = codec::Timestamp::MAX;
        for due in leader.due_wills(now, 2) {
            let publish = Command::PublishWill {
                epoch: due.epoch,
                retained_version: None,
                shards: vec![ShardId::ZERO],
                nodes: Vec::new(),
                shared: Vec::new(),
            };
            self.shards[shard].propose(&publish);
        }
    }

    fn catch_up(&mut self, shard: usize, count: usize) {
        let shard = &mut self.shards[shard];
        let upto = shard.raft.log.len().min(shard.behind_applied + count);
        for index in shard.behind_applied..upto {
            shard.behind.apply(index as u64 + 1, &shard.raft.log[index]);
        }
        shard.behind_applied = upto;
    }

    // Nodes.

    fn propose(&mut self, node: usize, shard: usize) {
        let core = &mut self.nodes[node].cores[shard];
        let batch = core.in_flight().cloned().or_else(|| core.next_batch());
        self.shards[shard].raft.network.extend(batch);
    }

    /// A node without a member refuses what it has not asked for yet.
    fn refuse(&mut self, node: usize, item: &Index) {
        let Node { life, offered, .. } = &mut self.nodes[node];
        if offered.is_empty() {
            return;
        }
        let (shard, number) = *offered.keys().nth(item.index(offered.len())).unwrap();
        let taken = Command::Taken {
            target: OutboxTarget::Node(life.0, life.1),
            upto: 0,
            refused: vec![number],
        };
        self.shards[usize::from(shard.0)].propose(&taken);
    }

    /// The faults end, and members stay: everything arrives.
    fn settle(&mut self) -> TestCaseResult {
        for number in 0..MEMBERS {
            self.join(number, u16::MAX)?;
        }
        let mut rounds = 0;
        while self.is_busy() {
            rounds += 1;
            prop_assert!(rounds < 300, "something stands still");
            for shard in 0..SHARDS {
                self.shards[shard].known.clear();
                self.publish_wills(shard, false);
                self.place(shard, |_| 0, Place::Shard(0), false);
                for node in 0..NODES {
                    self.propose(node, shard);
                }
                for target in 0..SHARDS {
                    self.drain((shard, target))?;
                }
                self.shards[shard].raft.heal();
                self.observe(shard)?;
            }
            for number in 0..MEMBERS {
                while self.acknowledge(number)? {}
            }
        }
        self.check_all_arrived()
    }

    fn drain(&mut self, (from, to): (usize, usize)) -> TestCaseResult {
        let settled = OutboxTarget::Shard(ShardId(to as u16));
        let upto = self.shards[from].machine.outbox_settled(settled);
        let known = Known {
            upto,
            refused: BTreeSet::new(),
        };
        self.shards[from].known.insert(ShardId(to as u16), known);
        self.cut((from, to), 3, false);
        self.shards[to].raft.heal();
        self.observe(to)?;
        self.learn((from, to), |count| count - 1);
        self.record((from, to));
        Ok(())
    }

    fn is_busy(&self) -> bool {
        let is_waiting = |shard: &Shard| {
            !shard.machine.outbox_targets().is_empty()
                || !shard.machine.due_wills(codec::Timestamp::MAX, 1).is_empty()
                || !shard.raft.network.is_empty()
        };
        let is_proposing = |node: &Node| {
            let mut cores = node.cores.iter();
            cores.any(|core| core.in_flight().is_some() || core.waiting_bytes() > 0)
        };
        self.shards.iter().any(is_waiting) || self.nodes.iter().any(is_proposing)
    }

    /// Each message began once; unless a node claimed it and died before it handed it on.
    fn check_all_arrived(&self) -> TestCaseResult {
        let mut lost = BTreeMap::new();
        for ((life, item), handed) in &self.claimed {
            let is_over = !self.nodes.iter().any(|node| node.life == *life);
            if *handed == 0 && is_over {
                *lost.entry(self.lanes[&(*life, *item)]).or_insert(0) += 1;
            }
        }
        for (number, begun) in &self.begun {
            let lost = lost.get(number).copied().unwrap_or(0);
            prop_assert_eq!(*begun + lost, 1, "message {}", number);
        }
        let received = self.wills_received.keys().copied();
        prop_assert!(received.eq(1..=self.wills), "{:?}", self.wills_received);
        Ok(())
    }
}

#[test]
fn each_shared_message_goes_to_one_member_and_each_will_is_published_once() {
    seeded::check(400, vec(step(), 1..250), |steps| {
        let mut sharing = Sharing::new()?;
        for step in &steps {
            sharing.step(step)?;
        }
        sharing.settle()
    });
}

/// The steps are not so tame that something is never reached.
#[test]
fn places_vanish_and_leaders_repeat_themselves() {
    let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
    let mut runner = TestRunner::deterministic();
    for _ in 0..40 {
        let steps = vec(step(), 200..250).new_tree(&mut runner).unwrap();
        let mut sharing = Sharing::new().unwrap();
        for step in steps.current() {
            sharing.step(&step).unwrap();
        }
        for (kind, count) in sharing.seen {
            *seen.entry(kind).or_insert(0) += count;
        }
    }
    for kind in [
        "taken",
        "refused",
        "claimed",
        "claimed in vain",
        "placed",
        "placed in vain",
        "will",
        "will in vain",
    ] {
        let count = seen.get(kind).copied().unwrap_or(0);
        assert!(count >= 10, "{kind} was seen {count} times: {seen:?}");
    }
}
