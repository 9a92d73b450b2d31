//! How a client connects, and what came of it.

use std::num::NonZeroU16;
use std::time::Duration;

use bytes::Bytes;
use codec::{Connack, Connect, ProtocolVersion, ReasonCode, Utf8, Will};

/// The versions that every scenario runs for.
pub const VERSIONS: [ProtocolVersion; 2] = [ProtocolVersion::V311, ProtocolVersion::V5];

/// Session expiry of a persistent v5 test client: longer than any test.
const PERSISTENT_EXPIRY_S: u32 = 3_600;

/// The CONNECT of a test client.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    /// Client id.
    pub client_id: String,
    /// Protocol version.
    pub version: ProtocolVersion,
    /// Clean Start (v5), Clean Session (3.1.1).
    pub clean_start: bool,
    /// v5 only.
    pub session_expiry_interval_s: u32,
    /// v5 only; `None` sends none.
    pub receive_maximum: Option<u16>,
    /// 0: off.
    pub keep_alive_s: u16,
    /// Its delay and the properties of its message: v5 only.
    pub will: Option<Will>,
    /// User name and password.
    pub credentials: Option<(String, String)>,
}

impl ConnectOptions {
    /// A session that outlives its connection.
    #[must_use]
    pub fn persistent(client_id: impl Into<String>, version: ProtocolVersion) -> Self {
        Self {
            client_id: client_id.into(),
            version,
            clean_start: false,
            session_expiry_interval_s: PERSISTENT_EXPIRY_S,
            receive_maximum: None,
            keep_alive_s: 0,
            will: None,
            credentials: None,
        }
    }

    /// A session that ends with its connection.
    #[must_use]
    pub fn transient(client_id: impl Into<String>, version: ProtocolVersion) -> Self {
        Self {
            clean_start: true,
            session_expiry_interval_s: 0,
            ..Self::persistent(client_id, version)
        }
    }

    /// With a Receive Maximum (v5; 3.1.1 has none).
    #[must_use]
    pub fn receive_maximum(self, receive_maximum: u16) -> Self {
        Self {
            receive_maximum: Some(receive_maximum),
            ..self
        }
    }

    /// With Clean Start.
    #[must_use]
    pub fn clean_start(self, clean_start: bool) -> Self {
        Self {
            clean_start,
            ..self
        }
    }

    /// With a will.
    #[must_use]
    pub fn will(self, will: Will) -> Self {
        Self {
            will: Some(will),
            ..self
        }
    }

    /// With a user name and a password.
    #[must_use]
    pub fn credentials(self, user: &str, password: &str) -> Self {
        Self {
            credentials: Some((user.to_owned(), password.to_owned())),
            ..self
        }
    }

    /// With Keep Alive.
    #[must_use]
    pub fn keep_alive_s(self, keep_alive_s: u16) -> Self {
        Self {
            keep_alive_s,
            ..self
        }
    }

    /// With a Session Expiry Interval (v5; 3.1.1 has none).
    #[must_use]
    pub fn session_expiry_s(self, session_expiry_interval_s: u32) -> Self {
        Self {
            session_expiry_interval_s,
            ..self
        }
    }

    /// Whether the session outlives the connection.
    #[must_use]
    pub fn is_persistent(&self) -> bool {
        match self.version {
            ProtocolVersion::V5 => self.session_expiry_interval_s > 0,
            ProtocolVersion::V31 | ProtocolVersion::V311 => !self.clean_start,
        }
    }

    /// The packet.
    ///
    /// # Panics
    /// When the client id or the user name is not legal UTF-8 for MQTT.
    #[must_use]
    pub fn packet(&self) -> Connect {
        let client_id = Utf8::try_from(self.client_id.as_str()).expect("a legal client id");
        let is_v5 = self.version == ProtocolVersion::V5;
        let credentials = self.credentials.as_ref();
        let user =
            credentials.map(|(user, _)| Utf8::try_from(user.as_str()).expect("a legal user name"));
        Connect {
            clean_start: self.clean_start,
            keep_alive_s: self.keep_alive_s,
            will: self.will.clone(),
            username: user,
            password: credentials.map(|(_, password)| Bytes::from(password.clone())),
            session_expiry_interval: is_v5.then_some(self.session_expiry_interval_s),
            receive_maximum: self
                .receive_maximum
                .filter(|_| is_v5)
                .and_then(NonZeroU16::new),
            ..Connect::new(self.version, client_id)
        }
    }
}

/// Why there is no connection.
#[derive(Debug)]
pub enum ConnectError {
    /// TCP: refused, reset, or closed before CONNACK.
    Closed(String),
    /// CONNACK with another reason than success.
    Refused(Box<Connack>),
    /// No CONNACK within this time.
    Silent(Duration),
}

impl ConnectError {
    /// The reason code of a CONNACK that refused.
    #[must_use]
    pub fn reason_code(&self) -> Option<ReasonCode> {
        match self {
            Self::Refused(connack) => Some(connack.reason_code),
            Self::Closed(_) | Self::Silent(_) => None,
        }
    }
}
