//! The exchange between CONNECT and CONNACK.

use std::sync::Arc;

use bytes::Bytes;
use codec::{Auth, Connect, Packet, ProtocolVersion, ReasonCode, Utf8};
use tokio::time::timeout;

use super::policy::AccessPolicy;
use super::scram::{self, Exchange, Step};
use crate::broker::Broker;
use crate::reason::Audience;
use crate::wire::Wire;

/// Who a client has shown to be.
#[derive(Debug)]
pub(crate) struct Identity {
    /// Its user name.
    pub(crate) user: String,
    /// How, as every AUTH and CONNACK names it [MQTT-4.12.0-5].
    pub(crate) method: Utf8,
}

/// A client that has shown who it is.
#[derive(Clone, Debug)]
pub(crate) struct Proof {
    /// Who.
    pub(crate) identity: Arc<Identity>,
    /// The last Authentication Data, for CONNACK.
    pub(crate) data: Bytes,
}

/// Why a client has not shown who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It left.
    Gone,
    /// It is refused with this code, and this cause in the metric.
    Refused(ReasonCode, &'static str),
}

/// What was sent is not allowed here.
const PROTOCOL: Failure = Failure::Refused(ReasonCode::ProtocolError, "protocol");

/// Exchanges AUTH packets with a client whose CONNECT has an Authentication Method. With others nothing
/// is exchanged [MQTT-4.12.0-6]. The exchange as a whole takes no longer than `mqtt.connect_timeout`.
///
/// # Errors
/// [`Failure`]. Nothing was sent to refuse it.
pub(super) async fn authenticate(
    broker: &Broker,
    policy: &AccessPolicy,
    wire: &mut Wire,
    connect: &Connect,
) -> Result<Proof, Failure> {
    let Some(method) = &connect.authentication_method else {
        return Err(PROTOCOL);
    };
    let exchange = begin(policy, method)?;
    let exchanged = exchange_packets(exchange, wire, (connect, method));
    let timed = timeout(broker.config.mqtt.connect_timeout, exchanged).await;
    timed.unwrap_or(Err(Failure::Gone))
}

/// # Errors
/// There is no such method here [MQTT-4.12.0-1].
fn begin(policy: &AccessPolicy, method: &Utf8) -> Result<Exchange, Failure> {
    let unknown = Failure::Refused(ReasonCode::BadAuthenticationMethod, "authentication_method");
    match &policy.scram {
        Some(scram) if method.as_str() == scram::METHOD => scram.begin().map_err(|error| {
            tracing::error!(%error, "cannot begin an exchange");
            Failure::Refused(ReasonCode::ServerUnavailable, "internal")
        }),
        Some(_) | None => Err(unknown),
    }
}

async fn exchange_packets(
    mut exchange: Exchange,
    wire: &mut Wire,
    (connect, method): (&Connect, &Utf8),
) -> Result<Proof, Failure> {
    let mut data = connect.authentication_data.clone();
    loop {
        match exchange.step(data.as_deref()) {
            Step::Continue(challenge) => {
                let auth = auth(ReasonCode::ContinueAuthentication, method, challenge);
                let auth = Packet::Auth(auth);
                if !Audience::of(connect).takes(&auth) {
                    // [MQTT-3.1.2-24]
                    return Err(Failure::Refused(
                        ReasonCode::PacketTooLarge,
                        "maximum_packet_size",
                    ));
                }
                wire.send(&auth, ProtocolVersion::V5);
                wire.flush().await.map_err(|_why| Failure::Gone)?;
            }
            Step::Accepted { user, data } => {
                let method = method.clone();
                return Ok(Proof {
                    identity: Arc::new(Identity { user, method }),
                    data: data.into(),
                });
            }
            // [MQTT-4.12.0-4]
            Step::Refused => {
                return Err(Failure::Refused(
                    ReasonCode::NotAuthorized,
                    "authentication",
                ));
            }
        }
        data = match wire.next_packet().await {
            Ok(Some(Packet::Auth(auth))) => answer_of(auth, method).ok_or(PROTOCOL)?,
            Ok(None | Some(Packet::Disconnect(_))) => return Err(Failure::Gone),
            // Nothing else may be sent before CONNACK [MQTT-3.1.2-30].
            Ok(Some(_)) => return Err(PROTOCOL),
            Err(error) => return Err(Failure::Refused(error.reason_code(), "protocol")),
        };
    }
}

/// The Authentication Data of a client's answer, which continues with the same method
/// [MQTT-4.12.0-3, -5]; `None`: it does not.
pub(super) fn answer_of(auth: Auth, method: &Utf8) -> Option<Option<Bytes>> {
    let continues = auth.reason_code == ReasonCode::ContinueAuthentication
        && auth.authentication_method.as_ref() == Some(method);
    // No data and empty data are the same to a method.
    continues.then(|| Some(auth.authentication_data.unwrap_or_default()))
}

/// An AUTH of the broker.
pub(super) fn auth(reason_code: ReasonCode, method: &Utf8, data: Vec<u8>) -> Auth {
    Auth {
        reason_code,
        authentication_method: Some(method.clone()),
        authentication_data: (!data.is_empty()).then(|| data.into()),
        ..Auth::default()
    }
}
