//! Counters from a node's `/metrics`.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::error::LoadError;

/// fsyncs of the log that returned.
pub const FSYNCS: &str = "holdfast_storage_fsyncs_total";

const TIMEOUT: Duration = Duration::from_secs(5);

/// The body that an HTTP server on this machine answers to `GET path`.
///
/// # Errors
/// It does not answer, or not with 200.
pub fn get(address: SocketAddr, path: &str) -> Result<String, LoadError> {
    let doing = format!("GET http://{address}{path}");
    let answer = ask(address, path).map_err(LoadError::io(&doing))?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200") => Ok(body.to_owned()),
        Some((head, _)) => {
            let status = head.lines().next().unwrap_or_default();
            Err(LoadError::Protocol(format!("{doing}: {status}")))
        }
        None => Err(LoadError::Protocol(format!("{doing}: no HTTP"))),
    }
}

fn ask(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// The sum of a counter over all its labels; `None` when there is none.
#[must_use]
pub fn counter(text: &str, name: &str) -> Option<f64> {
    let values = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        if !rest.starts_with(['{', ' ']) {
            return None;
        }
        rest.rsplit(' ').next()?.parse::<f64>().ok()
    });
    values.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
}

/// fsyncs of each node that was named, in order.
///
/// # Errors
/// A node does not answer, or knows no such counter.
pub fn fsyncs(admins: &[SocketAddr]) -> Result<Vec<f64>, LoadError> {
    admins
        .iter()
        .map(|admin| {
            let text = get(*admin, "/metrics")?;
            counter(&text, FSYNCS)
                .ok_or_else(|| LoadError::Protocol(format!("{admin} has no {FSYNCS}")))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_summed_over_its_labels_and_not_mixed_up_with_longer_names() {
        let text = "# HELP a_total x\na_total{b=\"1\"} 2\na_total{b=\"2\"} 3.5\na_total_more 9\n";
        assert_eq!(counter(text, "a_total"), Some(5.5));
        assert_eq!(counter(text, "a_total_more"), Some(9.0));
        assert_eq!(counter(text, "b_total"), None);
    }
}
