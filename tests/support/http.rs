//! `GET` against a node's admin port, and the metrics it answers.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A node that is stopped with SIGSTOP accepts connections but answers nothing.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// Status and body of one `GET`; `None` when nothing answers.
pub async fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    tokio::time::timeout(ANSWER_WITHIN, exchange(address, path))
        .await
        .ok()
        .flatten()
}

async fn exchange(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let answer = send(address, ("GET", path), &[], "").await?;
    parse_response(&answer)
}

/// An answer with its head, for tests that look at both.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Status line and headers, in lower case.
    pub head: String,
    /// Body.
    pub body: String,
}

/// Longest that the admin API may take before it gives up itself.
const ANSWER_OF_API_WITHIN: Duration = Duration::from_secs(35);

/// One request with any method; a body goes out as it is, with its length.
///
/// # Panics
/// When nothing answers: these tests ask nodes that run.
pub async fn request(
    address: SocketAddr,
    (method, path): (&str, &str),
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    let sent = send(address, (method, path), headers, body);
    let answer = tokio::time::timeout(ANSWER_OF_API_WITHIN, sent).await;
    let answer = answer.ok().flatten();
    let answer = answer.unwrap_or_else(|| panic!("{method} {path}: no answer"));
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
    let (status, _) = parse_response(&answer).expect("an answer has a status");
    Answer {
        status,
        head: head.to_lowercase(),
        body: body.to_owned(),
    }
}

async fn send(
    address: SocketAddr,
    (method, path): (&str, &str),
    headers: &[(&str, &str)],
    body: &str,
) -> Option<String> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let mut request = format!("{method} {path} HTTP/1.0\r\n");
    if !headers
        .iter()
        .any(|(name, _)| name.eq_ignore_ascii_case("host"))
    {
        request.push_str(&format!("Host: {address}\r\n"));
    }
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() {
        request.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    request.push_str("\r\n");
    request.push_str(body);
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.ok()?;
    Some(String::from_utf8_lossy(&answer).into_owned())
}

fn parse_response(answer: &str) -> Option<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

/// One line of a metrics exposition.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Name with its prefix, e.g. `holdfast_raft_role`.
    pub name: String,
    /// Label to value.
    pub labels: BTreeMap<String, String>,
    /// Value.
    pub value: f64,
}

/// The samples of a text exposition. Lines that are no samples are passed over.
#[must_use]
pub fn parse_metrics(text: &str) -> Vec<Sample> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(parse_sample)
        .collect()
}

fn parse_sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}')?),
        None => (series, ""),
    };
    let labels = labels
        .split(',')
        .filter_map(|label| label.split_once('='))
        .map(|(name, value)| (name.trim().to_owned(), value.trim_matches('"').to_owned()))
        .collect();
    Some(Sample {
        name: name.to_owned(),
        labels,
        value: value.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_parsed_with_their_labels() {
        let text = "# HELP holdfast_raft_role Role.\n# TYPE holdfast_raft_role gauge\n\
                    holdfast_raft_role{shard=\"2\",role=\"leader\"} 1\nholdfast_uptime_seconds 3.5\n";
        let samples = parse_metrics(text);
        assert_eq!(samples.len(), 2);
        assert_eq!(samples[0].name, "holdfast_raft_role");
        assert_eq!(samples[0].labels["shard"], "2");
        assert_eq!(samples[0].labels["role"], "leader");
        assert!((samples[1].value - 3.5).abs() < 1e-9);
    }

    #[test]
    fn a_response_is_split_into_status_and_body() {
        let answer = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 5\r\n\r\nlease";
        assert_eq!(parse_response(answer), Some((503, "lease".to_owned())));
    }
}
