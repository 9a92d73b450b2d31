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
    /// 3.1.1 clients that publish with a session that ends with the connection, then with one that
    /// does not, under one client id. Without it they clear their session and leave at once.
    pub(crate) changes_kind: bool,
}

/// What the broker can do today.
pub(crate) const FEATURES: Features = Features {
    wills: true,
    retained: true,
    shared: true,
    expiry: true,
    cuts: true,
    // A message of the old kind, under way by another road, may arrive after one of the new kind.
    changes_kind: false,
};
