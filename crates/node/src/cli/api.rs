//! Asks the admin port of a node: what most commands do.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use ureq::Agent;
use ureq::http::Response;

use crate::error::StartError;

/// A request that a node takes longer for is given up; a node itself gives up after 30 s.
const ANSWER_WITHIN: Duration = Duration::from_secs(40);
const CONNECTED_WITHIN: Duration = Duration::from_secs(5);
/// Bytes of an answer; a page has at most 1,000 entries, a retained message at most a packet.
const ANSWER_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// What stands for itself in a part of a path or a parameter.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// Which node is asked, and as whom.
#[derive(Debug, Clone, Args)]
pub struct ApiArguments {
    /// Admin port of any node.
    #[arg(
        long,
        value_name = "URL",
        env = "HOLDFAST_URL",
        default_value = "http://127.0.0.1:8080"
    )]
    url: String,
    /// File with the token: the token alone, or a line `ROLE TOKEN` of admin.token_file.
    #[arg(long, value_name = "FILE", env = "HOLDFAST_TOKEN_FILE")]
    token_file: Option<PathBuf>,
}

/// A node's admin port.
pub(super) struct Api {
    agent: Agent,
    url: String,
    token: Option<String>,
}

/// What a node answered.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) text: String,
}

impl ApiArguments {
    pub(super) fn api(&self) -> Result<Api, StartError> {
        let token = self.token_file.as_deref().map(read_token).transpose()?;
        let agent = Agent::config_builder()
            .timeout_connect(Some(CONNECTED_WITHIN))
            .timeout_global(Some(ANSWER_WITHIN))
            .http_status_as_error(false)
            // The port is asked as it is named, whatever proxy is meant for the world outside.
            .proxy(None)
            .build()
            .into();
        Ok(Api {
            agent,
            url: self.url.trim_end_matches('/').to_owned(),
            token,
        })
    }
}

fn read_token(path: &Path) -> Result<String, StartError> {
    let name = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|error| StartError::failed(format!("cannot read {name}"), error))?;
    token_in(&text).ok_or_else(|| {
        StartError::Usage(format!(
            "{name}: there is no token in it; a digest ($sha256$…) is not enough to show who you are"
        ))
    })
}

/// The first token of a file.
fn token_in(text: &str) -> Option<String> {
    let lines = text.lines().map(str::trim);
    let mut lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut tokens = lines.by_ref().filter_map(|line| {
        let mut words = line.split_whitespace();
        let first = words.next()?;
        Some(words.next().unwrap_or(first))
    });
    tokens
        .find(|token| !token.starts_with("$sha256$"))
        .map(str::to_owned)
}

/// A part of a path, or a parameter.
pub(super) fn escaped(text: &str) -> String {
    utf8_percent_encode(text, PLAIN).to_string()
}

/// `?a=b&c=d` of the parameters that are given.
pub(super) fn query(parameters: &[(&str, Option<String>)]) -> String {
    let mut query = String::new();
    for (name, value) in parameters {
        if let Some(value) = value {
            query.push(if query.is_empty() { '?' } else { '&' });
            query.push_str(name);
            query.push('=');
            query.push_str(&escaped(value));
        }
    }
    query
}

impl Api {
    /// What the node answers to `GET`, as JSON.
    pub(super) fn get(&self, path: &str) -> Result<Value, StartError> {
        carried_out(&self.look(path)?)
    }

    /// What the node answers to `GET`, whatever it is.
    pub(super) fn look(&self, path: &str) -> Result<Answer, StartError> {
        let mut request = self.agent.get(format!("{}{path}", self.url));
        if let Some(authorization) = self.authorization() {
            request = request.header("authorization", authorization);
        }
        self.read(request.call())
    }

    pub(super) fn delete(&self, path: &str) -> Result<Value, StartError> {
        let mut request = self.agent.delete(format!("{}{path}", self.url));
        if let Some(authorization) = self.authorization() {
            request = request.header("authorization", authorization);
        }
        carried_out(&self.read(request.call())?)
    }

    pub(super) fn post(&self, path: &str, body: &Value) -> Result<Value, StartError> {
        let mut request = self
            .agent
            .post(format!("{}{path}", self.url))
            .header("content-type", "application/json");
        if let Some(authorization) = self.authorization() {
            request = request.header("authorization", authorization);
        }
        carried_out(&self.read(request.send(body.to_string()))?)
    }

