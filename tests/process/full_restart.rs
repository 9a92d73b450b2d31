//! (f) kill -9 of all three nodes under load, restart: every acknowledged message is there (G1).

use std::time::Duration;

use testkit::{Cluster, let_pass};

use crate::load::{Load, note_acknowledged};
use crate::scene::options;

/// Messages that every publisher has acknowledged before each kill.
const BEFORE_KILL: usize = 30;
/// The kill comes at a random instant of this span after that.
const SPAN_MS: u64 = 500;
const ROUNDS: usize = 2;

#[tokio::test]
async fn nothing_acknowledged_is_lost_when_all_nodes_are_killed() {
    let name = "nothing_acknowledged_is_lost_when_all_nodes_are_killed";
    let mut cluster = Cluster::start(name, options()).await;
    let load = Load::start(&cluster, "f").await;
    for _ in 0..ROUNDS {
        load.progress(BEFORE_KILL).await;
        let wait = cluster.random().below(SPAN_MS);
        let_pass(Duration::from_millis(wait)).await;
        note_acknowledged(cluster.history(), &load);
        cluster.kill_all();
        cluster.restart_all().await;
    }
    load.progress(1).await;
    load.finish(&cluster).await;
}
