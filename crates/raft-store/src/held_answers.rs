//! Answers to appends that nobody waits for share a message with the next one.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use tonic::Status;

use crate::proto::holdfast::raft::v1 as wire;

/// What a follower answers.
pub(crate) type Answer = Result<wire::AppendResponse, Status>;

/// How long the answer to an append without entries may wait for the next one.
const HELD_BACK_MAX: Duration = Duration::from_millis(50);
/// How many of them may wait: well below what the sender has under way.
const HELD_BACK_ANSWERS_MAX: usize = 8;

/// Of the appends of one stream that are not answered, in order: whether they have entries.
#[derive(Default)]
pub(crate) struct Unanswered(Mutex<VecDeque<bool>>);

impl Unanswered {
    fn lock(&self) -> MutexGuard<'_, VecDeque<bool>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more was received.
    pub(crate) fn add(&self, has_entries: bool) {
        self.lock().push_back(has_entries);
    }

    /// The next one is answered.
    fn has_entries(&self) -> bool {
        self.lock().pop_front().unwrap_or(true)
    }
}

/// Each entry is followed by an append without entries that says it is committed. Nobody waits for
/// the answer to that: it goes out together with the next one, as one message on the wire.
pub(crate) fn hold_back(
    answers: impl Stream<Item = Answer> + Send + Unpin + 'static,
    unanswered: Arc<Unanswered>,
) -> impl Stream<Item = Answer> + Send + 'static {
    // Asked once more after its end, for what was held back.
    let answers = answers.fuse();
    let (held, ready) = (VecDeque::new(), VecDeque::new());
    stream::unfold(
        (answers, unanswered, held, ready),
        |(mut answers, unanswered, mut held, mut ready)| async move {
            loop {
                if let Some(answer) = ready.pop_front() {
                    return Some((answer, (answers, unanswered, held, ready)));
                }
                let next = match held.is_empty() {
                    true => Ok(answers.next().await),
                    false => tokio::time::timeout(HELD_BACK_MAX, answers.next()).await,
                };
                let Ok(next) = next else {
                    ready.append(&mut held);
                    continue;
                };
                let Some(answer) = next else {
                    let last = held.pop_front()?;
                    ready.append(&mut held);
                    return Some((last, (answers, unanswered, held, ready)));
                };
                let can_wait = !unanswered.has_entries() && is_matching(&answer);
                held.push_back(answer);
                if !can_wait || held.len() > HELD_BACK_ANSWERS_MAX {
                    ready.append(&mut held);
                }
            }
        },
    )
}

fn is_matching(answer: &Answer) -> bool {
    let answer = answer
        .as_ref()
        .ok()
        .and_then(|answer| answer.result.as_ref());
    matches!(answer, Some(wire::append_response::Result::Matching(_)))
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    fn matching(index: u64) -> Answer {
        let log_id = Some(wire::LogId {
            term: 1,
            leader: 1,
            index,
        });
        let matching = wire::Matching { log_id };
        Ok(wire::AppendResponse {
            result: Some(wire::append_response::Result::Matching(matching)),
            applied: 0,
            declines_leadership: false,
        })
    }

    fn index(answer: Option<Answer>) -> u64 {
        let result = answer.unwrap().unwrap().result;
        let Some(wire::append_response::Result::Matching(matching)) = result else {
            panic!("{result:?}");
        };
        matching.log_id.unwrap().index
    }

    #[tokio::test]
    async fn answers_keep_their_order_and_only_those_without_entries_wait() {
        let unanswered = Arc::new(Unanswered::default());
        let (sender, receiver) = mpsc::channel(16);
        let answers = stream::unfold(receiver, |mut receiver| async move {
            Some((receiver.recv().await?, receiver))
        });
        let mut held = Box::pin(hold_back(Box::pin(answers), Arc::clone(&unanswered)));

        unanswered.add(true);
        sender.send(matching(1)).await.unwrap();
        assert_eq!(index(held.next().await), 1);

        unanswered.add(false);
        sender.send(matching(2)).await.unwrap();
        let early = futures::poll!(held.next());
        assert!(early.is_pending());
        unanswered.add(true);
        sender.send(matching(3)).await.unwrap();
        assert_eq!(index(held.next().await), 2);
        assert_eq!(index(held.next().await), 3);

        // Nothing follows: it waits no longer than it may.
        unanswered.add(false);
        sender.send(matching(4)).await.unwrap();
        assert_eq!(index(held.next().await), 4);

        unanswered.add(false);
        sender
            .send(Err(Status::unavailable("stopped")))
            .await
            .unwrap();
        assert!(held.next().await.unwrap().is_err());

        unanswered.add(false);
        sender.send(matching(5)).await.unwrap();
        drop(sender);
        assert_eq!(index(held.next().await), 5);
        assert!(held.next().await.is_none());
    }
}
