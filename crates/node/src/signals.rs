//! The signals that ask a process to stop.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::StartError;

/// SIGINT (Ctrl-C), SIGTERM (a supervisor) and SIGHUP (the terminal was closed).
///
/// Install it before anything that must be stopped in order: until then these signals just kill.
#[derive(Debug)]
pub struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl StopSignals {
    /// Takes the signals over for the rest of the process's life.
    ///
    /// # Errors
    /// [`StartError::Failed`] when the operating system refuses. Needs a tokio runtime.
    pub fn install() -> Result<Self, StartError> {
        let take = |kind| {
            signal(kind).map_err(|error| StartError::failed("cannot listen for signals", error))
        };
        Ok(Self {
            interrupt: take(SignalKind::interrupt())?,
            terminate: take(SignalKind::terminate())?,
            hangup: take(SignalKind::hangup())?,
        })
    }

    /// Waits for one of them; each call takes one. Cancel-safe.
    pub async fn any(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}
