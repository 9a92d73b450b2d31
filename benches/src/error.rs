//! Why a run could not be carried out. What the broker does wrong under load is no error but part
//! of the report.

use std::io;

/// A run that cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The system refused something.
    #[error("{doing}: {source}")]
    Io {
        /// What was tried.
        doing: String,
        /// What the system said.
        source: io::Error,
    },
    /// The broker answered something that it must not.
    #[error("{0}")]
    Protocol(String),
    /// Something did not happen in time.
    #[error("{0} did not happen in time")]
    TimedOut(String),
    /// The parameters contradict each other.
    #[error("{0}")]
    Usage(String),
}

impl LoadError {
    /// For `map_err`: the failed system call with what it was for.
    pub fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source }
    }
}