    /// All entries of a list, page by page; each is handed to `each` as it comes. The answer has the
    /// nodes that did not answer.
    pub(super) fn pages(
        &self,
        path: &str,
        parameters: &[(&str, Option<String>)],
        (key, max): (&str, usize),
        mut each: impl FnMut(&Value),
    ) -> Result<Vec<Value>, StartError> {
        let mut incomplete: Vec<Value> = Vec::new();
        let mut cursor = None;
        let mut left = max;
        loop {
            let mut parameters = parameters.to_vec();
            parameters.push(("limit", Some(left.min(1_000).to_string())));
            parameters.push(("cursor", cursor));
            let page = self.get(&format!("{path}{}", query(&parameters)))?;
            let entries = page.get(key).and_then(Value::as_array);
            for entry in entries.into_iter().flatten() {
                each(entry);
                left = left.saturating_sub(1);
            }
            let silent = page.get("incomplete").and_then(Value::as_array);
            for node in silent.into_iter().flatten() {
                if !incomplete.contains(node) {
                    incomplete.push(node.clone());
                }
            }
            cursor = page
                .get("next_cursor")
                .and_then(Value::as_str)
                .map(str::to_owned);
            if cursor.is_none() || left == 0 {
                return Ok(incomplete);
            }
        }
    }

    fn authorization(&self) -> Option<String> {
        self.token.as_ref().map(|token| format!("Bearer {token}"))
    }

    fn read(
        &self,
        answered: Result<Response<ureq::Body>, ureq::Error>,
    ) -> Result<Answer, StartError> {
        let unreachable = |source: ureq::Error| StartError::Unreachable {
            url: self.url.clone(),
            source: Box::new(source),
        };
        let mut response = answered.map_err(unreachable)?;
        let status = response.status().as_u16();
        let body = response.body_mut().with_config().limit(ANSWER_BYTES_MAX);
        let text = body.read_to_string().map_err(unreachable)?;
        Ok(Answer { status, text })
    }
}

/// The JSON of an answer, if the node did what it was asked.
fn carried_out(answer: &Answer) -> Result<Value, StartError> {
    let document: Option<Value> = serde_json::from_str(&answer.text).ok();
    let Some(document) = document else {
        let problem = format!(
            "status {}, and no JSON: is this an admin port?",
            answer.status
        );
        return Err(StartError::Refused(problem));
    };
    if (200..300).contains(&answer.status) {
        return Ok(document);
    }
    let text = |member: &str| document.get(member).and_then(Value::as_str);
    let detail = text("detail").unwrap_or("refused");
    let problem = match document.get("failed").and_then(Value::as_array) {
        Some(failed) => {
            let reasons = failed
                .iter()
                .filter_map(|failed| failed.get("reason")?.as_str());
            format!("{detail}: {}", reasons.collect::<Vec<_>>().join("; "))
        }
        None if answer.status == 401 => {
            format!("{detail} (status 401): give one with --token-file or HOLDFAST_TOKEN_FILE")
        }
        None => format!("{detail} (status {})", answer.status),
    };
    Err(match text("code") {
        Some("no_quorum") => StartError::NoQuorum(problem),
        Some(_) | None => StartError::Refused(problem),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_from_either_kind_of_file() {
        assert_eq!(token_in("abc\n").as_deref(), Some("abc"));
        let file = "# ours\n\nviewer $sha256$00 grafana\nadmin secret root\n";
        assert_eq!(token_in(file).as_deref(), Some("secret"));
        assert_eq!(token_in("# nothing\n"), None);
    }

    #[test]
    fn parameters_are_escaped_and_left_out_when_absent() {
        let parameters = [
            ("a", Some("x/ &".to_owned())),
            ("b", None),
            ("c", Some("1".to_owned())),
        ];
        assert_eq!(query(&parameters), "?a=x%2F%20%26&c=1");
        assert_eq!(query(&[]), "");
    }

    #[test]
    fn what_a_node_refuses_has_its_own_exit_code() {
        let answer = |status, text: &str| Answer {
            status,
            text: text.to_owned(),
        };
        let no_quorum = answer(503, r#"{"code":"no_quorum","detail":"none"}"#);
        assert_eq!(carried_out(&no_quorum).unwrap_err().exit_code(), 4);
        let absent = answer(404, r#"{"detail":"no such client"}"#);
        let error = carried_out(&absent).unwrap_err();
        assert_eq!(error.exit_code(), 1);
        assert_eq!(error.to_string(), "no such client (status 404)");
        assert!(carried_out(&answer(200, "<html>")).is_err());
    }
}
