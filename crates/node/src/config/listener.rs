//! `[[listener]]`: where clients connect.

use std::net::{Ipv4Addr, SocketAddr};

use super::error::Problem;
use super::later;
use super::reader::Reader;
use super::value::{Origin, Table};

/// One `[[listener]]`. Any of them replaces the built-in one, tcp on 127.0.0.1:1883.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerConfig {
    /// `name`: label in logs and metrics, unique. Default `tcp` for the first, then `listener-N`.
    pub name: String,
    /// `bind`: IP:PORT, port 0 takes any free one. Required but for the first, whose default is
    /// 127.0.0.1:1883: a try-out is not open to the network.
    pub bind: SocketAddr,
    /// `max_connections`: above, new ones are closed at once, 1..10000000. Default 100000: what a
    /// node of common size serves; bounds its memory.
    pub max_connections: u32,
}

const BUILT_IN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 1883);

pub(super) fn read(reader: &mut Reader, root: &mut Table) -> Vec<ListenerConfig> {
    let mut tables = reader.list(root, "listener");
    if tables.is_empty() {
        tables.push((Origin::Default, Table::new()));
    }
    let listeners: Vec<ListenerConfig> = tables
        .into_iter()
        .enumerate()
        .filter_map(|(place, (origin, table))| listener(reader, place, origin, table))
        .collect();
    for (place, listener) in listeners.iter().enumerate() {
        if listeners
            .iter()
            .take(place)
            .any(|earlier| earlier.name == listener.name)
        {
            reader.conflict(
                &[&format!("listener.{place}.name")],
                "each listener has a name of its own",
            );
        }
        let taken =
            |earlier: &ListenerConfig| earlier.bind == listener.bind && listener.bind.port() != 0;
        if listeners.iter().take(place).any(taken) {
            reader.conflict(
                &[&format!("listener.{place}.bind")],
                "another listener has the same address",
            );
        }
    }
    listeners
}

/// Reads one listener; `None` when it lacks what only the first may lack.
fn listener(
    reader: &mut Reader,
    place: usize,
    origin: Origin,
    table: Table,
) -> Option<ListenerConfig> {
    let mut section = reader.open(format!("listener.{place}"), table);
    let default_name = if place == 0 {
        "tcp".to_owned()
    } else {
        format!("listener-{place}")
    };
    let name = section.parsed(
        "name",
        (default_name.clone(), &default_name),
        "1 to 32 letters, digits, '_' or '-'",
        |name| {
            let ok = (1..=32).contains(&name.len())
                && name
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
            ok.then(|| name.to_owned())
        },
    );
    kind(&mut section);
    let bind_is_missing = place > 0 && !section.is_written("bind");
    let bind = section.parsed(
        "bind",
        (BUILT_IN, "127.0.0.1:1883"),
        super::ADDRESS,
        |text| text.parse().ok(),
    );
    let max_connections = section.integer("max_connections", 100_000, 1..=10_000_000);
    later::listener(&mut section);
    section.finish();
    if bind_is_missing {
        let key = format!("listener.{place}.bind");
        let message = format!("missing: expected {}", super::ADDRESS);
        reader.problems.push(Problem {
            origin,
            key,
            value: None,
            message,
        });
        return None;
    }
    Some(ListenerConfig {
        name,
        bind,
        max_connections,
    })
}

/// Reads `kind`, of which only `mqtt` exists so far.
fn kind(section: &mut super::reader::Section<'_>) {
    section.read("kind", ((), "\"mqtt\"".to_owned()), |value| {
        let expected = "one of \"mqtt\", \"mqtts\", \"ws\", \"wss\", \"unix\"";
        match super::reader::text(value, expected)? {
            "mqtt" => Ok(()),
            word @ ("mqtts" | "ws" | "wss" | "unix") => Err(later::refuse_word(word, "mqtt")),
            _ => Err(format!("expected {expected}")),
        }
    });
}
