//! What waits at the leader of a shard while the entry before is on its way; together it becomes the
//! next entry.
//!
//! An entry costs a hundred times what a command in it costs: replication to each follower, a share
//! of an fsync on each node, and the wake-ups of everybody involved. So one entry of a shard is on
//! its way at a time, and batches of all proposers share the next one; a lone batch leaves at once,
//! and after a crowd the next entry waits for company ([`Pace`]).
//!
//! Bounded: each proposer has one batch under way, and one whose sender no longer waits is dropped.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};
use tokio::time::timeout_at;

use crate::command::Answers;
use crate::entry::EncodedBatch;
use crate::error::WriteError;
use crate::pace::Pace;

/// Bytes of one entry, at most this plus one batch: a follower is to confirm it within a heartbeat.
const ENTRY_BYTES_MAX: usize = 2 << 20;

/// Batches that wait for their entry.
#[derive(Default)]
pub(crate) struct GroupCommit {
    queue: Mutex<Queue>,
    arrived: Notify,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Waiting>,
    /// Nothing is committed any more.
    closed: bool,
}

struct Waiting {
    batch: EncodedBatch,
    sender: oneshot::Sender<Result<Answers, WriteError>>,
}

/// The batches of one entry.
pub(crate) struct Group(Vec<Waiting>);

/// Who waits for the answers to the batches of one entry, in their order.
pub(crate) struct Waiters(Vec<oneshot::Sender<Result<Answers, WriteError>>>);

impl GroupCommit {
    /// Waits for the batch's turn and for its answers.
    pub(crate) async fn write(&self, batch: EncodedBatch) -> Result<Answers, WriteError> {
        let (sender, answers) = oneshot::channel();
        {
            let mut queue = self.lock();
            if queue.closed {
                return Err(WriteError::Stopped);
            }
            queue.waiting.push(Waiting { batch, sender });
        }
        self.arrived.notify_one();
        answers.await.unwrap_or(Err(WriteError::Stopped))
    }

    /// Waits for batches and takes what one entry may hold. `None`: closed. Cancel-safe.
    pub(crate) async fn next(&self, pace: &Pace) -> Option<Group> {
        loop {
            let wait = {
                let mut queue = self.lock();
                if queue.closed {
                    return None;
                }
                let wait = pace.wait(queue.weight());
                if wait.is_none() {
                    let group = take_group(&mut queue.waiting);
                    if !group.is_empty() {
                        return Some(Group(group));
                    }
                }
                wait.filter(|_| !queue.waiting.is_empty())
            };
            let arrived = self.arrived.notified();
            match wait {
                Some(until) => drop(timeout_at(until, arrived).await),
                None => arrived.await,
            }
        }
    }

    /// Answers everybody that nothing is committed any more.
    pub(crate) fn close(&self) {
        let mut queue = self.lock();
        queue.closed = true;
        // Their receivers see that the senders are gone.
        queue.waiting.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn weight(&self) -> usize {
        self.waiting
            .iter()
            .map(|waiting| waiting.batch.weight())
            .sum()
    }
}

fn take_group(waiting: &mut Vec<Waiting>) -> Vec<Waiting> {
    waiting.retain(|waiting| !waiting.sender.is_closed());
    let mut bytes = 0_usize;
    let fits = waiting.iter().take_while(|waiting| {
        let fits = bytes < ENTRY_BYTES_MAX;
        bytes = bytes.saturating_add(waiting.batch.len_bytes());
        fits
    });
    let count = fits.count();
    waiting.drain(..count).collect()
}

impl Group {
    /// What its batches count together.
    pub(crate) fn weight(&self) -> usize {
        self.0.iter().map(|waiting| waiting.batch.weight()).sum()
    }

