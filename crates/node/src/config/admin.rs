//! `[admin]`: health, metrics and the admin API over HTTP.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::later;
use super::reader::{Reader, text};
use super::value::Table;

/// `[admin]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminConfig {
    /// `bind`: IP:PORT, port 0 takes any free one. Default 127.0.0.1:8080: not open to the network
    /// unless asked.
    pub bind: SocketAddr,
    /// `token_file`: who may use the API, one line `ROLE TOKEN [NAME]` each. `None` (the default, `""`):
    /// whoever reaches the port may do everything, so the port must be on loopback.
    pub token_file: Option<PathBuf>,
    /// `metrics_auth`: also metrics need a token. Default false: a scrape shows no secret.
    pub metrics_auth: bool,
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
    let token_file = section.read("token_file", (None, "\"\"".to_owned()), |value| {
        let path = text(value, "a path")?;
        Ok((!path.is_empty()).then(|| PathBuf::from(path)))
    });
    let metrics_auth = section.boolean("metrics_auth", false);
    later::admin(&mut section);
    section.finish();
    let config = AdminConfig {
        bind,
        token_file,
        metrics_auth,
    };
    check(reader, &config);
    config
}

/// Nobody but this machine may reach the API without a token.
fn check(reader: &mut Reader, config: &AdminConfig) {
    if config.token_file.is_some() {
        return;
    }
    if !config.bind.ip().is_loopback() {
        reader.conflict(
            &["admin.token_file", "admin.bind"],
            "this address is not loopback, so admin.token_file is needed: a file with a line `admin TOKEN` \
             (a token is made by `openssl rand -hex 24`); or bind to 127.0.0.1",
        );
    }
    if config.metrics_auth {
        reader.conflict(
            &["admin.token_file", "admin.metrics_auth"],
            "there is no token to ask for: set admin.token_file as well",
        );
    }
}
