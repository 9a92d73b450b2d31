//! Whole-system tests with the real binary: three processes, real RocksDB, kill -9, clients that
//! control and record every packet. Each scenario runs for 3.1.1 and 5.0, with clients in every
//! shard, so some of them led by the node that is killed and some not.
//!
//! A failing test prints its seed, all packets and the ends of the nodes' logs. `HOLDFAST_TEST_SEED`
//! repeats the random choices, `HOLDFAST_TEST_SCALE` lengthens the random tests.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "tests fail by panicking, and whatever they do not expect is a failure"
)]

mod access;
mod acl;
mod acl_sessions;
mod admin;
mod authentication;
mod boundary;
mod bounds;
mod bulk;
mod cluster_security;
mod commands;
mod credentials;
mod disk;
mod drain;
mod durations;
mod exchange;
mod expiry;
mod fsync;
mod full_restart;
mod kill_points;
mod leader_loss;
mod limits;
mod load;
mod offline_queue;
mod open_files;
mod openapi;
mod ownership;
mod publisher_failover;
mod quorum_lost;
mod reload;
mod resume_qos1;
mod resume_qos2;
mod resumption_time;
mod retained;
mod scene;
mod shared;
mod shared_failover;
mod smoke;
mod storage;
mod sys_topics;
mod takeover;
mod tls_check;
mod transports;
mod visibility;
mod wills;
