//! Clients: who is connected where, and the sessions of those who are not.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::State;
use axum::response::Response;
use raft_store::{Holder, SessionView, ShardId, StoredSession};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Answers;
use super::cursor;
use super::problem::{Problem, ok};
use super::request::{Name, NoParams, Params, limit};
use super::walk::Walk;
use crate::calendar::rfc_3339;
use crate::pattern::is_like;
use crate::proto::query::Connection;
use crate::query::{Cluster, Connections};

/// Clients that one request looks at; with a filter that fits few, the page is short and has a cursor.
const LOOKED_AT_MAX: usize = 50_000;
/// After so many, other tasks of this thread get their turn.
const LOOKED_AT_ONCE: usize = 1_024;
/// How long a kick waits until the connection is recorded closed.
const CLOSED_WITHIN: Duration = Duration::from_secs(3);
const CLOSED_LOOK: Duration = Duration::from_millis(10);

/// `?limit&cursor&filter`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListParams {
    limit: Option<u32>,
    cursor: Option<String>,
    filter: Option<String>,
}

/// Behind whom the next page begins.
#[derive(Debug, Serialize, Deserialize)]
struct Place {
    client_id: String,
}

/// `client=sensor-*,user=alice,node=2,connected=true`: what all must hold.
#[derive(Debug, Default, PartialEq, Eq)]
struct Filter {
    client: Option<String>,
    /// Whose session it is; nothing stands for clients without a user name.
    user: Option<String>,
    node: Option<u16>,
    connected: Option<bool>,
}

impl Filter {
    fn parse(text: &str) -> Result<Self, Problem> {
        let wrong = || {
            Problem::bad_request(
                "filter is a list such as client=sensor-*,user=alice,node=2,connected=true",
            )
        };
        let mut filter = Self::default();
        for condition in text.split(',').filter(|condition| !condition.is_empty()) {
            let (key, value) = condition.split_once('=').ok_or_else(wrong)?;
            match key {
                "client" => filter.client = Some(value.to_owned()),
                "user" => filter.user = Some(value.to_owned()),
                "node" => filter.node = Some(value.parse().ok().ok_or_else(wrong)?),
                "connected" => filter.connected = Some(value.parse().ok().ok_or_else(wrong)?),
                _ => return Err(wrong()),
            }
        }
        Ok(filter)
    }

    fn fits(&self, view: &SessionView) -> bool {
        let client = self.client.as_deref();
        let user = self.user.as_deref();
        let owner = view.owner.as_ref().map_or("", codec::Utf8::as_str);
        let node = view.holder.map(|holder| holder.node.0);
        client.is_none_or(|pattern| is_like(pattern, view.client_id.as_str()))
            && user.is_none_or(|pattern| is_like(pattern, owner))
            && self.node.is_none_or(|wanted| node == Some(wanted))
            && self
                .connected
                .is_none_or(|wanted| view.holder.is_some() == wanted)
    }
}

/// `GET /clients`
pub(super) async fn list(
    State(answers): State<Arc<Answers>>,
    Params(params): Params<ListParams>,
) -> Result<Response, Problem> {
    let cluster = answers.cluster()?;
    let limit = limit(params.limit)?;
    let filter = Filter::parse(params.filter.as_deref().unwrap_or_default())?;
    let place: Option<Place> = cursor::decode(params.cursor.as_deref())?;
    let after = place
        .map(|place| Name(place.client_id).client_id())
        .transpose()?;
    let mut views: Vec<(ShardId, SessionView)> = Vec::new();
    let mut last = after.clone();
    let mut looked_at = 0_usize;
    let mut has_more = false;
    let read = (
        raft_store::Machine::sessions_after as fn(&_, Option<&_>, usize) -> _,
        (|view: &SessionView| &view.client_id) as fn(&SessionView) -> &codec::ClientId,
    );
    for (shard, view) in Walk::new(&cluster.broker, read, after.as_ref(), limit) {
        if views.len() == limit || looked_at == LOOKED_AT_MAX {
            has_more = true;
            break;
        }
        looked_at = looked_at.saturating_add(1);
        if looked_at.is_multiple_of(LOOKED_AT_ONCE) {
            tokio::task::yield_now().await;
        }
        last = Some(view.client_id.clone());
        if filter.fits(&view) {
            views.push((shard, view));
        }
    }
    let holders = views.iter().filter_map(|(_, view)| view.holder);
    let connections = cluster.connections(holders, false).await;
    let clients: Vec<Value> = views
        .iter()
        .map(|(shard, view)| describe(*shard, view, &connections))
        .collect();
    let mut answer = json!({ "clients": clients, "incomplete": incomplete(&connections) });
    if has_more && let (Some(last), Value::Object(answer)) = (last, &mut answer) {
        let place = Place {
            client_id: last.as_str().to_owned(),
        };
        answer.insert("next_cursor".to_owned(), json!(cursor::encode(&place)));
    }
    Ok(ok(&answer))
}

/// `GET /clients/{id}`
pub(super) async fn one(
    State(answers): State<Arc<Answers>>,
    name: Name,
    _: Params<NoParams>,
) -> Result<Response, Problem> {
    let cluster = answers.cluster()?;
    let (shard, view) = find(cluster, &name)?;
    let connections = cluster.connections(view.holder, false).await;
    let mut answer = describe(shard, &view, &connections);
    if let Value::Object(answer) = &mut answer {
        answer.insert("incomplete".to_owned(), incomplete(&connections));
    }
    Ok(ok(&answer))
}

