//! The HTTP port for health and metrics: `/livez /startupz /readyz[?verbose] /metrics /version`.
//!
//! None of them changes anything, so none asks for credentials. Bounds: [`CONNECTIONS_MAX`]
//! connections, each closed after [`IDLE_MAX`] of silence, no request bodies.

mod connection;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::error::StartError;
use crate::health::Health;
use crate::metrics::Exporter;
use crate::version;
use connection::BoundedListener;

/// Connections served at once; further ones wait in the listen backlog.
const CONNECTIONS_MAX: usize = 64;
/// A connection that sends nothing this long is closed. Longer than the usual scrape interval.
const IDLE_MAX: Duration = Duration::from_secs(75);

/// The bound admin port. Bind it early, so that a taken port stops the start; serve it as soon as
/// there is a [`Health`], so that probes see the start-up.
#[derive(Debug)]
pub struct Admin {
    listener: TcpListener,
    address: SocketAddr,
}

/// What the handlers answer from.
struct Answers {
    health: Arc<Health>,
    exporter: Exporter,
}

impl Admin {
    /// Binds the port and logs where; port 0 takes any free one.
    ///
    /// # Errors
    /// [`StartError::Bind`] when the address is taken or not ours.
    pub async fn bind(address: SocketAddr) -> Result<Self, StartError> {
        let failed = |source| StartError::bind("admin.bind", address, source);
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        tracing::info!(listener = "admin", %address, "listening");
        Ok(Self { listener, address })
    }

    /// The address in force, with the port that was taken.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop` is cancelled. Join the task to know that the port is free again.
    pub fn serve(
        self,
        health: Arc<Health>,
        exporter: Exporter,
        stop: CancellationToken,
    ) -> tokio::task::JoinHandle<()> {
        let router = Router::new()
            .route("/livez", get(live))
            .route("/startupz", get(started))
            .route("/readyz", get(ready))
            .route("/metrics", get(metrics))
            .route("/version", get(version))
            .with_state(Arc::new(Answers { health, exporter }));
        let listener = BoundedListener::new(self.listener, CONNECTIONS_MAX, IDLE_MAX);
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                // Accept errors are retried inside; it does not end by itself.
                _ = axum::serve(listener, router).into_future() => {}
            }
        })
    }
}

async fn live(State(answers): State<Arc<Answers>>) -> Response {
    match answers.health.live() {
        Ok(()) => verdict(true, "ok\n".to_owned()),
        Err(reason) => verdict(false, format!("{reason}\n")),
    }
}

async fn started(State(answers): State<Arc<Answers>>) -> Response {
    let ok = answers.health.is_started();
    verdict(ok, if ok { "ok\n" } else { "starting\n" }.to_owned())
}

async fn ready(State(answers): State<Arc<Answers>>, RawQuery(query): RawQuery) -> Response {
    let reports = answers.health.reports();
    let ok = reports.iter().all(|report| report.ok);
    let is_verbose = query.is_some_and(|query| {
        query
            .split('&')
            .any(|pair| pair.split('=').next() == Some("verbose"))
    });
    if is_verbose {
        let checks: Vec<serde_json::Value> = reports
            .iter()
            .map(|report| {
                json!({
                    "name": report.name,
                    "ok": report.ok,
                    "since": rfc_3339(report.since),
                    "reason": report.reason,
                })
            })
            .collect();
        return json_response(status(ok), &json!({ "ready": ok, "checks": checks }));
    }
    let failing: Vec<String> = reports
        .iter()
        .filter(|report| !report.ok)
        .map(|report| format!("{}: {}\n", report.name, report.reason))
        .collect();
    verdict(
        ok,
        if ok {
            "ok\n".to_owned()
        } else {
            failing.concat()
        },
    )
}

async fn metrics(State(answers): State<Arc<Answers>>) -> Response {
    let content_type = [(
        header::CONTENT_TYPE,
        "text/plain; version=0.0.4; charset=utf-8",
    )];
    (content_type, answers.exporter.render()).into_response()
}

async fn version() -> Response {
    json_response(StatusCode::OK, &version::as_json())
}

fn status(ok: bool) -> StatusCode {
    if ok {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    }
}

fn verdict(ok: bool, text: String) -> Response {
    (status(ok), text).into_response()
}

fn json_response(status: StatusCode, value: &serde_json::Value) -> Response {
    (
        status,
        [(header::CONTENT_TYPE, "application/json")],
        format!("{value}\n"),
    )
        .into_response()
}

/// A moment as `2026-11-21T23:05:00Z`; times before 1970 show as 1970.
fn rfc_3339(time: SystemTime) -> String {
    let seconds = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Civil date from days, with years that begin in March, so that leap days come last.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        second / 3_600,
        second / 60 % 60,
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;
    use crate::health::Check;

    async fn serve(health: &Arc<Health>) -> SocketAddr {
        let admin = Admin::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = admin.local_addr();
        admin.serve(
            Arc::clone(health),
            Exporter::install().unwrap(),
            CancellationToken::new(),
        );
        address
    }

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn probes_answer_from_the_health_of_the_node() {
        let health = Arc::new(Health::new());
        let address = serve(&health).await;
        assert!(get(address, "/livez").await.starts_with("HTTP/1.1 200"));
        assert!(get(address, "/startupz").await.starts_with("HTTP/1.1 503"));
        let unready = get(address, "/readyz").await;
        assert!(
            unready.starts_with("HTTP/1.1 503") && unready.contains("lease: starting"),
            "{unready}"
        );
        for check in [
            Check::Leaders,
            Check::Lease,
            Check::CaughtUp,
            Check::Listeners,
        ] {
            health.pass(check);
        }
        health.started();
        assert!(get(address, "/startupz").await.starts_with("HTTP/1.1 200"));
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        health.draining();
        let verbose = get(address, "/readyz?verbose").await;
        assert!(verbose.starts_with("HTTP/1.1 503"), "{verbose}");
        let body: serde_json::Value =
            serde_json::from_str(verbose.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        assert_eq!(body["ready"], false);
        assert_eq!(body["checks"][5]["name"], "draining");
        assert_eq!(body["checks"][5]["reason"], "the node is stopping");
    }

    #[tokio::test]
    async fn metrics_and_version_say_what_runs() {
        let health = Arc::new(Health::new());
        let address = serve(&health).await;
        crate::metrics::set_identity("node-1", "holdfast");
        let exposition = get(address, "/metrics").await;
        for part in [
            "# HELP holdfast_build_info",
            "holdfast_node_info{node=\"node-1\"",
            "process_resident_memory_bytes ",
        ] {
            assert!(
                exposition.contains(part),
                "{part} is missing in {exposition}"
            );
        }
        assert!(get(address, "/version").await.contains("\"version\""));
        assert!(get(address, "/nothing").await.starts_with("HTTP/1.1 404"));
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (4_102_444_800, "2100-01-01T00:00:00Z"),
        ] {
            assert_eq!(
                rfc_3339(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)),
                text
            );
        }
    }
}
