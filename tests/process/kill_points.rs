//! Kills at each packet boundary of every exchange, and at random instants under load. The clients'
//! resumption times over all these kills are judged as well.

use std::time::{Duration, Instant};

use codec::ProtocolVersion;
use testkit::{
    Client, Cluster, ClusterOptions, History, NodeId, Receiver, client_id_in_shard, let_pass, scale,
};

use crate::boundary::{Actor, BOUNDARIES, check_witness, witnesses};
use crate::load::Load;
use crate::resumption_time::ResumptionTimes;
use crate::scene::{all_of, options, publisher, tag};

/// Rounds of kills at all packet boundaries: each node once.
const BOUNDARY_ROUNDS: usize = 3;
/// Kills at random instants, times the scale. With the rounds above: enough for a verdict on times.
const RANDOM_KILLS: u32 = 17;
/// A random kill comes within this span after the cluster is whole again.
const SPAN_MS: u64 = 1_000;

#[tokio::test]
async fn no_guarantee_breaks_wherever_a_node_is_killed() {
    let name = "no_guarantee_breaks_wherever_a_node_is_killed";
    let mut cluster = Cluster::start(
        name,
        ClusterOptions {
            alone: true,
            ..options()
        },
    )
    .await;
    let mut times = ResumptionTimes::default();
    for round in 0..BOUNDARY_ROUNDS {
        let victim = cluster.ids()[round % cluster.ids().len()];
        cluster.leaders().await;
        kill_at_each_boundary(&mut cluster, victim, round, &mut times).await;
    }
    kill_at_random_instants(&mut cluster, RANDOM_KILLS * scale(), &mut times).await;
    times.check();
}

/// Kills that do not wait for anything, times the scale.
const HASTY_KILLS: u32 = 12;
/// Between two of them.
const HASTY_SPAN_MS: u64 = 700;

#[tokio::test]
async fn nothing_is_lost_when_nodes_die_faster_than_they_recover() {
    let name = "nothing_is_lost_when_nodes_die_faster_than_they_recover";
    let mut cluster = Cluster::start(name, options()).await;
    let load = Load::start(&cluster, "k-hasty").await;
    for _ in 0..HASTY_KILLS * scale() {
        let wait = cluster.random().below(HASTY_SPAN_MS);
        let_pass(Duration::from_millis(wait)).await;
        let ids = cluster.ids();
        let victim = *cluster.random().choose(&ids);
        // Often the one before is not ready yet: then there is no quorum for a while.
        cluster.kill(victim);
        cluster.restart(victim);
    }
    cluster.wait_ready().await;
    load.progress(5).await;
    load.finish(&cluster).await;
}

/// Suspensions, times the scale.
const SLEEPS: u32 = 6;
/// How long at most: below and above lease, election timeout and `quorum_lost_after`.
const SLEEP_SPAN_MS: u64 = 3_500;

#[tokio::test]
async fn nothing_is_lost_or_repeated_when_nodes_sleep_at_random() {
    let name = "nothing_is_lost_or_repeated_when_nodes_sleep_at_random";
    let mut cluster = Cluster::start(name, options()).await;
    let load = Load::start(&cluster, "k-sleep").await;
    for _ in 0..SLEEPS * scale() {
        let ids = cluster.ids();
        let sleeper = *cluster.random().choose(&ids);
        let asleep = cluster.random().below(SLEEP_SPAN_MS);
        cluster.suspend(sleeper).await;
        let_pass(Duration::from_millis(asleep)).await;
        cluster.wake(sleeper);
        let awake = cluster.random().below(HASTY_SPAN_MS);
        let_pass(Duration::from_millis(awake)).await;
    }
    cluster.wait_ready().await;
    load.progress(5).await;
    load.finish(&cluster).await;
}

/// One client per boundary, version and shard, all on one node; all last packets leave in a burst,
/// and the node is killed.
async fn kill_at_each_boundary(
    cluster: &mut Cluster,
    victim: NodeId,
    round: usize,
    times: &mut ResumptionTimes,
) {
    let [near, far] = cluster.others(victim)[..] else {
        panic!("three nodes")
    };
    let witnesses = witnesses(cluster, far, round).await;
    let mut source = publisher(
        cluster,
        far,
        &format!("k-source-{round}"),
        ProtocolVersion::V5,
    )
    .await;
    let mut actors = Vec::new();
    for boundary in BOUNDARIES {
        for version in testkit::VERSIONS {
            for shard in 0..cluster.shards() {
                let prefix = format!("k{round}-{boundary:?}-{}-s{shard}", tag(version));
                let client_id = client_id_in_shard(&prefix, shard, cluster.shards());
                let address = cluster.mqtt(victim);
                actors.push(
                    Actor::start(boundary, client_id, version, address, cluster.history()).await,
                );
            }
        }
    }
    for actor in &mut actors {
        actor.prepare(&mut source).await;
    }
    shuffle(cluster, &mut actors);
    for actor in &mut actors {
        actor.strike().await;
    }
    let killed_at = cluster.kill(victim);

    let address = cluster.mqtt(near);
    let actors = all_of(actors.into_iter().map(|mut actor| async move {
        actor.resume(address).await;
        actor
    }))
    .await;
    times.record(
        actors
            .iter()
            .map(|actor| actor.connected_at() - killed_at)
            .collect(),
    );
    finish_actors(actors, &mut source, &witnesses, cluster.history()).await;
    cluster.restart_all().await;
}

async fn finish_actors(
    actors: Vec<Actor>,
    source: &mut Client,
    witnesses: &[Receiver],
    history: &History,
) {
    for mut actor in actors {
        actor.finish(source).await;
        for witness in witnesses {
            check_witness(witness, &actor).await;
        }
    }
    for witness in witnesses {
        assert_eq!(witness.log().violations, [""; 0], "{}", witness.name());
    }
    history.note("all boundaries hold");
}

async fn kill_at_random_instants(cluster: &mut Cluster, kills: u32, times: &mut ResumptionTimes) {
    let load = Load::start(cluster, "k-load").await;
    for _ in 0..kills {
        load.progress(5).await;
        let wait = cluster.random().below(SPAN_MS);
        let_pass(Duration::from_millis(wait)).await;
        let candidates: Vec<NodeId> = cluster
            .ids()
            .into_iter()
            .filter(|id| load.uses(cluster.mqtt(*id)))
            .collect();
        let victim = *cluster.random().choose(&candidates);
        let killed_at: Instant = cluster.kill(victim);
        times.record(load.resumptions(cluster.mqtt(victim), killed_at).await);
        load.progress(1).await;
        cluster.restart_all().await;
    }
    load.finish(cluster).await;
}

fn shuffle(cluster: &mut Cluster, actors: &mut [Actor]) {
    for index in (1..actors.len()).rev() {
        let bound = u64::try_from(index + 1).unwrap();
        let other = usize::try_from(cluster.random().below(bound)).unwrap();
        actors.swap(index, other);
    }
}
