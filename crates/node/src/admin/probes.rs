//! Health, metrics and version, without prefix: what probes, load balancers and Prometheus ask.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::Answers;
use super::problem::json_answer;
use crate::calendar::rfc_3339;
use crate::version;

pub(super) async fn live(State(answers): State<Arc<Answers>>) -> Response {
    match answers.health.live() {
        Ok(()) => verdict(true, "ok\n".to_owned()),
        Err(reason) => verdict(false, format!("{reason}\n")),
    }
}

pub(super) async fn started(State(answers): State<Arc<Answers>>) -> Response {
    let ok = answers.health.is_started();
    verdict(ok, if ok { "ok\n" } else { "starting\n" }.to_owned())
}

pub(super) async fn ready(
    State(answers): State<Arc<Answers>>,
    RawQuery(query): RawQuery,
) -> Response {
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
        return json_answer(status(ok), &json!({ "ready": ok, "checks": checks }));
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

pub(super) async fn metrics(State(answers): State<Arc<Answers>>) -> Response {
    let content_type = [(
        header::CONTENT_TYPE,
        "text/plain; version=0.0.4; charset=utf-8",
    )];
    (content_type, answers.exporter.render()).into_response()
}

pub(super) async fn version() -> Response {
    json_answer(StatusCode::OK, &version::as_json())
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
