//! What the clients use. A feature that the broker refuses is off, in this place only.

/// Which features the clients use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Features {
    /// Wills, with and without delay.
    pub(crate) wills: bool,
    /// Retained messages.
    pub(crate) retained: bool,
    /// Shared subscriptions.
    pub(crate) shared: bool,
    /// Messages that expire while the test runs.
    pub(crate) expiry: bool,
    /// Cuts between nodes.
    pub(crate) cuts: bool,
}

/// What the broker can do today.
pub(crate) const FEATURES: Features = Features {
    wills: true,
    retained: true,
    shared: true,
    expiry: true,
    cuts: true,
};
