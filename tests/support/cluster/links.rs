//! Links between nodes that can be cut: every node is reached through a proxy of its own, which
//! finds out from which node a connection comes.
//!
//! Nodes learn each other's addresses from each other, so that all must be told the same one. What
//! tells two connections apart is the process at their other end: `/proc` knows it, as it is on this
//! machine.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use super::NodeId;
use crate::ports::Port;
use crate::proxy::{Link, Proxy};

/// The process of each node that runs.
#[derive(Debug, Clone, Default)]
pub(super) struct Processes(Arc<Mutex<BTreeMap<NodeId, u32>>>);

impl Processes {
    pub(super) fn set(&self, id: NodeId, process: Option<u32>) {
        match process {
            Some(process) => drop(self.lock().insert(id, process)),
            None => drop(self.lock().remove(&id)),
        }
    }

    /// The node at the other end of a connection from `origin` to `proxy`.
    fn node_at(&self, origin: SocketAddr, proxy: SocketAddr) -> Option<NodeId> {
        let inode = socket_inode(&fs::read_to_string("/proc/net/tcp").ok()?, origin, proxy)?;
        let processes = self.lock().clone();
        let mut processes = processes.into_iter();
        let (id, _) = processes.find(|(_, process)| has_socket(*process, &inode))?;
        Some(id)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, u32>> {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The proxies of a cluster, and the links between its nodes.
#[derive(Debug)]
pub(super) struct Links {
    pub(super) processes: Processes,
    proxies: BTreeMap<NodeId, (Proxy, Port)>,
    /// From who opens the connection to who accepts it.
    links: BTreeMap<(NodeId, NodeId), Link>,
}

impl Links {
    /// A proxy in front of each node.
    pub(super) fn new(nodes: &[(NodeId, SocketAddr)]) -> Self {
        let ids = nodes.iter().map(|(id, _)| *id);
        let pairs = ids
            .clone()
            .flat_map(|from| ids.clone().map(move |to| (from, to)));
        let links: BTreeMap<_, Link> = pairs.map(|pair| (pair, Link::default())).collect();
        let processes = Processes::default();
        let proxies = nodes.iter().map(|(id, target)| {
            let port = Port::reserve();
            let address = port.address();
            let (to, links, processes) = (*id, links.clone(), processes.clone());
            let proxy = Proxy::start_at(address, *target, move |origin| {
                let from = processes.node_at(origin, address)?;
                links.get(&(from, to)).cloned()
            });
            (*id, (proxy, port))
        });
        Self {
            proxies: proxies.collect(),
            processes,
            links,
        }
    }

    /// What the other nodes are told.
    pub(super) fn address(&self, id: NodeId) -> SocketAddr {
        self.proxy(id).address()
    }

    /// The proxy of a node that is dead refuses connections, as its host would.
    pub(super) fn listen(&self, id: NodeId, listens: bool) {
        self.proxy(id).listen(listens);
    }

    /// Connections that `from` opens to `to`.
    pub(super) fn link(&self, from: NodeId, to: NodeId) -> &Link {
        self.links
            .get(&(from, to))
            .unwrap_or_else(|| panic!("there is no link from {from} to {to}"))
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Link> {
        self.links.values()
    }

    fn proxy(&self, id: NodeId) -> &Proxy {
        let (proxy, _) = self
            .proxies
            .get(&id)
            .unwrap_or_else(|| panic!("there is no node {id}"));
        proxy
    }
}

/// The inode of the socket whose local address is `local` and whose remote one is `remote`.
fn socket_inode(table: &str, local: SocketAddr, remote: SocketAddr) -> Option<String> {
    let (local, remote) = (hexadecimal(local)?, hexadecimal(remote)?);
    table.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let is_it = fields.next()? == local && fields.next()? == remote;
        // State, queues, timer, retransmissions, user, time-out come in between.
        is_it.then(|| fields.nth(6).map(str::to_owned)).flatten()
    })
}

/// An address as `/proc/net/tcp` writes it.
fn hexadecimal(address: SocketAddr) -> Option<String> {
    let SocketAddr::V4(address) = address else {
        return None;
    };
    let ip = u32::from_le_bytes(address.ip().octets());
    Some(format!("{ip:08X}:{:04X}", address.port()))
}

fn has_socket(process: u32, inode: &str) -> bool {
    let socket = format!("socket:[{inode}]");
    let descriptors = fs::read_dir(format!("/proc/{process}/fd"));
    descriptors.is_ok_and(|descriptors| {
        descriptors.flatten().any(|descriptor| {
            fs::read_link(descriptor.path()).is_ok_and(|target| target == Path::new(&socket))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_connection_is_traced_to_the_process_that_opened_it() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let address = listener.local_addr().expect("bound");
        let stream = TcpStream::connect(address).expect("accepted");
        let origin = stream.local_addr().expect("connected");
        let processes = Processes::default();
        assert_eq!(processes.node_at(origin, address), None);
        processes.set(2, Some(std::process::id()));
        assert_eq!(processes.node_at(origin, address), Some(2));
        processes.set(2, None);
        assert_eq!(processes.node_at(origin, address), None);
    }
}
