//! Session Present says whether the server kept the session [MQTT-3.2.2-2, MQTT-3.2.2-3].

use std::time::Duration;

use super::Story;
use super::story::Connection;
use super::verdict::{Rule, Verdict};

/// What the client can know of its session on the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exists {
    No,
    Yes,
    /// A CONNECT may or may not have been processed, or the session may have expired.
    Perhaps,
}

pub(super) fn check(story: &Story<'_>, verdict: &mut Verdict) {
    for connections in story.clients.values() {
        let mut exists = Exists::No;
        let mut accepted: Option<&Connection<'_>> = None;
        let mut attempts = 0;
        for connection in connections.iter().map(|one| &story.connections[*one]) {
            let Some((_, connect)) = connection.connect else {
                continue;
            };
            if connection.connack.is_none() {
                attempts += 1;
                exists = match (exists, connect.clean_start) {
                    (Exists::Yes, false) => Exists::Yes,
                    (_, _) => Exists::Perhaps,
                };
                continue;
            }
            if let Some(previous) = accepted {
                exists = match after_expiry(story, exists, previous, connection) {
                    // An attempt that the client knows nothing of may have prolonged its life.
                    Exists::No if attempts > 0 => Exists::Perhaps,
                    exists => exists,
                };
            }
            let expected = if connect.clean_start {
                Exists::No
            } else {
                exists
            };
            judge(connection, expected, verdict);
            exists = Exists::Yes;
            accepted = Some(connection);
            attempts = 0;
        }
    }
}

fn judge(connection: &Connection<'_>, expected: Exists, verdict: &mut Verdict) {
    let Some((record, connack)) = connection.connack else {
        return;
    };
    let expected = match expected {
        Exists::Perhaps => return,
        Exists::No => false,
        Exists::Yes => true,
    };
    if connack.session_present != expected {
        let text = format!(
            "{} is told session_present={}, but its session {}",
            connection.client,
            u8::from(connack.session_present),
            if expected {
                "must be there"
            } else {
                "can't exist"
            }
        );
        verdict.add(Rule::SessionPresent, &[record], text);
    }
}

/// What the Session Expiry Interval of `previous` made of the session by the time of `next`.
fn after_expiry(
    story: &Story<'_>,
    exists: Exists,
    previous: &Connection<'_>,
    next: &Connection<'_>,
) -> Exists {
    let expiry_s = previous.expiry_s();
    if exists == Exists::No || expiry_s == u32::MAX {
        return exists;
    }
    let expiry = Duration::from_secs(u64::from(expiry_s));
    let connect = next
        .connect
        .map_or(Duration::ZERO, |(record, _)| story.at(record));
    let answered = next.connack.map_or(connect, |(record, _)| story.at(record));
    let closed = previous.end.map_or(connect, |(record, _)| story.at(record));
    // The server may have seen the end of the connection as early as this.
    let alive = story.last_received(previous).unwrap_or(closed);
    if connect > closed + expiry + story.settings.slack {
        Exists::No
    } else if expiry.is_zero() || answered > alive + expiry {
        Exists::Perhaps
    } else {
        exists
    }
}
