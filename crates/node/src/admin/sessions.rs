//! One session: what is stored of it, what waits in it, and its end.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use codec::ClientId;
use raft_store::{Command, Connect, Ending, Holder, Response as Answer, SessionView, ShardId};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use session::{DeliveryPhase, DeliveryRecord, SessionLimits};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Answers;
use super::clients::{close, find, stored};
use super::cursor;
use super::problem::{Problem, ok};
use super::request::{Name, NoParams, Params, limit};
use super::retained::qos_number;
use crate::backlog::LiveLimits;
use crate::broker::Broker;
use crate::life::Life;
use crate::mailbox::Mailbox;
use crate::query::Cluster;
use crate::waiter::CommandWaiter;

/// A shard that takes longer to answer has no leader.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// `?limit&cursor`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PageParams {
    limit: Option<u32>,
    cursor: Option<String>,
}

/// The next page begins at this position.
#[derive(Debug, Serialize, Deserialize)]
struct Place {
    position: u64,
}

/// `GET /sessions/{id}`
pub(super) async fn one(
    State(answers): State<Arc<Answers>>,
    name: Name,
    _: Params<NoParams>,
) -> Result<Response, Problem> {
    let (shard, view) = find(answers.cluster()?, &name)?;
    Ok(ok(&json!({
        "client_id": view.client_id.as_str(),
        "user": view.owner.as_ref().map(codec::Utf8::as_str),
        "shard": shard.0,
        "connected": view.holder.is_some(),
        "node": view.holder.map(|holder| holder.node.0),
        "stored": view.stored.as_ref().map(stored),
    })))
}

/// `GET /sessions/{id}/queue`: what waits behind the window.
pub(super) async fn queue(
    State(answers): State<Arc<Answers>>,
    name: Name,
    Params(params): Params<PageParams>,
) -> Result<Response, Problem> {
    deliveries(answers.cluster()?, &name, &params, "queue").await
}

/// `GET /sessions/{id}/inflight`: what the client has not acknowledged.
pub(super) async fn in_flight(
    State(answers): State<Arc<Answers>>,
    name: Name,
    Params(params): Params<PageParams>,
) -> Result<Response, Problem> {
    deliveries(answers.cluster()?, &name, &params, "inflight").await
}

async fn deliveries(
    cluster: &Cluster,
    name: &Name,
    params: &PageParams,
    which: &'static str,
) -> Result<Response, Problem> {
    let limit = limit(params.limit)?;
    let place: Option<Place> = cursor::decode(params.cursor.as_deref())?;
    let (shard, view) = find(cluster, name)?;
    if view.stored.is_none() {
        // What it has is in the memory of its node, and gone with the connection.
        return Ok(ok(&json!({ "stored": false, which: [] })));
    }
    let from = place.map_or(0, |place| place.position);
    let broker = Arc::clone(&cluster.broker);
    let client_id = view.client_id;
    // Contents may be on disk only.
    let read = tokio::task::spawn_blocking(move || {
        read_deliveries(&broker, (shard, &client_id), from, (limit, which))
    });
    let (items, next) = read
        .await
        .map_err(|error| Problem::unavailable(format!("the node stops: {error}")))?;
    let mut answer = json!({ "stored": true, which: items });
    if let (Some(position), Value::Object(answer)) = (next, &mut answer) {
        let cursor = cursor::encode(&Place { position });
        answer.insert("next_cursor".to_owned(), json!(cursor));
    }
    Ok(ok(&answer))
}

/// Up to `limit` deliveries of one kind, and where the next ones begin.
fn read_deliveries(
    broker: &Broker,
    (shard, client_id): (ShardId, &ClientId),
    mut from: u64,
    (limit, which): (usize, &str),
) -> (Vec<Value>, Option<u64>) {
    let mut items = Vec::new();
    let Some(shard) = broker.shards.shard(shard) else {
        return (items, None);
    };
    loop {
        let page = shard
            .with_machine(|machine| machine.deliveries_from(client_id, from, limit))
            .unwrap_or_default();
        let Some((last, _)) = page.last() else {
            return (items, None);
        };
        let behind = last.saturating_add(1);
        for (position, record) in page {
            let is_queued = matches!(record.phase, DeliveryPhase::Queued);
            if is_queued && which == "inflight" {
                // Whatever is queued comes behind what is in flight.
                return (items, None);
            }
            if is_queued != (which == "queue") {
                continue;
            }
            if items.len() == limit {
                return (items, Some(position));
            }
            let message = if record.body == 0 {
                None
            } else {
                shard.message(record.body)
            };
            items.push(delivery(position, &record, message.as_deref()));
        }
        from = behind;
    }
}