/// `DELETE /clients/{id}`: closes the connection, and leaves the session.
pub(super) async fn kick(
    State(answers): State<Arc<Answers>>,
    name: Name,
    _: Params<NoParams>,
) -> Result<Response, Problem> {
    let cluster = answers.cluster()?;
    let (_, view) = find(cluster, &name)?;
    let Some(holder) = view.holder else {
        return Err(Problem::conflict("the client is not connected"));
    };
    let closed = close(cluster, &view, holder).await?;
    Ok(ok(&json!({ "node": holder.node.0, "closed": closed })))
}

/// Closes the connection of a client. True: this node's replica has it recorded closed.
pub(super) async fn close(
    cluster: &Cluster,
    view: &SessionView,
    holder: Holder,
) -> Result<bool, Problem> {
    let kicked = cluster.kick(holder).await;
    kicked.map_err(|unreachable| Problem::unreachable(unreachable.0))?;
    let is_open = || {
        let shard = cluster.broker.shard_of(&view.client_id);
        let now =
            cluster.broker.shards.shard(shard).and_then(|shard| {
                shard.with_machine(|machine| machine.session_view(&view.client_id))
            });
        now.is_some_and(|now| now.holder == Some(holder))
    };
    let deadline = tokio::time::Instant::now() + CLOSED_WITHIN;
    while is_open() {
        if tokio::time::Instant::now() >= deadline {
            return Ok(false);
        }
        tokio::time::sleep(CLOSED_LOOK).await;
    }
    Ok(true)
}

/// The client of that name, which is registered in its shard if it is connected or has a session.
pub(super) fn find(cluster: &Cluster, name: &Name) -> Result<(ShardId, SessionView), Problem> {
    let client_id = name.client_id()?;
    let shard = cluster.broker.shard_of(&client_id);
    let view = cluster
        .broker
        .shards
        .shard(shard)
        .and_then(|shard| shard.with_machine(|machine| machine.session_view(&client_id)));
    view.map(|view| (shard, view))
        .ok_or_else(|| Problem::not_found("there is no client of this name"))
}

pub(super) fn incomplete(connections: &Connections) -> Value {
    connections.incomplete.iter().map(|node| node.0).collect()
}

fn describe(shard: ShardId, view: &SessionView, connections: &Connections) -> Value {
    let connection = view
        .holder
        .and_then(|holder| connections.found.get(&holder));
    json!({
        "client_id": view.client_id.as_str(),
        "user": view.owner.as_ref().map(codec::Utf8::as_str),
        "connected": view.holder.is_some(),
        "node": view.holder.map(|holder| holder.node.0),
        "shard": shard.0,
        "session": view.stored.as_ref().map(stored),
        "connection": connection.map(connected),
    })
}

/// What a shard holds of a session.
pub(super) fn stored(session: &StoredSession) -> Value {
    let interval = session.session_expiry_interval_s;
    json!({
        "expiry_interval_s": (interval != u32::MAX).then_some(interval),
        "expires_in_s": session.expires_in_ms.map(|left| left.div_ceil(1_000)),
        "subscriptions": session.subscriptions,
        "in_flight": session.in_flight,
        "queued": session.queued,
        "queued_bytes": session.queued_bytes,
        "awaiting_pubrel": session.awaiting_pubrel,
    })
}

fn connected(connection: &Connection) -> Value {
    let since = SystemTime::UNIX_EPOCH + Duration::from_millis(connection.since_ms);
    let protocol = match connection.protocol {
        3 => "3.1",
        4 => "3.1.1",
        _ => "5.0",
    };
    json!({
        "address": connection.address,
        "listener": connection.listener,
        "since": rfc_3339(since),
        "protocol": protocol,
        "keep_alive_s": connection.keep_alive_s,
        "user": (!connection.user.is_empty()).then_some(&connection.user),
        "bytes_received": connection.bytes_received,
        "bytes_sent": connection.bytes_sent,
        "held_bytes": connection.held_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_names_what_must_hold() {
        let filter = Filter::parse("client=s-*,user=alice,node=2,connected=true").unwrap();
        assert_eq!(
            filter,
            Filter {
                client: Some("s-*".to_owned()),
                user: Some("alice".to_owned()),
                node: Some(2),
                connected: Some(true),
            }
        );
        assert_eq!(Filter::parse("").unwrap(), Filter::default());
        for wrong in ["client", "colour=red", "node=x", "connected=1"] {
            assert!(Filter::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_session_is_found_by_whose_it_is() {
        let view = |owner: Option<&str>| SessionView {
            client_id: codec::ClientId::new("c").unwrap(),
            owner: owner.map(|name| codec::Utf8::try_from(name).unwrap()),
            epoch: raft_store::Epoch(1),
            holder: None,
            stored: None,
        };
        for (filter, owner, fits) in [
            ("user=alice", Some("alice"), true),
            ("user=alice", Some("alice2"), false),
            ("user=alice", None, false),
            ("user=a*", Some("alice"), true),
            ("user=", None, true),
            ("user=", Some("alice"), false),
            ("user=alice,client=d", Some("alice"), false),
        ] {
            let filter_of = Filter::parse(filter).unwrap();
            assert_eq!(filter_of.fits(&view(owner)), fits, "{filter} {owner:?}");
        }
    }
}
