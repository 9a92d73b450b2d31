//! What a node makes of the effects of its replica: its route table, the packets of its connections,
//! its lanes of outbox items.
//!
//! One such node sees every entry, another one misses some and gets a snapshot instead: both must
//! have told every connection the same.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use raft_store::{CloseReason, Effect, Holder, Incarnation, NodeId};
use session::Resend;

use super::naive_shard::Routes;

/// What one connection was sent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Transcript {
    /// Positions of its PUBLISHes.
    pub(crate) publishes: BTreeSet<u64>,
    pub(crate) sent_position: u64,
    pub(crate) pubrel_position: u64,
    pub(crate) is_closed: bool,
}

impl Transcript {
    /// What is in flight and was not sent on this connection.
    fn catch_up(&mut self, in_flight: &[Resend]) {
        for resend in in_flight {
            match resend {
                Resend::Publish { position, .. } if *position > self.sent_position => {
                    self.publishes.insert(*position);
                }
                Resend::Pubrel {
                    pubrec_position, ..
                } => self.pubrel_position = self.pubrel_position.max(*pubrec_position),
                Resend::Publish { .. } => {}
            }
        }
        let last = self.publishes.last().copied().unwrap_or(0);
        self.sent_position = self.sent_position.max(last);
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct NodeView {
    pub(crate) routes: Routes,
    pub(crate) lives: BTreeMap<NodeId, (Incarnation, bool)>,
    pub(crate) connections: BTreeMap<Holder, Transcript>,
    /// Per life of a node, the number of the last item that it was handed.
    pub(crate) lanes: BTreeMap<(NodeId, Incarnation), u64>,
}

impl NodeView {
    /// The effects of one entry. `is_whole`: this node has missed none.
    pub(crate) fn carry_out(&mut self, effects: &[Effect], is_whole: bool) -> TestCaseResult {
        self.count_routes(effects)?;
        for effect in effects {
            match effect {
                Effect::Resumed { holder, resend, .. } => {
                    let transcript = self.connections.entry(*holder).or_default();
                    prop_assert!(transcript.publishes.is_empty(), "{holder:?} resumes late");
                    transcript.catch_up(resend);
                }
                Effect::Send {
                    holder, position, ..
                } => {
                    let transcript = self.connections.entry(*holder).or_default();
                    prop_assert!(
                        *position > transcript.sent_position,
                        "{holder:?} is sent {position} after {}",
                        transcript.sent_position
                    );
                    transcript.sent_position = *position;
                    transcript.publishes.insert(*position);
                }
                Effect::SendPubrel {
                    holder,
                    pubrec_position: Some(place),
                    ..
                } => {
                    let transcript = self.connections.entry(*holder).or_default();
                    transcript.pubrel_position = transcript.pubrel_position.max(*place);
                }
                Effect::Resync { holder, in_flight } => {
                    let transcript = self.connections.entry(*holder).or_default();
                    transcript.catch_up(in_flight);
                }
                Effect::Close { holder, reason } => {
                    let transcript = self.connections.entry(*holder).or_default();
                    match reason {
                        CloseReason::TakenOver => transcript.is_closed = true,
                        // Of the former, whoever missed it hears nothing: the messages are gone. The
                        // latter concerns a node that is over.
                        CloseReason::QueueFull | CloseReason::NodeDown | CloseReason::Kicked => {}
                    }
                }
                Effect::LiveOutbox {
                    node,
                    incarnation,
                    number,
                    ..
                } => {
                    let last = self.lanes.entry((*node, *incarnation)).or_insert(0);
                    prop_assert!(
                        !is_whole || *number == *last + 1,
                        "lane of {node} goes from {last} to {number}"
                    );
                    *last = (*number).max(*last);
                }
                Effect::NodeUp { node, incarnation } => {
                    self.lives.insert(*node, (*incarnation, false));
                }
                Effect::NodeDown { node, incarnation } => {
                    let known = self.lives.entry(*node).or_insert((*incarnation, true));
                    *known = (*incarnation, true).max(*known);
                }
                Effect::SendPubrel { .. }
                | Effect::FencesOver { .. }
                | Effect::RouteAdded { .. }
                | Effect::RouteRemoved { .. }
                | Effect::Dropped { .. } => {}
            }
        }
        Ok(())
    }

    /// Messages that were sent to connections.
    pub(crate) fn publish_count(&self) -> usize {
        let connections = self.connections.values();
        connections.map(|each| each.publishes.len()).sum()
    }

    pub(crate) fn count_routes(&mut self, effects: &[Effect]) -> TestCaseResult {
        count_routes(effects, &mut self.routes)
    }

    /// A node that missed entries has told every connection what the other one has, unless it was
    /// over by then. `open`: connections with a session, and what is in flight on each.
    pub(crate) fn check_same(
        &self,
        whole: &Self,
        open: &[(Holder, Vec<Resend>)],
    ) -> TestCaseResult {
        prop_assert_eq!(&self.routes, &whole.routes);
        prop_assert_eq!(&self.lives, &whole.lives);
        for (holder, in_flight) in open {
            let told = self.connections.get(holder).cloned().unwrap_or_default();
            for resend in in_flight {
                match resend {
                    Resend::Publish { position, .. } => prop_assert!(
                        told.publishes.contains(position),
                        "{holder:?} was not sent {position}: {told:?}"
                    ),
                    Resend::Pubrel {
                        pubrec_position, ..
                    } => prop_assert!(
                        *pubrec_position <= told.pubrel_position,
                        "{holder:?} has no PUBREL {pubrec_position}: {told:?}"
                    ),
                }
            }
        }
        for (holder, transcript) in &self.connections {
            let there = whole.connections.get(holder);
            let sent = there.map(|there| &there.publishes);
            prop_assert!(
                sent.is_some_and(|sent| transcript.publishes.is_subset(sent)),
                "{holder:?} was sent {transcript:?} and should have been sent {there:?}"
            );
        }
        for (holder, transcript) in &whole.connections {
            let here = self.connections.get(holder);
            // A connection that this node never heard of needs no word to end.
            prop_assert!(
                !transcript.is_closed || here.is_none_or(|here| here.is_closed),
                "{holder:?} was not told to close"
            );
        }
        Ok(())
    }
}

/// Takes the route effects out of `effects`, counting them into `routes`.
pub(crate) fn count_routes(effects: &[Effect], routes: &mut Routes) -> TestCaseResult {
    for effect in effects {
        if let Effect::RouteAdded { filter, target } = effect {
            *routes.entry((filter.clone(), *target)).or_insert(0) += 1;
        } else if let Effect::RouteRemoved { filter, target } = effect {
            let key = (filter.clone(), *target);
            let count = routes.get(&key).copied().unwrap_or(0);
            prop_assert!(count > 0, "{key:?} is removed and was not there");
            if count == 1 {
                routes.remove(&key);
            } else {
                routes.insert(key, count - 1);
            }
        }
    }
    Ok(())
}
