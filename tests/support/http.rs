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
    let mut stream = TcpStream::connect(address).await.ok()?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.ok()?;
    parse_response(&String::from_utf8_lossy(&answer))
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
