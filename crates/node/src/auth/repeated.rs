//! Re-authentication on an open connection (section 4.12.1). Everything else goes on meanwhile.

use codec::{Auth, Packet, ReasonCode};

use super::exchange::{answer_of, auth};
use super::scram::{Exchange, Step};
use crate::connection::Connection;
use crate::count::{self, LoginResult};
use crate::end::End;

/// One that is under way.
#[derive(Debug)]
pub(crate) struct Reauthentication(Exchange);

impl Connection {
    /// AUTH from a client that is connected: it begins, or goes on.
    pub(crate) fn on_auth(&mut self, auth: Auth) -> Result<(), End> {
        let Some(identity) = self.client.identity.clone() else {
            return Err(violation(
                "AUTH without an authentication method in CONNECT [MQTT-4.12.0-7]",
            ));
        };
        if auth.authentication_method.as_ref() != Some(&identity.method) {
            return Err(violation(
                "AUTH with another method than CONNECT [MQTT-4.12.1-1]",
            ));
        }
        let is_under_way = self.reauthentication.is_some();
        if auth.reason_code == ReasonCode::ReAuthenticate && !is_under_way {
            let Some(scram) = &self.client.policy.scram else {
                return Err(refused());
            };
            let exchange = scram.begin().map_err(|error| {
                tracing::error!(%error, "cannot begin an exchange");
                refused()
            })?;
            return self.step(exchange, auth.authentication_data.as_deref());
        }
        if auth.reason_code != ReasonCode::ContinueAuthentication {
            return Err(violation(
                "AUTH that begins although one is under way (section 4.12.1)",
            ));
        }
        let Some(Reauthentication(exchange)) = self.reauthentication.take().map(|boxed| *boxed)
        else {
            return Err(violation(
                "AUTH that continues although nothing has begun (section 4.12.1)",
            ));
        };
        let data = answer_of(auth, &identity.method).flatten();
        self.step(exchange, data.as_deref())
    }

    fn step(&mut self, mut exchange: Exchange, data: Option<&[u8]>) -> Result<(), End> {
        let Some(identity) = self.client.identity.clone() else {
            return Ok(());
        };
        let (reason_code, data) = match exchange.step(data) {
            Step::Continue(challenge) => {
                self.reauthentication = Some(Box::new(Reauthentication(exchange)));
                (ReasonCode::ContinueAuthentication, challenge)
            }
            // The session is that user's.
            Step::Accepted { user, data } if user == identity.user => {
                count::login(LoginResult::Accepted);
                (ReasonCode::Success, data)
            }
            Step::Accepted { .. } | Step::Refused => {
                count::login(LoginResult::Refused);
                return Err(refused());
            }
        };
        let auth = Packet::Auth(auth(reason_code, &identity.method, data));
        if !self.client.audience().takes(&auth) {
            // [MQTT-3.1.2-24]
            return Err(End::closed(ReasonCode::PacketTooLarge, "authentication"));
        }
        self.wire.send(&auth, self.client.version);
        Ok(())
    }
}

/// [MQTT-4.12.1-2]
fn refused() -> End {
    End::closed(ReasonCode::NotAuthorized, "authentication")
}

fn violation(rule: &'static str) -> End {
    End::violation(ReasonCode::ProtocolError, rule)
}
