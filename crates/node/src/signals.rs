//! The signals that ask a process to stop.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::StartError;

/// What SIGHUP means to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hangup {
    /// The terminal was closed: stop. For what people run in the foreground to try it.
    Stops,
    /// Read the configuration once more, and go on.
    Reloads,
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// To stop.
    Stop,
    /// To read the configuration once more.
    Reload,
}

/// SIGINT (Ctrl-C) and SIGTERM (a supervisor), and what SIGHUP means.
///
/// Install it before anything that must be stopped in order: until then these signals just kill.
#[derive(Debug)]
pub struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    on_hangup: Hangup,
}

impl StopSignals {
    /// Takes the signals over for the rest of the process's life.
    ///
    /// # Errors
    /// [`StartError::Failed`] when the operating system refuses. Needs a tokio runtime.
    pub fn install(on_hangup: Hangup) -> Result<Self, StartError> {
        let take = |kind| {
            signal(kind).map_err(|error| StartError::failed("cannot listen for signals", error))
        };
        Ok(Self {
            interrupt: take(SignalKind::interrupt())?,
            terminate: take(SignalKind::terminate())?,
            hangup: take(SignalKind::hangup())?,
            on_hangup,
        })
    }

    /// Waits for a signal to stop; each call takes one. Cancel-safe.
    pub async fn any(&mut self) {
        while self.next().await == Asked::Reload {}
    }

    /// Waits for the next signal. Cancel-safe.
    pub async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.hangup.recv() => match self.on_hangup {
                Hangup::Stops => Asked::Stop,
                Hangup::Reloads => Asked::Reload,
            },
        }
    }
}
