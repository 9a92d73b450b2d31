//! The clients that must not notice anything.

use std::net::SocketAddr;

use codec::{ProtocolVersion, Qos, ReasonCode};
use testkit::{Client, ConnectOptions, History};

/// A publisher, and a subscriber to everything.
#[derive(Debug)]
pub(crate) struct Healthy {
    publisher: Client,
    subscriber: Client,
    topic: String,
    published: u64,
}

/// Topics of all healthy clients begin with it.
const PREFIX: &str = "healthy/";

impl Healthy {
    /// Connects both, the publisher to the first address and the subscriber to the last.
    pub(crate) async fn connect(
        addresses: &[SocketAddr],
        (name, version): (&str, ProtocolVersion),
        history: &History,
    ) -> Self {
        let (first, last) = (addresses[0], addresses[addresses.len() - 1]);
        let client = async |role: &str, address| {
            let options = ConnectOptions::transient(format!("{name}-{role}"), version);
            Client::connect_any(&[address], &options, history).await
        };
        let publisher = client("publisher", first).await;
        let mut subscriber = client("subscriber", last).await;
        subscriber.subscribe("#", Qos::AtLeastOnce).await;
        Self {
            publisher,
            subscriber,
            topic: format!("{PREFIX}{name}"),
            published: 0,
        }
    }

    /// One round trip at QoS 1. Says what else arrived: nothing that breaks a rule is handed on.
    pub(crate) async fn check(&mut self) -> Result<(), String> {
        self.published += 1;
        let id = u16::try_from(self.published % 50_000).expect("it is small") + 1;
        let payload = self.published.to_string();
        let reason = self.publisher.publish_qos1(id, &self.topic, &payload).await;
        if !matches!(reason, ReasonCode::Success) {
            return Err(format!("a healthy publisher is told {reason:?}"));
        }
        let mut strangers = Vec::new();
        loop {
            let message = self.subscriber.take_message().await;
            if message.topic == self.topic && message.payload == payload {
                break;
            }
            if !message.topic.starts_with(PREFIX) {
                strangers.push(message.topic);
            }
        }
        if strangers.is_empty() {
            return Ok(());
        }
        Err(format!("messages were handed on to {strangers:?}"))
    }
}