fn delivery(
    position: u64,
    record: &DeliveryRecord,
    message: Option<&session::StoredMessage>,
) -> Value {
    let (state, packet_id) = match record.phase {
        DeliveryPhase::Queued => ("queued", None),
        DeliveryPhase::AwaitPuback { packet_id } => ("awaiting_puback", Some(packet_id)),
        DeliveryPhase::AwaitPubrec { packet_id } => ("awaiting_pubrec", Some(packet_id)),
        DeliveryPhase::AwaitPubcomp { packet_id, .. } => ("awaiting_pubcomp", Some(packet_id)),
    };
    json!({
        "position": position,
        "state": state,
        "packet_id": packet_id.map(|packet_id| packet_id.get()),
        "qos": qos_number(record.qos),
        "retain": record.retain,
        "share": record.share.as_ref().map(|share| share.as_str()),
        "topic": message.map(|stored| stored.message.topic.as_str()),
        "payload_bytes": message.map(|stored| stored.message.payload.len()),
    })
}

/// `DELETE /sessions/{id}`: closes the connection if there is one, and ends the session with all that
/// waits in it.
///
/// This node opens the session as a client with Clean Start would, and leaves it at once: so everything
/// that depends on the end of a session, its will above all, happens as the standard has it.
pub(super) async fn purge(
    State(answers): State<Arc<Answers>>,
    name: Name,
    _: Params<NoParams>,
) -> Result<Response, Problem> {
    let cluster = answers.cluster()?;
    let (shard, view) = find(cluster, &name)?;
    if let Some(holder) = view.holder {
        close(cluster, &view, holder).await?;
    }
    let broker = &cluster.broker;
    let life = broker.serving().ok_or_else(Problem::no_quorum)?;
    // Nobody reads it: what the shard sends to this connection before it is closed again is dropped.
    let limits = LiveLimits {
        messages_max: 1,
        bytes_max: 1,
    };
    let mailbox = Arc::new(Mailbox::new(limits, &broker.pressure));
    let connection = life.registry.open(&mailbox);
    let holder = Holder {
        node: life.id.node,
        incarnation: life.id.incarnation,
        connection,
    };
    let ended = end_session(&life, shard, &view, holder).await;
    life.registry.close(connection);
    mailbox.abandon();
    ended?;
    Ok(ok(&json!({ "ended": true })))
}

async fn end_session(
    life: &Life,
    shard: ShardId,
    view: &SessionView,
    holder: Holder,
) -> Result<(), Problem> {
    let client_id = &view.client_id;
    let connect = Command::Connect(Box::new(Connect {
        client_id: client_id.clone(),
        holder,
        clean_start: true,
        session_expiry_interval_s: 0,
        receive_maximum: 1,
        limits: SessionLimits::default(),
        will: None,
        // In the name of whoever it belongs to: nobody else may end it.
        owner: view.owner.clone(),
    }));
    let answer = ask(life, shard, &connect).await?;
    let Answer::Connected { epoch, .. } = answer else {
        tracing::warn!(?answer, "a session was not ended");
        return Err(Problem::unavailable("the shard refused to end the session"));
    };
    let disconnect = Command::Disconnect {
        client_id: client_id.clone(),
        epoch,
        session_expiry_interval_s: None,
        ending: Ending::Normal,
    };
    ask(life, shard, &disconnect).await.map(drop)
}

/// The answer of a shard to a command of this life, in order and once.
pub(super) async fn ask(life: &Life, shard: ShardId, command: &Command) -> Result<Answer, Problem> {
    let (sender, answer) = oneshot::channel();
    life.propose(shard, command, CommandWaiter::Task(sender));
    let answered = life
        .ended
        .run_until_cancelled(timeout(ANSWER_WITHIN, answer))
        .await;
    match answered {
        Some(Ok(Ok(answer))) => Ok(answer),
        Some(Ok(Err(_)) | Err(_)) | None => Err(Problem::unavailable(format!(
            "shard {shard} did not answer; what was asked for may still happen"
        ))
        .with("code", json!("unknown_outcome"))),
    }
}
