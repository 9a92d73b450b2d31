//! How one connection leaves a node that is drained: in its turn, and with its handshakes finished as
//! far as that goes quickly, so that nothing is sent twice that need not be.
//!
//! A connection whose turn has come takes no new PUBLISH at QoS 1 or 2 and sends none, and ends as soon
//! as every acknowledgement that is under way has come or gone.

use std::time::Duration;

use codec::Qos;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::connection::Connection;
use crate::drain::{Drain, Stage};
use crate::end::End;
use crate::session_place::SessionPlace;

/// How long a client may take to acknowledge what it was sent. What it has not by then is sent again
/// by the next node.
const FINISH_WITHIN: Duration = Duration::from_secs(1);

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaving {
    /// It stays.
    No,
    /// It serves until its turn comes.
    At(Instant),
    /// It finishes what is under way, and ends then at the latest.
    Finishing(Instant),
    /// Its time is over.
    Over,
}

impl Leaving {
    /// What follows on this, when it does. Cancel-safe.
    pub(crate) async fn next(self, drain: &Drain, stage: &mut watch::Receiver<Stage>) -> Self {
        let until = match self {
            Self::No | Self::Over => None,
            Self::At(until) | Self::Finishing(until) => Some(until),
        };
        tokio::select! {
            // The sender lives as long as the broker.
            _ = stage.changed() => {}
            () = wait_until(until) => {
                return match self {
                    Self::At(_) => Self::Finishing(Instant::now() + FINISH_WITHIN),
                    Self::No | Self::Finishing(_) | Self::Over => Self::Over,
                };
            }
        }
        let stage = *stage.borrow_and_update();
        match (self, stage) {
            (_, Stage::AtOnce | Stage::Drained) => Self::Over,
            // Also when the drain is called off: what was not taken and not sent meanwhile comes only on
            // another connection.
            (Self::Finishing(_) | Self::Over, _) => self,
            (_, Stage::Serving | Stage::Announced | Stage::Closed) => Self::No,
            (Self::No, Stage::Leaving { since }) => Self::At(drain.turn(since)),
            (Self::At(_), Stage::Leaving { .. }) => self,
        }
    }
}

async fn wait_until(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

impl Connection {
    /// Its turn has come: nothing new is begun.
    pub(crate) fn is_finishing(&self) -> bool {
        matches!(self.leaving, Leaving::Finishing(_))
    }

    /// A PUBLISH that the client will have to send again elsewhere: it has no acknowledgement, and gets
    /// none here.
    pub(crate) fn is_left_to_others(&self, qos: Qos) -> bool {
        self.is_finishing() && qos != Qos::AtMostOnce
    }

    /// It is to leave and nothing is under way any more, or there is no time left for it.
    pub(crate) fn end_of_leave(&self) -> Option<End> {
        let is_over = match self.leaving {
            Leaving::No | Leaving::At(_) => false,
            Leaving::Finishing(_) => self.has_finished(),
            Leaving::Over => true,
        };
        is_over.then(|| End::closed(self.broker.leave_reason(), "drain"))
    }

    fn has_finished(&self) -> bool {
        self.outstanding == 0
            && self.publishes.is_empty()
            && self.wire.output.is_empty()
            && match &self.place {
                SessionPlace::Transient(session) => session.inflight_len() == 0,
                SessionPlace::Hosted(hosted) => {
                    let shard = self.broker.shards.shard(self.client.shard);
                    let oldest = shard.and_then(|shard| {
                        shard.with_machine(|machine| {
                            machine.oldest_in_flight(&self.client.client_id)
                        })
                    });
                    oldest.is_none_or(|position| position > hosted.sent_position)
                }
            }
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::task::TaskTracker;

    use super::*;
    use crate::config::Config;

    /// What follows on `from` when the drain is at `stage`, before any time is over.
    async fn next(from: Leaving, stage: Stage) -> Leaving {
        let drain = Drain::new(Config::default().shutdown, TaskTracker::new());
        let (sender, mut stages) = watch::channel(Stage::Serving);
        sender.send_replace(stage);
        from.next(&drain, &mut stages).await
    }

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(3_600)
    }

    /// What it did not take and did not send comes only on another connection.
    #[tokio::test]
    async fn a_connection_that_has_begun_to_leave_leaves_also_when_the_drain_is_called_off() {
        let since = Instant::now();
        for from in [Leaving::Finishing(later()), Leaving::Over] {
            let stages = [Stage::Serving, Stage::Announced, Stage::Closed];
            for stage in stages.into_iter().chain([Stage::Leaving { since }]) {
                assert_eq!(next(from, stage).await, from, "{stage:?}");
            }
            assert_eq!(next(from, Stage::Drained).await, Leaving::Over);
        }
    }

    /// Nothing was begun yet: it stays.
    #[tokio::test]
    async fn a_connection_whose_turn_has_not_come_stays_when_the_drain_is_called_off() {
        let from = Leaving::At(later());
        assert_eq!(next(from, Stage::Serving).await, Leaving::No);
        let since = Instant::now();
        assert_eq!(next(from, Stage::Leaving { since }).await, from);
        let told = next(Leaving::No, Stage::Leaving { since }).await;
        assert_eq!(told, Leaving::At(since), "the first goes at once");
    }

    #[tokio::test]
    async fn each_step_takes_its_time() {
        let drain = Drain::new(Config::default().shutdown, TaskTracker::new());
        let (_sender, mut stages) = watch::channel(Stage::Serving);
        let now = Instant::now();
        let turn = Leaving::At(now).next(&drain, &mut stages).await;
        assert!(matches!(turn, Leaving::Finishing(until) if until >= now + FINISH_WITHIN));
        let over = Leaving::Finishing(now).next(&drain, &mut stages).await;
        assert_eq!(over, Leaving::Over);
    }
}
