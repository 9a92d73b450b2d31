//! Why a connection ends, and what its client is told.

use codec::{Disconnect, ReasonCode};
use raft_store::{CloseReason, Ending};
use serde_json::json;

use crate::client::Client;
use crate::connection::Connection;
use crate::{count, events, reason};

/// Why a connection ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The client closed it, or the network did.
    ClientGone,
    /// The client sent DISCONNECT.
    Disconnected {
        /// Overrides CONNECT's interval.
        session_expiry_interval_s: Option<u32>,
        /// What becomes of its will.
        ending: Ending,
    },
    /// The broker closes it, telling a v5 client why.
    Closed {
        /// What a v5 client is told.
        reason_code: ReasonCode,
        /// What the log and the metric say.
        cause: &'static str,
        /// The rule broken, if one was.
        rule: Option<String>,
    },
    /// The broker closes it with this code and cause, and its will is not published: the client may not
    /// any more, or is banned.
    Expelled(ReasonCode, &'static str),
    /// This life of the node is over; nothing can be recorded under it any more.
    LifeOver,
}

impl End {
    /// The broker closes the connection.
    pub(crate) fn closed(reason_code: ReasonCode, cause: &'static str) -> Self {
        Self::Closed {
            reason_code,
            cause,
            rule: None,
        }
    }

    /// CONNECT was refused although the session was opened: its will was not accepted either.
    pub(crate) fn never_open() -> Self {
        Self::Disconnected {
            session_expiry_interval_s: None,
            ending: Ending::Normal,
        }
    }

    /// What a v5 client is told, unless it ended the connection itself.
    pub(crate) fn reason_code(&self) -> Option<ReasonCode> {
        match self {
            Self::ClientGone | Self::Disconnected { .. } => None,
            Self::Closed { reason_code, .. } => Some(*reason_code),
            Self::Expelled(reason_code, _) => Some(*reason_code),
            Self::LifeOver => Some(ReasonCode::UseAnotherServer),
        }
    }

    /// The same for the person who reads the client's log.
    pub(crate) fn explanation(&self) -> &str {
        match self {
            Self::Closed {
                rule: Some(rule), ..
            } => rule,
            Self::Closed { cause, .. } => reason::of_cause(cause),
            Self::ClientGone | Self::Disconnected { .. } => "",
            Self::Expelled(_, cause) => reason::of_cause(cause),
            Self::LifeOver => reason::of_cause("no_lease"),
        }
    }

    /// The interval of the DISCONNECT, and what becomes of the will: anything but a normal DISCONNECT
    /// publishes it [MQTT-3.1.2-8].
    pub(crate) fn of_session(&self) -> (Option<u32>, Ending) {
        match self {
            Self::Disconnected {
                session_expiry_interval_s,
                ending,
            } => (*session_expiry_interval_s, *ending),
            Self::Expelled(..) => (None, Ending::Normal),
            Self::ClientGone | Self::Closed { .. } | Self::LifeOver => (None, Ending::Abnormal),
        }
    }

    /// The client broke a rule.
    pub(crate) fn violation(reason_code: ReasonCode, rule: impl Into<String>) -> Self {
        Self::Closed {
            reason_code,
            cause: "protocol",
            rule: Some(rule.into()),
        }
    }

    /// Logs the end, once, and counts a violation; returns its name in the metric. A client that simply
    /// vanished, by whichever sign, leaves no line.
    pub(crate) fn log(&self, client: &Client) -> &'static str {
        self.tell(client);
        let client_id = client.client_id.as_str();
        let address = client.origin.address;
        match self {
            Self::ClientGone => {
                tracing::debug!(client_id, %address, "client gone");
                "client"
            }
            Self::Disconnected { .. } => {
                tracing::debug!(client_id, %address, "client disconnected");
                "client"
            }
            Self::Closed {
                cause: cause @ "keepalive",
                rule: None,
                ..
            } => {
                tracing::debug!(client_id, %address, cause, "client gone");
                cause
            }
            Self::Closed {
                reason_code,
                cause,
                rule: None,
            } => {
                tracing::info!(client_id, %address, ?reason_code, cause, "connection closed");
                cause
            }
            Self::Closed {
                reason_code,
                cause,
                rule: Some(rule),
            } => {
                tracing::warn!(client_id, %address, ?reason_code, rule, "protocol violation");
                count::violation(*reason_code);
                cause
            }
            Self::Expelled(reason_code, cause) => {
                tracing::info!(client_id, %address, ?reason_code, cause, "connection closed");
                cause
            }
            Self::LifeOver => "node_down",
        }
    }

    /// Tells operators who listen of what they or another connection of the client brought about.
    fn tell(&self, client: &Client) {
        let kind = match self {
            Self::Closed {
                cause: "takeover", ..
            } => "client_taken_over",
            Self::Closed {
                cause: "kicked", ..
            } => "client_kicked",
            Self::Closed { .. }
            | Self::Expelled(..)
            | Self::ClientGone
            | Self::Disconnected { .. }
            | Self::LifeOver => return,
        };
        events::note(kind, || {
            let client_id = client.client_id.as_str();
            json!({ "client_id": client_id, "node": client.holder.node.0 })
        });
    }

    /// What a shard asked for.
    pub(crate) fn by(reason: CloseReason) -> Self {
        match reason {
            CloseReason::TakenOver => Self::closed(ReasonCode::SessionTakenOver, "takeover"),
            CloseReason::QueueFull => Self::closed(ReasonCode::QuotaExceeded, "overload"),
            CloseReason::NodeDown => Self::LifeOver,
            CloseReason::Kicked => Self::closed(ReasonCode::AdministrativeAction, "kicked"),
        }
    }
}

impl Connection {
    /// A Session Expiry Interval of 0 in CONNECT cannot become another one (section 3.14.2.2.2).
    pub(crate) fn on_disconnect(&self, disconnect: &Disconnect) -> End {
        let interval = disconnect.session_expiry_interval;
        if interval.is_some_and(|s| s > 0) && self.client.session_expiry_interval_s == 0 {
            return End::violation(
                ReasonCode::ProtocolError,
                "Session Expiry Interval raised from 0 by DISCONNECT (section 3.14.2.2.2)",
            );
        }
        let max = self.broker.config.mqtt.session_expiry_max_s;
        // With any other reason the client wants its will published [MQTT-3.14.4-3].
        let ending = if disconnect.reason_code == ReasonCode::Success {
            Ending::Normal
        } else {
            Ending::Abnormal
        };
        End::Disconnected {
            session_expiry_interval_s: interval.map(|s| s.min(max)),
            ending,
        }
    }
}
