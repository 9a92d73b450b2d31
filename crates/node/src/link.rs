//! The live plane's way out: one ordered, acknowledged stream from this life to each life of a peer.
//!
//! Items keep until the peer has acknowledged them; a broken stream is opened again and goes on
//! where the peer says it stopped. When the peer's life ends, everything that waits for it is
//! answered: its transient sessions are gone.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use raft_store::{Incarnation, NodeId, PeerSecurity, peer_channel};
use tokio::sync::{Notify, mpsc};
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::count;
use crate::life::LifeId;
use crate::proto::live_ack::Kind as AckKind;
use crate::proto::live_frame::Kind as FrameKind;
use crate::proto::live_item::Kind as ItemKind;
use crate::proto::peers_client::PeersClient;
use crate::proto::{LiveAck, LiveFrame, LiveHello, LiveItem};
use crate::waiter::LiveWaiter;

/// Bytes that may wait for one peer before publishers stop being read (G9).
const WAITING_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes that wait although publishers that send to the peer are not read any more: each may have
/// added one message of its own. From here on no publisher is read.
const OVERFULL_BYTES: usize = 4 * WAITING_BYTES_MAX;
/// Items handed to the transport and not yet written.
const STREAM_ITEMS_MAX: usize = 256;
/// Pause before a broken stream is opened again.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// How long the peer may take to answer the hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(2);

/// The stream to one peer.
#[derive(Debug)]
pub(crate) struct Link {
    peer: NodeId,
    address: String,
    queue: Mutex<Queue>,
    overfull: AtomicBool,
    /// Something was queued, or the peer's life changed.
    queued: Notify,
    /// The queue fell below its bound.
    drained: Notify,
    bytes_sent: metrics::Counter,
}

#[derive(Debug, Default)]
struct Queue {
    /// The peer's life that the items are for; `None` while it has none.
    to: Option<Incarnation>,
    /// The newest life of the peer that is over.
    ended: Incarnation,
    /// The newest life of the peer that has welcomed a stream.
    reached: Incarnation,
    last_sequence: u64,
    items: VecDeque<Waiting>,
    bytes: usize,
    /// Received by the peer, which holds their acknowledgements up. Bounded by what publishers have
    /// under way.
    held: BTreeMap<u64, LiveWaiter>,
}

impl Queue {
    /// Nobody here needs to wait any longer.
    fn answer(self) {
        answer(self.items);
        for waiter in self.held.into_values() {
            waiter.released();
        }
    }
}

#[derive(Debug)]
struct Waiting {
    item: LiveItem,
    bytes: usize,
    waiter: Option<LiveWaiter>,
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error("{0}")]
    Status(#[from] tonic::Status),
    #[error("the peer closed the stream")]
    Closed,
    #[error("the peer's answer makes no sense")]
    Nonsense,
    #[error("the peer did not answer in time")]
    Timeout,
}

impl Link {
    /// A link without a peer life yet.
    pub(crate) fn new(peer: NodeId, address: String) -> Self {
        Self {
            peer,
            address,
            queue: Mutex::new(Queue::default()),
            overfull: AtomicBool::new(false),
            queued: Notify::new(),
            drained: Notify::new(),
            bytes_sent: count::peer_sent_bytes(peer.0),
        }
    }

    /// A new life of the peer began: everything for the older one is answered, and the new stream
    /// begins with `first` (this node's announcements).
    pub(crate) fn restart(&self, to: Incarnation, first: ItemKind) {
        let dropped = {
            let mut queue = self.lock();
            if queue.ended >= to || queue.to.is_some_and(|known| known >= to) {
                return;
            }
            let begun = Queue {
                to: Some(to),
                ended: queue.ended,
                reached: queue.reached,
                ..Queue::default()
            };
            let dropped = std::mem::replace(&mut *queue, begun);
            push(&mut queue, first, 0, None);
            self.note_bytes(&queue);
            dropped
        };
        self.queued.notify_one();
        self.drained.notify_waiters();
        dropped.answer();
    }

