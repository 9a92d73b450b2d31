//! `[node]`: who this node is and where it keeps its state.

use std::path::PathBuf;

use super::reader::{Reader, boolean, text, whole_number};
use super::value::{Kind, Table, Value};

/// `node.id = "from-hostname"`: the id is taken from the ordinal of a StatefulSet's pod.
pub(crate) const FROM_HOSTNAME: &str = "from-hostname";

/// `[node]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// `id`: this node in its cluster, 1..65535, never reused for another machine's data.
    ///
    /// Required in a cluster, since a wrong guess would let two nodes vote as one. Default 1 for a
    /// single node.
    pub id: u16,
    /// `data_dir`: the folder of log and state. Default `./holdfast-data`: a try-out needs no
    /// rights and leaves its traces where it was started.
    pub data_dir: PathBuf,
    /// `name`: shown in logs and metrics. Default `node-ID`.
    pub name: String,
}

/// `[node]` as far as it can be known before the cluster's peers are.
pub(super) struct NodeAsWritten {
    pub(super) id: Option<u16>,
    pub(super) data_dir: PathBuf,
    pub(super) name: String,
}

pub(super) fn read(reader: &mut Reader, root: &mut Table) -> NodeAsWritten {
    let mut section = reader.section(root, "node");
    let id = section.read("id", (None, "1".to_owned()), |value| {
        node_id(value).map(Some)
    });
    let data_dir = section.parsed(
        "data_dir",
        (PathBuf::from("./holdfast-data"), "./holdfast-data"),
        "a path",
        |path| (!path.is_empty()).then(|| PathBuf::from(path)),
    );
    let name = section.parsed(
        "name",
        (String::new(), ""),
        "a name without control characters, at most 64 bytes",
        |name| (name.len() <= 64 && !name.chars().any(char::is_control)).then(|| name.to_owned()),
    );
    section.finish();
    NodeAsWritten { id, data_dir, name }
}

/// Reads a node id: a number, or the ordinal in the host's name plus one.
fn node_id(value: &Value) -> Result<u16, String> {
    let expected = format!("expected a node id from 1 to 65535, or \"{FROM_HOSTNAME}\"");
    if matches!(&value.kind, Kind::Untyped(_) | Kind::String(_)) && boolean(value).is_none() {
        let word = text(value, "a node id")?;
        if word == FROM_HOSTNAME {
            return id_of_host(&hostname()?);
        }
    }
    whole_number(value)
        .and_then(|number| u16::try_from(number).ok())
        .filter(|id| *id > 0)
        .ok_or(expected)
}

/// The id of the node whose host is called `NAME-ORDINAL`: ordinals start at 0, ids at 1.
fn id_of_host(hostname: &str) -> Result<u16, String> {
    let short = hostname.split('.').next().unwrap_or(hostname);
    short
        .rsplit_once('-')
        .and_then(|(_, ordinal)| ordinal.parse::<u16>().ok())
        .and_then(|ordinal| ordinal.checked_add(1))
        .ok_or_else(|| {
            format!("the host is called {hostname:?}; expected a name that ends in -0, -1, -2, …")
        })
}

/// The name of this host, as the kernel knows it.
fn hostname() -> Result<String, String> {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .map_err(|error| format!("cannot read the name of this host: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_pod_of_a_stateful_set_is_node_1() {
        assert_eq!(id_of_host("holdfast-0"), Ok(1));
        assert_eq!(id_of_host("my-broker-12.svc.local"), Ok(13));
        assert!(id_of_host("laptop").is_err());
        assert!(id_of_host("holdfast-65535").is_err());
        assert!(id_of_host("holdfast-").is_err());
    }
}
