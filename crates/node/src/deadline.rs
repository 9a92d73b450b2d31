//! When a connection ends by itself: its client is silent for too long, or its token has expired.

use std::time::Duration;

use codec::ReasonCode;
use tokio::time::{Instant, sleep_until};

use crate::connection::Connection;
use crate::end::End;

/// Far enough for "no deadline".
pub(crate) const NO_DEADLINE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

impl Connection {
    /// When the connection ends unless something happens.
    pub(crate) fn deadline(&self) -> Instant {
        let expires_at = self.client.principal.expires_at();
        let keep_alive = self.keep_alive_deadline();
        expires_at.map_or(keep_alive, |at| at.min(keep_alive))
    }

    /// # Errors
    /// A deadline has passed.
    pub(crate) fn check_deadlines(&self) -> Result<(), End> {
        let now = Instant::now();
        if self
            .client
            .principal
            .expires_at()
            .is_some_and(|at| at <= now)
        {
            return Err(End::closed(ReasonCode::MaximumConnectTime, "token_expired"));
        }
        if self.keep_alive_deadline() <= now {
            return Err(End::closed(ReasonCode::KeepAliveTimeout, "keepalive"));
        }
        Ok(())
    }

    /// One and a half times the keep alive after the last packet [MQTT-3.1.2-22].
    fn keep_alive_deadline(&self) -> Instant {
        let keep_alive_s = u64::from(self.client.keep_alive_s);
        if keep_alive_s == 0 {
            return Instant::now() + NO_DEADLINE;
        }
        self.last_packet + Duration::from_millis(keep_alive_s.saturating_mul(1500))
    }
}

/// Returns then; `None`: at once.
pub(crate) async fn wait_until(instant: Option<Instant>) {
    if let Some(instant) = instant {
        sleep_until(instant).await;
    }
}
