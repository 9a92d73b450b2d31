//! `GET /events`: what happens, as server-sent events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures::Stream;
use futures::stream;
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::Answers;
use super::problem::Problem;
use super::request::{NoParams, Params};
use crate::events;

/// Listeners at once; each holds one of the port's connections.
pub(super) const LISTENERS_MAX: usize = 16;
/// A comment so often keeps proxies from closing a silent stream.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// `GET /events`
pub(super) async fn events(
    State(answers): State<Arc<Answers>>,
    _: Params<NoParams>,
) -> Result<Response, Problem> {
    let permit = Arc::clone(&answers.listeners).try_acquire_owned();
    let permit = permit.map_err(|error| {
        Problem::unavailable(format!("{LISTENERS_MAX} others listen already: {error}"))
    })?;
    let events = follow(events::listen(), permit, answers.stop.clone());
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    Ok(Sse::new(events).keep_alive(keep_alive).into_response())
}

fn follow(
    receiver: Receiver<events::Event>,
    permit: OwnedSemaphorePermit,
    stop: tokio_util::sync::CancellationToken,
) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold(
        (receiver, permit, stop),
        |(mut receiver, permit, stop)| async move {
            let received = stop.run_until_cancelled(receiver.recv()).await?;
            let (kind, data) = match received {
                Ok(event) => (event.kind, event.fields.to_string()),
                Err(RecvError::Lagged(missed)) => {
                    ("missed", json!({ "events": missed }).to_string())
                }
                Err(RecvError::Closed) => return None,
            };
            let event = Event::default().event(kind).data(data);
            Some((Ok(event), (receiver, permit, stop)))
        },
    )
}