    /// That life of the peer is over.
    pub(crate) fn end(&self, ended: Incarnation) {
        let dropped = {
            let mut queue = self.lock();
            queue.ended = queue.ended.max(ended);
            if queue.to.is_none_or(|to| to > ended) {
                return;
            }
            let idle = Queue {
                ended: queue.ended,
                reached: queue.reached,
                ..Queue::default()
            };
            let dropped = std::mem::replace(&mut *queue, idle);
            self.note_bytes(&queue);
            dropped
        };
        self.queued.notify_one();
        self.drained.notify_waiters();
        dropped.answer();
    }

    /// Queues an item; `waiter` is answered when the peer has received it, or at once if the peer
    /// has no life. Returns the life that the item is for.
    pub(crate) fn send(
        &self,
        kind: ItemKind,
        bytes: usize,
        waiter: Option<LiveWaiter>,
    ) -> Option<Incarnation> {
        {
            let mut queue = self.lock();
            if let Some(to) = queue.to {
                push(&mut queue, kind, bytes, waiter);
                self.bytes_sent
                    .increment(u64::try_from(bytes).unwrap_or(u64::MAX));
                self.note_bytes(&queue);
                drop(queue);
                self.queued.notify_one();
                return Some(to);
            }
        }
        if let Some(waiter) = waiter {
            waiter.received();
        }
        None
    }

    /// The peer's life that items are for.
    pub(crate) fn peer_life(&self) -> Option<Incarnation> {
        self.lock().to
    }

    /// That life of the peer, or a later one, has welcomed a stream.
    pub(crate) fn has_reached(&self, incarnation: Incarnation) -> bool {
        self.lock().reached >= incarnation
    }

    /// More waits than the bound: QoS 0 is dropped, QoS 1 and 2 wait with `ready`.
    pub(crate) fn is_full(&self) -> bool {
        self.lock().bytes >= WAITING_BYTES_MAX
    }

    /// So much waits that nobody may add to it. Costs nothing to ask.
    pub(crate) fn is_overfull(&self) -> bool {
        self.overfull.load(Ordering::Relaxed)
    }

    fn note_bytes(&self, queue: &Queue) {
        self.overfull
            .store(queue.bytes >= OVERFULL_BYTES, Ordering::Relaxed);
    }

    /// Waits while more waits for the peer than the bound.
    pub(crate) async fn ready(&self) {
        loop {
            let notified = self.drained.notified();
            if !self.is_full() {
                return;
            }
            notified.await;
        }
    }