    pub(crate) fn into_parts(self) -> (Vec<EncodedBatch>, Waiters) {
        let (batches, senders) = self
            .0
            .into_iter()
            .map(|waiting| (waiting.batch, waiting.sender))
            .unzip();
        (batches, Waiters(senders))
    }
}

impl Waiters {
    /// Hands each the answers to its batch.
    pub(crate) fn answer(self, answers: Result<Arc<[Answers]>, WriteError>) {
        for (place, sender) in self.0.into_iter().enumerate() {
            let answer = match &answers {
                Ok(answers) => answers.get(place).cloned().ok_or(WriteError::Unknown),
                Err(error) => Err(*error),
            };
            // Whoever no longer waits sends the batch again or needs no answer.
            drop(sender.send(answer));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use codec::Timestamp;

    use super::*;
    use crate::batch::{Batch, ProposerId};

    fn batch(len: usize) -> EncodedBatch {
        EncodedBatch::new(Batch {
            proposer: ProposerId::Idempotent,
            sequence: 0,
            leader_time: Timestamp::ZERO,
            commands: vec![Bytes::from(vec![0; len])],
        })
    }

    fn answers(count: usize) -> Arc<[Answers]> {
        (0..count).map(|_| Answers::from([])).collect()
    }

    #[tokio::test]
    async fn what_waits_together_is_one_group_and_each_gets_its_answer() {
        let group_commit = GroupCommit::default();
        let write =
            async { tokio::join!(group_commit.write(batch(1)), group_commit.write(batch(2))) };
        let commit = async {
            let (batches, waiters) = group_commit
                .next(&Pace::default())
                .await
                .unwrap()
                .into_parts();
            waiters.answer(Ok(answers(batches.len())));
            batches.len()
        };
        let ((first, second), count) = tokio::join!(write, commit);
        assert!(first.is_ok() && second.is_ok());
        assert_eq!(count, 2);
    }

    #[tokio::test]
    async fn an_entry_is_bounded_and_a_single_large_batch_passes() {
        let group_commit = Arc::new(GroupCommit::default());
        for _ in 0..3 {
            let group_commit = Arc::clone(&group_commit);
            tokio::spawn(async move { group_commit.write(batch(ENTRY_BYTES_MAX)).await });
        }
        for _ in 0..3 {
            let (batches, waiters) = group_commit
                .next(&Pace::default())
                .await
                .unwrap()
                .into_parts();
            assert_eq!(batches.len(), 1);
            waiters.answer(Ok(answers(1)));
        }
    }

    fn batch_of(commands: usize) -> EncodedBatch {
        EncodedBatch::new(Batch {
            proposer: ProposerId::Idempotent,
            sequence: 0,
            leader_time: Timestamp::ZERO,
            commands: vec![Bytes::new(); commands],
        })
    }

    #[tokio::test]
    async fn after_a_crowd_a_batch_waits_for_the_others() {
        let group_commit = Arc::new(GroupCommit::default());
        let pace = Pace::waiting_for(40);
        let mut next = Box::pin(group_commit.next(&pace));
        let mut writes = Vec::new();
        for commands in [10, 20, 10] {
            let early = futures::poll!(next.as_mut());
            assert!(early.is_pending());
            let mut write = Box::pin(group_commit.write(batch_of(commands)));
            let answered = futures::poll!(write.as_mut());
            assert!(answered.is_pending());
            writes.push(write);
        }
        assert_eq!(next.await.unwrap().weight(), 40);
    }

    #[tokio::test]
    async fn who_waits_for_a_crowd_that_does_not_come_leaves_when_the_time_is_up() {
        let group_commit = GroupCommit::default();
        let mut pace = Pace::default();
        pace.answered(40, Duration::from_millis(5));
        let (_, group) = tokio::join!(
            tokio::time::timeout(Duration::from_secs(60), group_commit.write(batch_of(10))),
            async {
                let group = group_commit.next(&pace).await.unwrap();
                group_commit.close();
                group.weight()
            }
        );
        assert_eq!(group, 10);
    }

    #[tokio::test]
    async fn a_batch_whose_sender_is_gone_is_not_written() {
        let group_commit = GroupCommit::default();
        drop(futures::poll!(Box::pin(group_commit.write(batch(1)))));
        let (batches, _) = {
            let write = Box::pin(group_commit.write(batch(2)));
            let pace = Pace::default();
            let next = Box::pin(group_commit.next(&pace));
            match futures::future::select(next, write).await {
                futures::future::Either::Left((group, _)) => group.unwrap().into_parts(),
                futures::future::Either::Right(_) => panic!("not committed"),
            }
        };
        assert_eq!(batches.len(), 1);
    }

    #[tokio::test]
    async fn after_the_end_nothing_waits() {
        let group_commit = GroupCommit::default();
        let close = async { group_commit.close() };
        let (waiting, ()) = tokio::join!(group_commit.write(batch(1)), close);
        assert_eq!(waiting, Err(WriteError::Stopped));
        assert_eq!(group_commit.write(batch(1)).await, Err(WriteError::Stopped));
        assert!(group_commit.next(&Pace::default()).await.is_none());
    }
}
