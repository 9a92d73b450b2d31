//! Asks `/readyz` of a node, over the smallest HTTP that works.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{interval, timeout};

use super::layout::DemoNode;

/// A node that takes longer than this to answer is not ready.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Longest answer that is read, bytes.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// Whether a node is ready.
///
/// # Errors
/// What it answered instead, or why there was no answer.
pub(super) async fn ready(admin: SocketAddr) -> Result<(), String> {
    let answer = match timeout(ANSWER_WITHIN, get(admin, "/readyz")).await {
        Err(_) => return Err("no answer".to_owned()),
        Ok(Err(error)) => return Err(error.to_string()),
        Ok(Ok(answer)) => answer,
    };
    if answer.split(' ').nth(1) == Some("200") {
        return Ok(());
    }
    let body = answer
        .split_once("\r\n\r\n")
        .map_or(answer.as_str(), |(_, body)| body);
    Err(body.trim().replace('\n', "; "))
}

async fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream
        .take(ANSWER_BYTES_MAX)
        .read_to_string(&mut answer)
        .await?;
    Ok(answer)
}

/// Returns once every node was seen ready in one round.
pub(super) async fn wait_for_all(nodes: Vec<DemoNode>, poll_every: Duration) {
    let mut poll = interval(poll_every);
    loop {
        poll.tick().await;
        let mut all_ready = true;
        for node in &nodes {
            all_ready &= ready(node.admin).await.is_ok();
        }
        if all_ready {
            return;
        }
    }
}
