//! Configuration, log level and reloads; what is not in this version.

use std::sync::{Arc, OnceLock};

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Answers;
use super::members::NoBody;
use super::problem::{Problem, ok};
use super::request::{Json, NoParams, Params};
use crate::config::{self, Entry, Printed};
use crate::logging;

/// Reads something again; says what changed, or why it did not.
pub type Reload = Box<dyn Fn() -> Result<Value, String> + Send + Sync>;

/// What can be read again while the node runs.
#[derive(Default)]
pub(super) struct Reloads {
    pub(super) config: OnceLock<Reload>,
    pub(super) tls: OnceLock<Reload>,
}

/// `GET /config`: the values in force at the start, with the place that each came from.
pub(super) async fn show(
    State(answers): State<Arc<Answers>>,
    _: Params<NoParams>,
) -> Result<Response, Problem> {
    let entries: Vec<Entry> = answers.entries.iter().map(redacted).collect();
    Ok(ok(&json!({
        "entries": config::as_json(&entries, Printed::Effective),
        "log_level": logging::level(),
    })))
}

/// Secrets are in files that the configuration names; a value that could hold one is not shown.
fn redacted(entry: &Entry) -> Entry {
    let is_path = entry.key.ends_with("_file");
    let may_be_secret = ["secret", "password", "token"]
        .iter()
        .any(|word| entry.key.contains(word))
        && !is_path;
    // User and password before the host.
    let is_url = entry.value.contains("://") && entry.value.contains('@');
    let mut entry = entry.clone();
    if (may_be_secret || is_url) && entry.value != "\"\"" {
        entry.value = "\"(not shown)\"".to_owned();
    }
    entry
}

/// The body of `PUT /log/level`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LevelBody {
    level: String,
}

/// `PUT /log/level`: until the node starts again.
pub(super) async fn set_level(
    _: Params<NoParams>,
    Json(body): Json<LevelBody>,
) -> Result<Response, Problem> {
    logging::set_level(&body.level).map_err(Problem::bad_request)?;
    Ok(ok(&json!({ "level": body.level })))
}

/// `POST /config/reload`
pub(super) async fn reload_config(
    State(answers): State<Arc<Answers>>,
    _: Params<NoParams>,
    Json(_): Json<NoBody>,
) -> Result<Response, Problem> {
    let tokens = answers.guard.reload();
    tokens.map_err(|error| Problem::conflict(error.to_string()))?;
    reload(&answers.reloads.config)
}

/// `POST /tls/reload`
pub(super) async fn reload_tls(
    State(answers): State<Arc<Answers>>,
    _: Params<NoParams>,
    Json(_): Json<NoBody>,
) -> Result<Response, Problem> {
    reload(&answers.reloads.tls)
}

fn reload(hook: &OnceLock<Reload>) -> Result<Response, Problem> {
    let hook = hook.get().ok_or_else(Problem::not_available)?;
    // It reads files.
    let reloaded = tokio::task::block_in_place(hook);
    reloaded
        .map(|changed| ok(&changed))
        .map_err(Problem::conflict)
}

/// Routes whose feature a later version has.
pub(super) async fn not_available() -> Problem {
    Problem::not_available()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Origin;

    #[test]
    fn what_may_be_a_secret_is_not_shown() {
        let shown = |key: &'static str, value: &str| {
            redacted(&Entry {
                section: "auth".to_owned(),
                key,
                value: value.to_owned(),
                origin: Origin::Default,
            })
            .value
        };
        assert_eq!(shown("secret", "\"x\""), "\"(not shown)\"");
        assert_eq!(shown("secret", "\"\""), "\"\"");
        assert_eq!(shown("secret_file", "\"/run/secret\""), "\"/run/secret\"");
        assert_eq!(shown("url", "\"http://u:p@host/\""), "\"(not shown)\"");
        assert_eq!(shown("bind", "\"127.0.0.1:1\""), "\"127.0.0.1:1\"");
    }
}