    /// Keeps a stream to the peer's current life until the task is aborted.
    pub(crate) async fn run(&self, from: LifeId, cluster: String, security: &PeerSecurity) {
        let channel = match peer_channel(&self.address, security) {
            Ok(channel) => channel,
            Err(error) => {
                tracing::error!(peer = %self.peer, address = self.address, %error, "peer address");
                return;
            }
        };
        loop {
            let to = self.lock().to;
            let Some(to) = to else {
                self.queued.notified().await;
                continue;
            };
            let hello = LiveHello {
                from: u32::from(from.node.0),
                from_incarnation: from.incarnation.0,
                to_incarnation: to.0,
                cluster: cluster.clone(),
            };
            if let Err(error) = self.stream(channel.clone(), hello, to).await {
                tracing::debug!(peer = %self.peer, %error, "live stream ended");
            }
            // Who is released no longer reaches this node.
            let held = std::mem::take(&mut self.lock().held);
            for waiter in held.into_values() {
                waiter.released();
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    /// One stream, from hello to its end.
    async fn stream(
        &self,
        channel: Channel,
        hello: LiveHello,
        to: Incarnation,
    ) -> Result<(), StreamError> {
        let (frames, receiver) = mpsc::channel(STREAM_ITEMS_MAX);
        let first = LiveFrame {
            kind: Some(FrameKind::Hello(hello)),
        };
        frames
            .send(first)
            .await
            .map_err(|_gone| StreamError::Closed)?;
        let mut client = PeersClient::new(channel)
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX);
        let opened = timeout(HELLO_TIMEOUT, client.live(ReceiverStream::new(receiver))).await;
        let mut acks = opened
            .map_err(|_elapsed| StreamError::Timeout)??
            .into_inner();
        let welcome = timeout(HELLO_TIMEOUT, acks.message()).await;
        let welcome = welcome.map_err(|_elapsed| StreamError::Timeout)??;
        let Some(AckKind::Welcome(mut sent)) = welcome.and_then(|ack| ack.kind) else {
            return Err(StreamError::Nonsense);
        };
        tracing::debug!(peer = %self.peer, received = sent, "live stream open");
        self.lock().reached = to;
        self.acknowledged(to, sent, &[]);
        while self.lock().to == Some(to) {
            let next = self.next_after(sent);
            tokio::select! {
                ack = acks.message() => {
                    let LiveAck { kind, held, released } = ack?.ok_or(StreamError::Closed)?;
                    let Some(AckKind::Upto(upto)) = kind else {
                        return Err(StreamError::Nonsense);
                    };
                    self.acknowledged(to, upto, &held);
                    self.released(to, &released);
                }
                permit = frames.reserve(), if next.is_some() => {
                    let permit = permit.map_err(|_gone| StreamError::Closed)?;
                    if let Some(item) = next {
                        sent = item.sequence;
                        permit.send(LiveFrame { kind: Some(FrameKind::Item(item)) });
                    }
                },
                // Also while the transport is full: the peer's life may have changed.
                () = self.queued.notified() => {}
            }
        }
        Ok(())
    }

    /// The next item to write. O(1): items are numbered without gaps.
    fn next_after(&self, sent: u64) -> Option<LiveItem> {
        let queue = self.lock();
        let first = queue.items.front()?.item.sequence;
        let offset = sent.saturating_add(1).saturating_sub(first);
        let offset = usize::try_from(offset).ok()?;
        queue.items.get(offset).map(|waiting| waiting.item.clone())
    }

    /// The peer has everything up to `upto`, and holds up what is in `held`, in ascending order.
    fn acknowledged(&self, to: Incarnation, upto: u64, held: &[u64]) {
        let mut done = VecDeque::new();
        {
            let mut queue = self.lock();
            if queue.to != Some(to) {
                return;
            }
            while let Some(mut waiting) = queue
                .items
                .pop_front_if(|waiting| waiting.item.sequence <= upto)
            {
                queue.bytes = queue.bytes.saturating_sub(waiting.bytes);
                let sequence = waiting.item.sequence;
                if !held.is_empty()
                    && held.binary_search(&sequence).is_ok()
                    && let Some(waiter) = waiting.waiter.take()
                {
                    waiter.held();
                    queue.held.insert(sequence, waiter);
                    continue;
                }
                done.push_back(waiting);
            }
            self.note_bytes(&queue);
        }
        self.drained.notify_waiters();
        answer(done);
    }

    /// The peer holds these up no longer.
    fn released(&self, to: Incarnation, released: &[u64]) {
        if released.is_empty() {
            return;
        }
        let waiters: Vec<_> = {
            let mut queue = self.lock();
            if queue.to != Some(to) {
                return;
            }
            let known = released.iter();
            known
                .filter_map(|sequence| queue.held.remove(sequence))
                .collect()
        };
        for waiter in waiters {
            waiter.released();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn push(queue: &mut Queue, kind: ItemKind, bytes: usize, waiter: Option<LiveWaiter>) {
    queue.last_sequence = queue.last_sequence.saturating_add(1);
    queue.bytes = queue.bytes.saturating_add(bytes);
    let item = LiveItem {
        sequence: queue.last_sequence,
        kind: Some(kind),
    };
    queue.items.push_back(Waiting {
        item,
        bytes,
        waiter,
    });
}

fn answer(items: VecDeque<Waiting>) {
    for waiting in items {
        if let Some(waiter) = waiting.waiter {
            waiter.received();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::AnnouncementSnapshot;

    fn item() -> ItemKind {
        ItemKind::Snapshot(AnnouncementSnapshot::default())
    }

    #[test]
    fn a_link_that_is_far_beyond_its_bound_says_so_until_it_is_not() {
        let link = Link::new(NodeId(2), String::new());
        link.restart(Incarnation(7), item());
        for _ in 0..3 {
            link.send(item(), WAITING_BYTES_MAX, None);
            assert!(link.is_full());
            assert!(!link.is_overfull());
        }
        link.send(item(), WAITING_BYTES_MAX, None);
        assert!(link.is_overfull());
        link.acknowledged(Incarnation(7), 2, &[]);
        assert!(!link.is_overfull());
        link.send(item(), WAITING_BYTES_MAX, None);
        assert!(link.is_overfull());
        link.end(Incarnation(7));
        assert!(!link.is_overfull());
    }
}
