//! Topic names to subscribers: who gets a message.
//!
//! Three entry points share one trie of topic levels:
//! - [`Router`] holds the subscriptions of many subscribers and answers, for a topic, which of
//!   them get the message, at which QoS and with which Subscription Identifiers. Its match decides.
//! - [`RouteTable`] counts, per topic filter, the targets (shards, nodes) that have it. It only
//!   says who is asked: a target matches again on its own subscriptions.
//! - [`SharedTable`] finds the groups of shared subscriptions that match a topic, and their members.
//!
//! [`RetainedTree`] asks the other way round: which topics a new filter matches.
//!
//! # Match rules (MQTT 5.0 and 3.1.1, section 4.7)
//! - Levels are separated by `/` and compared byte by byte; nothing is normalised [MQTT-4.7.3-4].
//!   An empty level is a level: `/a`, `a/`, `a//b` and `a/b` are four topics.
//! - `+` stands for exactly one level, also an empty one [MQTT-4.7.1-2].
//! - `#` stands for its parent level and everything below it [MQTT-4.7.1-1].
//! - A filter that starts with `+` or `#` matches no topic that starts with `$` [MQTT-4.7.2-1].
//!
//! # Cost
//! With *d* the levels of the topic or filter and *b* the children of a trie node:
//!
//! | operation | time |
//! |---|---|
//! | `route` | O(trie nodes that agree with a prefix of the topic · log *b* + matches), plus a sort if several filters match |
//! | `subscribe`, `unsubscribe`, `add`, `RouteTable::remove` | O(*d* · log *b*) |
//! | `Router::remove` | the same for each filter of that subscriber |
//! | `RouteTable::remove_target` | O(size of the table) |
//! | `SharedTable` | as `route`, `subscribe` and `remove`, in groups instead of subscribers |
//! | `RetainedTree::insert`, `remove`, `get` | O(log topics) |
//! | `RetainedTree::matching` | O((matches + leaps) · log topics), bounded per page |
//!
//! At most 2^*d* nodes agree with a topic, and only if that many filters with `+` exist; filters
//! without `+` add at most *d*. Nothing recurses, so the deepest legal topic (65,536 levels) costs
//! no stack. A match allocates only for its results and, past 16 open `+` branches, one list.
//! A filter costs about 130 bytes for each level it shares with no other filter: the caller bounds
//! the levels of a filter and the subscriptions of a session.
//!
//! A filter is taken as written: of a shared subscription (`$share/…`) the caller passes what follows
//! its ShareName; [`SharedTable`] alone takes the whole.
//!
//! # Determinism
//! Equal calls give equal results, in an order that is stated at each method: replicas route alike.
//! No clock, no thread, no hashing.

mod compact_map;
mod overlap;
mod retained;
mod route_table;
mod router;
mod shared;
mod trie;

pub use overlap::Match;
pub use retained::{Page, RetainedTree};
pub use route_table::RouteTable;
pub use router::{Router, Subscription};
pub use shared::{Members, SharedTable, choose};
