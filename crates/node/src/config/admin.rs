//! `[admin]`: health and metrics over HTTP.

use std::net::{Ipv4Addr, SocketAddr};

use super::later;
use super::reader::Reader;
use super::value::Table;

/// `[admin]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminConfig {
    /// `bind`: IP:PORT, port 0 takes any free one. Default 127.0.0.1:8080: not open to the network
    /// unless asked.
    pub bind: SocketAddr,
}

const BUILT_IN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

pub(super) fn read(reader: &mut Reader, root: &mut Table) -> AdminConfig {
    let mut section = reader.section(root, "admin");
    let bind = section.parsed(
        "bind",
        (BUILT_IN, "127.0.0.1:8080"),
        super::ADDRESS,
        |text| text.parse().ok(),
    );
    later::admin(&mut section);
    section.finish();
    AdminConfig { bind }
}
