//! All clients of the cluster in the order of their ids, over the replicas of all shards.
//!
//! Each shard is read in short pages, so that its entries never wait for long, and the pages are
//! merged. A walk goes on behind the last id: whatever comes and goes meanwhile, a client that is
//! there throughout is met exactly once.

use std::collections::VecDeque;

use codec::ClientId;
use raft_store::{Machine, ShardId};

use crate::broker::Broker;

/// Clients that one look at a shard takes at most, and at least.
const PAGE_MAX: usize = 256;
const PAGE_MIN: usize = 16;

/// Reads a page of a shard: the clients behind one, at most so many.
type Read<T> = fn(&Machine, Option<&ClientId>, usize) -> Vec<T>;

/// One walk.
pub(super) struct Walk<'a, T> {
    broker: &'a Broker,
    read: Read<T>,
    client_id: fn(&T) -> &ClientId,
    page: usize,
    shards: Vec<Ahead<T>>,
}

/// What was read of a shard and not been passed yet.
struct Ahead<T> {
    shard: ShardId,
    page: VecDeque<T>,
    after: Option<ClientId>,
    at_end: bool,
}

impl<'a, T> Walk<'a, T> {
    /// From behind `after`; about `wanted` clients will be taken.
    pub(super) fn new(
        broker: &'a Broker,
        (read, client_id): (Read<T>, fn(&T) -> &ClientId),
        after: Option<&ClientId>,
        wanted: usize,
    ) -> Self {
        let shards = broker.shards.count();
        let page = wanted.div_ceil(usize::from(shards.max(1)));
        let ahead = |shard| Ahead {
            shard: ShardId(shard),
            page: VecDeque::new(),
            after: after.cloned(),
            at_end: false,
        };
        Self {
            broker,
            read,
            client_id,
            page: page.clamp(PAGE_MIN, PAGE_MAX),
            shards: (0..shards).map(ahead).collect(),
        }
    }

    fn fill(&mut self) {
        for ahead in &mut self.shards {
            if !ahead.page.is_empty() || ahead.at_end {
                continue;
            }
            let Some(shard) = self.broker.shards.shard(ahead.shard) else {
                ahead.at_end = true;
                continue;
            };
            let page =
                shard.with_machine(|machine| (self.read)(machine, ahead.after.as_ref(), self.page));
            ahead.at_end = page.is_empty();
            ahead.after = page.last().map(self.client_id).cloned();
            ahead.page = page.into();
        }
    }
}

impl<T> Iterator for Walk<'_, T> {
    type Item = (ShardId, T);

    fn next(&mut self) -> Option<(ShardId, T)> {
        self.fill();
        let client_id = self.client_id;
        let first = self
            .shards
            .iter_mut()
            .filter(|ahead| !ahead.page.is_empty())
            .min_by(|a, b| {
                let (a, b) = (a.page.front().map(client_id), b.page.front().map(client_id));
                a.cmp(&b)
            })?;
        Some((first.shard, first.page.pop_front()?))
    }
}
