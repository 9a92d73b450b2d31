//! One client's MQTT session as a pure state machine.
//!
//! [`Session::apply`] takes the time and one [`Input`] and appends every [`Output`] that follows, in
//! order. There is no clock, no I/O, no randomness and no hash iteration: equal sessions, times and
//! inputs give equal sessions and outputs. The same code therefore runs inside a replicated shard
//! (persistent sessions: every replica computes the same packet ids before anything is sent) and in
//! the memory of one node (transient sessions).
//!
//! # Contract
//! - `apply` never fails and never panics; what a client does wrong is an output or is ignored.
//! - **Positions.** Each QoS 1 or 2 delivery that the session accepts gets a position, from 1, growing
//!   by one. It names the delivery for ever; a packet id names it only while it is in flight.
//! - **Storage.** [`Output::Queued`], [`Output::Send`], [`Output::SendPubrel`],
//!   [`Output::Completed`] and [`Output::Reassign`] name each position whose [`Session::delivery_record`] may have changed.
//!   `Subscribed`, `Unsubscribed`, `Received` and `PubrelAnswered` do so for subscriptions and inbound
//!   ids. Everything else that is stored is [`Session::meta`], which is small and `Copy`: compare it.
//! - **Bodies.** The output of an `Input::Deliver` that carries a position for it (`Queued` or `Send`)
//!   takes one reference to its body; one `Released` gives it back, or `Reassign` hands it to the
//!   owner. A later `Send` of a queued delivery takes no further one. A session reads nothing of a
//!   body but what [`BodyRef`] says, and never compares or copies content.
//! - **Message expiry.** A message is dropped (`Dropped`, cause `Expired`) instead of sent or queued
//!   once its deadline has come [MQTT-3.3.2-5]. What is in flight stays, whatever its deadline: its
//!   packet id is owed an acknowledgement [MQTT-4.4.0-1] [MQTT-4.3.3-7]. Nothing wakes up for it:
//!   what expired leaves the queue when something enters it, or when its turn comes.
//! - **Resumption.** Read [`Session::resume`] *before* applying `Input::Connect`: its outputs already
//!   are new messages that go out behind the re-sent ones.
//! - **Expiry.** Apply `Input::Deadline` when [`Session::next_deadline`] is due, and before a
//!   `Connect` that comes later than that: a session that expired is not resumed [MQTT-4.1.0-2].
//!
//! # Invariants
//! - While connected, messages wait in the queue only if the window is full.
//! - Positions in flight are below all queued ones; queued positions have no gap.
//! - A packet id in flight names one position; there are at most 65,535.
//! - After PUBREC only packet id and position are left of a delivery, not its body.
//! - No message is sent twice by outputs, whatever the inputs: re-sending is the owner's act, once
//!   per new connection, never within one [MQTT-4.4.0-1].
//!
//! Cost: every input is O(log n) in what is in flight, plus the messages it moves or drops; taking a
//! packet id also skips the ids in use that follow the last one given.

mod delivery;
mod event;
mod expiry;
mod inbound;
mod limits;
mod outbound;
mod packet_ids;
mod parts;
mod queue;
mod session;
mod subscriptions;
pub mod will;

pub use delivery::{Body, BodyRef, Delivery, StoredMessage, remaining_expiry_s};
pub use event::{DropCause, Input, Output, Resend, Subscription};
pub use expiry::ConnectionState;
pub use limits::{QueueOverflow, SessionLimits};
pub use parts::{
    DeliveryParts, DeliveryPhase, DeliveryRecord, PartsError, SessionMeta, SessionParts,
};
pub use session::Session;
pub use subscriptions::effective_qos;
