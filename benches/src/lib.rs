//! A load generator of our own, and what measures a broker under it.
//!
//! - [`workload`] says what to do; [`run`] does it on one thread and returns a [`report`].
//! - Every message carries who published it, its number and the moment at which it was due
//!   ([`payload`]), so each delivery is checked for loss, repetition and order ([`ledger`]), and
//!   latency counts from when a message was due, not from when there was room to send it
//!   ([`latency`]).
//! - What the brokers used comes from the operating system and from their own metrics
//!   ([`process`], [`scrape`]), taken while nothing is under way.
//! - [`suite`] starts [`broker`]s, loads them in turn, and fills the [`table`] of figures.
//!
//! Cheap by construction, since it shares the machine with the brokers: one thread, a PUBLISH is
//! a copy of a prepared one ([`template`]), each wake-up reads and writes at most once.

pub mod broker;
pub mod client;
pub mod connection;
pub mod error;
pub mod idle;
pub mod latency;
pub mod ledger;
pub mod pacer;
pub mod payload;
pub mod process;
pub mod publisher;
pub mod queue;
pub mod report;
pub mod run;
pub mod scrape;
pub mod shared;
pub mod subscriber;
pub mod suite;
pub mod table;
pub mod template;
pub mod workload;
