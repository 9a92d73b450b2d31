//! How many files the process may have open: each connection is one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Config;

/// Files of a node besides its clients: those of RocksDB, and connections of nodes and operators.
const BESIDES_CLIENTS: u64 = 1_024;

/// Raises the limit as far as the system lets this process, and warns if that is less than the listeners
/// may need: beyond it nobody is accepted, instead of being closed and counted.
pub(crate) fn raise_limit(config: &Config) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        let raised = Rlimit {
            current: maximum,
            maximum,
        };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, current, maximum, "the limit of open files cannot be raised");
        }
    }
    let limit = getrlimit(Resource::Nofile).current;
    tracing::info!(limit, before = current, "open files, at most");
    let wanted = wanted(config);
    if limit.is_some_and(|limit| limit < wanted) {
        tracing::warn!(
            limit,
            wanted,
            "the listeners' max_connections need more open files than there may be: raise the limit (LimitNOFILE, ulimit -Hn), or lower max_connections"
        );
    }
}

/// Files that are open when every listener has as many connections as it may.
fn wanted(config: &Config) -> u64 {
    let listeners = config.listeners.iter();
    let connections: u64 = listeners
        .map(|listener| u64::from(listener.max_connections))
        .sum();
    connections.saturating_add(BESIDES_CLIENTS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listener_may_be_full() {
        let mut config = Config::default();
        assert_eq!(wanted(&config), 101_024);
        let more = config.listeners[0].clone();
        config.listeners.push(more);
        config.listeners[0].max_connections = 1;
        assert_eq!(wanted(&config), 101_025);
    }
}
