//! CONNECTs that are refused: what the client is told, what the log and the metrics say.

use codec::{Connack, Connect, DecodeError, Packet, ProtocolVersion, ReasonCode};

use crate::auth::THROTTLED;
use crate::client::Origin;
use crate::count;
use crate::reason::{self, Audience};
use crate::wire::Wire;

/// Why a CONNECT is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    /// What a 5.0 client is told.
    pub(crate) reason_code: ReasonCode,
    /// What the log and the metric say.
    pub(crate) cause: &'static str,
}

impl Refused {
    /// What CONNACK says; `None`: the connection closes without one.
    fn code(self, version: ProtocolVersion) -> Option<ReasonCode> {
        match version {
            ProtocolVersion::V5 => Some(self.reason_code),
            // Whoever comes too often is not to be answered at length.
            ProtocolVersion::V31 | ProtocolVersion::V311
                if self.reason_code == ReasonCode::ConnectionRateExceeded =>
            {
                None
            }
            // 3.1.1 has five codes; every other reason is "server unavailable".
            ProtocolVersion::V31 | ProtocolVersion::V311 => {
                match self.reason_code.as_connack_return_code() {
                    Some(_) => Some(self.reason_code),
                    None => Some(ReasonCode::ServerUnavailable),
                }
            }
        }
    }
}

/// Tells the client and closes.
pub(crate) async fn refuse(mut wire: Wire, connect: &Connect, origin: &Origin, refused: Refused) {
    let Refused { reason_code, cause } = refused;
    let (client_id, address) = (connect.client_id.as_str(), origin.address);
    if is_flood(cause) {
        tracing::debug!(client_id, %address, ?reason_code, cause, "CONNECT refused");
    } else {
        tracing::info!(client_id, %address, ?reason_code, cause, "CONNECT refused");
    }
    count::connection_rejected(&origin.listener, cause);
    if let Some(code) = refused.code(connect.version) {
        let connack = Packet::Connack(Box::new(Connack::refusal(code)));
        Audience::of(connect).tell(&mut wire, connack, reason::of_cause(cause));
    }
    wire.farewell().await;
}

/// What hits very many at once: the metrics say how many, and the log would only drown the rest.
fn is_flood(cause: &str) -> bool {
    matches!(
        cause,
        "connect_rate" | "memory_high" | "sessions_max" | THROTTLED
    )
}

/// A CONNECT that cannot be read gets a CONNACK only where the version is known and has a code for
/// it [MQTT-3.1.4-1]. Without a Reason String: what the client takes is not known.
pub(crate) async fn refuse_malformed(mut wire: Wire, origin: &Origin, error: &DecodeError) {
    let version = wire.decoder.version();
    let reason_code = error.reason_code();
    let rule = error.rule(version.unwrap_or(ProtocolVersion::V311));
    tracing::warn!(
        address = %origin.address, ?reason_code, rule = %format_args!("{error} [{rule}]"),
        "protocol violation before CONNACK"
    );
    count::connection_rejected(&origin.listener, "protocol");
    count::violation(reason_code);
    let code = match (version, error) {
        (Some(ProtocolVersion::V5), _) => Some((ProtocolVersion::V5, reason_code)),
        (_, DecodeError::UnsupportedProtocolVersion { level }) if *level > 5 => {
            Some((ProtocolVersion::V5, ReasonCode::UnsupportedProtocolVersion))
        }
        (version, _) => error
            .connack_return_code()
            .and_then(ReasonCode::from_connack_return_code)
            .map(|code| (version.unwrap_or(ProtocolVersion::V311), code)),
    };
    if let Some((version, reason_code)) = code {
        let connack = Connack::refusal(reason_code);
        wire.send(&Packet::Connack(Box::new(connack)), version);
    }
    wire.farewell().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_before_5_0_gets_one_of_its_five_codes_or_none() {
        for (reason_code, expected) in [
            (ReasonCode::ServerBusy, Some(3)),
            (ReasonCode::QuotaExceeded, Some(3)),
            (ReasonCode::QosNotSupported, Some(3)),
            (ReasonCode::NotAuthorized, Some(5)),
            (ReasonCode::ConnectionRateExceeded, None),
        ] {
            let refused = Refused {
                reason_code,
                cause: "",
            };
            let code = refused.code(ProtocolVersion::V311);
            let told = code.and_then(ReasonCode::as_connack_return_code);
            assert_eq!(told, expected, "{reason_code:?}");
            assert_eq!(refused.code(ProtocolVersion::V5), Some(reason_code));
        }
    }
}
