//! Proof that what a node began has happened everywhere: a message that follows it through every
//! shard to every node.
//!
//! On each node there is a subscriber in each shard, with a session that outlives its connection:
//! what is for it goes through its shard's log. A message that is published at a node after something
//! else passes the same queues, of shards and between nodes, behind it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use codec::{Packet, ProtocolVersion, Qos};
use testkit::client::{RecvError, delivery};
use testkit::{Client, Cluster, ConnectOptions, History, client_id_in_shard};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// A subscription to everything does not get what begins with `$`.
const TOPIC: &str = "$conformance/barrier";
/// Longer than any election.
const PASSED_WITHIN: Duration = Duration::from_secs(40);
/// How long a subscriber reads at a time.
const READ_FOR: Duration = Duration::from_secs(600);

/// Publishers on each node, subscribers on each node in each shard.
pub(crate) struct Barrier {
    publishers: Vec<Mutex<Publisher>>,
    /// Calls so far, by node: those that come while a message is on its way share the next one.
    calls: Vec<AtomicU64>,
    subscribers: Vec<Subscriber>,
}

struct Publisher {
    client: Client,
    /// Messages published.
    count: u64,
    /// Calls that the last one is for.
    covered: u64,
}

struct Subscriber {
    /// The last number of each node's publisher.
    seen: watch::Receiver<Vec<u64>>,
    reader: JoinHandle<()>,
}

impl Barrier {
    /// Connects to all nodes.
    pub(crate) async fn new(cluster: &Cluster) -> Self {
        let history = History::new();
        let mut publishers = Vec::new();
        let mut subscribers = Vec::new();
        let nodes = cluster.ids();
        for node in &nodes {
            let address = [cluster.mqtt(*node)];
            for shard in 0..cluster.shards() {
                let name = format!("barrier-{node}-{shard}");
                let id = client_id_in_shard(&name, shard, cluster.shards());
                let options = ConnectOptions::persistent(id, ProtocolVersion::V5);
                let options = options.clean_start(true);
                let mut client = Client::connect_any(&address, &options, &history).await;
                client.subscribe(TOPIC, Qos::AtLeastOnce).await;
                let (sender, seen) = watch::channel(vec![0; nodes.len()]);
                let reader = tokio::spawn(read(client, sender));
                subscribers.push(Subscriber { seen, reader });
            }
            let id = format!("barrier-publisher-{node}");
            let options = ConnectOptions::transient(id, ProtocolVersion::V5);
            let client = Client::connect_any(&address, &options, &history).await;
            publishers.push(Mutex::new(Publisher {
                client,
                count: 0,
                covered: 0,
            }));
        }
        Self {
            calls: publishers.iter().map(|_| AtomicU64::new(0)).collect(),
            publishers,
            subscribers,
        }
    }

    /// Waits until everything that `node` began before has happened on all nodes that live.
    pub(crate) async fn pass(&self, node: usize) -> Result<(), String> {
        timeout(PASSED_WITHIN, self.publish_and_wait(node))
            .await
            .unwrap_or_else(|_| Err(format!("no message from node {node} passed every shard")))
    }

    async fn publish_and_wait(&self, node: usize) -> Result<(), String> {
        let index = node - 1;
        let publisher = self.publishers.get(index).ok_or("no such node")?;
        let call = self.calls[index].fetch_add(1, Ordering::SeqCst) + 1;
        let count = {
            let mut publisher = publisher.lock().await;
            if publisher.covered < call {
                publisher.covered = self.calls[index].load(Ordering::SeqCst);
                publisher.publish(index).await?;
            }
            publisher.count
        };
        for subscriber in &self.subscribers {
            let mut seen = subscriber.seen.clone();
            // One whose node was killed has nothing to wait for.
            drop(seen.wait_for(|seen| seen[index] >= count).await);
        }
        Ok(())
    }
}

impl Publisher {
    async fn publish(&mut self, index: usize) -> Result<(), String> {
        self.count += 1;
        let count = self.count;
        let id = u16::try_from(count % 60_000 + 1).map_err(|error| error.to_string())?;
        let payload = format!("{index} {count}");
        self.client.publish_qos1(id, TOPIC, &payload).await;
        Ok(())
    }
}

impl Drop for Barrier {
    fn drop(&mut self) {
        for subscriber in &self.subscribers {
            subscriber.reader.abort();
        }
    }
}

async fn read(mut client: Client, seen: watch::Sender<Vec<u64>>) {
    loop {
        match client.recv_within(READ_FOR).await {
            Ok(packet @ Packet::Publish(_)) => {
                let Some(delivery) = delivery(&packet) else {
                    continue;
                };
                client.puback(delivery.id).await;
                let mut numbers = delivery.payload.split(' ');
                let index = numbers.next().and_then(|text| text.parse::<usize>().ok());
                let count = numbers.next().and_then(|text| text.parse::<u64>().ok());
                if let (Some(index), Some(count)) = (index, count) {
                    seen.send_modify(|seen| seen[index] = seen[index].max(count));
                }
            }
            Ok(_) | Err(RecvError::Silent) => {}
            Err(_) => return,
        }
    }
}
