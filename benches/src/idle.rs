//! Connections that do nothing, and the memory that they cost.

use std::net::SocketAddr;
use std::time::Duration;

use codec::{
    Connect, Packet, PacketId, ProtocolVersion, Qos, Subscribe, Subscription, SubscriptionOptions,
    TopicFilter, Utf8,
};
use serde::Serialize;
use tokio::time::sleep;

use crate::connection::Connection;
use crate::error::LoadError;
use crate::process;
use crate::report::per;
use crate::run::on_this_thread;

/// How long memory settles before it is read.
const SETTLE: Duration = Duration::from_secs(2);

/// How many connections, and where.
#[derive(Debug, Clone)]
pub struct IdlePlan {
    /// Of all clients.
    pub version: ProtocolVersion,
    /// Where they connect.
    pub endpoint: SocketAddr,
    /// How many they are.
    pub connections: u32,
    /// Whether each subscribes to a topic of its own.
    pub subscribe: bool,
    /// Whose memory is read.
    pub pid: u32,
}

/// What they cost.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct IdleReport {
    /// How many they were.
    pub connections: u32,
    /// Whether each had a subscription.
    pub subscribed: bool,
    /// Resident memory without them.
    pub before_bytes: u64,
    /// Resident memory with them.
    pub with_bytes: u64,
    /// The difference per connection.
    pub bytes_per_connection: f64,
}

/// Opens the connections, reads the memory, and closes them.
///
/// # Errors
/// A connection is refused, or the process is gone.
pub fn run_idle(plan: &IdlePlan) -> Result<IdleReport, LoadError> {
    on_this_thread(hold(plan))
}

async fn hold(plan: &IdlePlan) -> Result<IdleReport, LoadError> {
    let before_bytes = process::resident_bytes(&[plan.pid])?;
    let mut connections = Vec::new();
    for index in 0..plan.connections {
        let opened = open(plan, index).await;
        let doing = format!("connection {index} of {}", plan.connections);
        connections.push(opened.map_err(LoadError::io(doing))?);
    }
    sleep(SETTLE).await;
    let with_bytes = process::resident_bytes(&[plan.pid])?;
    drop(connections);
    Ok(IdleReport {
        connections: plan.connections,
        subscribed: plan.subscribe,
        before_bytes,
        with_bytes,
        bytes_per_connection: per(
            with_bytes.saturating_sub(before_bytes),
            u64::from(plan.connections),
        ),
    })
}

async fn open(plan: &IdlePlan, index: u32) -> std::io::Result<Connection> {
    let invalid = |error: codec::DecodeError| std::io::Error::other(error.to_string());
    let id = Utf8::try_from(format!("idle-{}-{index}", plan.subscribe).as_str());
    let connect = Connect {
        keep_alive_s: 0,
        ..Connect::new(plan.version, id.map_err(invalid)?)
    };
    let (mut connection, _) = Connection::open(plan.endpoint, &connect).await?;
    if plan.subscribe {
        let filter = TopicFilter::try_from(format!("idle/{index}").as_str());
        connection.output.push(&Packet::Subscribe(Subscribe {
            packet_id: PacketId::MIN,
            subscription_identifier: None,
            user_properties: Vec::new(),
            subscriptions: vec![Subscription {
                filter: filter.map_err(invalid)?,
                options: SubscriptionOptions::new(Qos::AtLeastOnce),
            }],
        }));
        connection.flush().await?;
        connection.receive().await?;
    }
    Ok(connection)
}
