//! One connection per client id: the older one is closed [MQTT-3.1.4-3], with DISCONNECT 0x8E in 5.0
//! if with any.

use std::time::Duration;

use codec::{Packet, ProtocolVersion};

use super::Story;
use super::story::Connection;
use super::verdict::{Rule, Verdict};
use crate::cluster::NodeId;
use crate::recording::{End, Event, Fault, Step};

pub(super) fn check(story: &Story<'_>, verdict: &mut Verdict) {
    for connections in story.clients.values() {
        for (position, number) in connections.iter().enumerate() {
            let old = &story.connections[*number];
            let Some((left, End::Superseded)) = old.end else {
                continue;
            };
            let mut later = connections[position + 1..].iter();
            let taken_over = later.find_map(|next| story.connections[*next].connack);
            if let Some((record, _)) = taken_over {
                judge(story, old, (left, record), verdict);
            }
        }
    }
    leftovers(story, verdict);
}

fn judge(
    story: &Story<'_>,
    old: &Connection<'_>,
    (left, taken_over): (usize, usize),
    verdict: &mut Verdict,
) {
    let deadline = story.at(taken_over) + story.settings.slack;
    let in_time = |closed: usize| story.at(closed) <= deadline;
    if old.connack.is_none()
        || old.leftover_closed.is_some_and(in_time)
        || deadline > story.at(story.end())
        || was_disturbed(story, old.node, (left, deadline))
    {
        return;
    }
    let text = format!(
        "{}: its connection to node {} is open although it was taken over",
        old.client, old.node
    );
    verdict.add(Rule::Takeover, &[left, taken_over], text);
}

/// A node that is stopped or cut off closes nothing.
fn was_disturbed(story: &Story<'_>, node: NodeId, (from, until): (usize, Duration)) -> bool {
    let from = story.at(from).saturating_sub(story.settings.slack);
    let mut faults = story.faults.iter();
    faults.any(|(record, fault)| {
        let at = story.at(*record);
        let matters = match fault {
            Fault::Killed(one)
            | Fault::Terminated(one)
            | Fault::Stopped(one)
            | Fault::Woken(one) => *one == node,
            Fault::Cut(from, to) => [*from, *to].contains(&node),
            Fault::Healed => true,
            Fault::Restarted(_) | Fault::Ready(_) => false,
        };
        matters && at >= from && at <= until
    })
}

/// The DISCONNECT that an old connection gets says why.
fn leftovers(story: &Story<'_>, verdict: &mut Verdict) {
    for (record, one) in story.records.iter().enumerate() {
        let Event::Client { client, step, .. } = &one.event else {
            continue;
        };
        let Step::Leftover(packet) = step else {
            continue;
        };
        let Packet::Disconnect(disconnect) = &**packet else {
            continue;
        };
        let version = story.clients.get(&**client).and_then(|connections| {
            let first = connections.first()?;
            Some(story.connections[*first].version())
        });
        if version == Some(ProtocolVersion::V5) && !disconnect.reason_code.is_error() {
            let text = format!("{client}: taken over, and told that all is well");
            verdict.add(Rule::Takeover, &[record], text);
        }
    }
}
