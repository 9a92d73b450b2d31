//! Queues that build up while their subscribers are away, and drain when they come back.

use crate::error::LoadError;
use crate::report::Report;
use crate::run::{PhaseTimes, Run, on_this_thread};
use crate::workload::Workload;

/// What filling and what emptying the queues cost.
#[derive(Debug, Clone)]
pub struct QueueReport {
    /// Publishing while nobody is there; resident memory is that with full queues. Its deliveries
    /// are none.
    pub filling: Report,
    /// From the moment subscribers come back to the last delivery. Its costs count per delivery.
    pub draining: Report,
}

/// Publishes `messages_per_publisher` while all subscribers are away, then lets them come back.
///
/// # Errors
/// The sessions are not persistent or would not queue, or what [`run`](crate::run::run) says.
pub fn run_queue(
    workload: &Workload,
    messages_per_publisher: u64,
) -> Result<QueueReport, LoadError> {
    workload.check()?;
    if !workload.persistent || workload.qos == codec::Qos::AtMostOnce {
        let message = "queues need persistent sessions and QoS 1 or 2";
        return Err(LoadError::Usage(message.to_owned()));
    }
    on_this_thread(fill_and_drain(workload, messages_per_publisher))
}

async fn fill_and_drain(
    workload: &Workload,
    messages_per_publisher: u64,
) -> Result<QueueReport, LoadError> {
    let run = Run::start(workload).await?;
    let shared = &run.shared;
    shared.subscribers_away.set(true);
    shared.messages_max.set(messages_per_publisher);
    shared.wake_all();
    must(
        run.wait(|| shared.connected.get() == workload.publishers)
            .await,
        "leaving",
    )?;
    shared.recording.set(true);
    let before = run.snapshot()?;
    let start_ns = run.begin();
    let messages = messages_per_publisher * u64::from(workload.publishers);
    let filled = run.wait(|| shared.totals().acknowledged == messages).await;
    let filled_ns = shared.now_ns() - start_ns;
    let full = run.snapshot()?;
    shared.publishing.set(false);
    shared.subscribers_away.set(false);
    let start_ns = shared.now_ns();
    shared.phase_start_ns.set(start_ns);
    let drained = run.drain(start_ns).await;
    let empty = run.snapshot()?;
    let times = PhaseTimes {
        acknowledged_ns: filled_ns,
        delivered_ns: filled_ns,
    };
    let mut filling = full.since(&before, workload, &times);
    let mut draining = empty.since(&full, workload, &drained);
    run.finish(&mut draining).await?;
    filling.name = format!("{}, filling", workload.name);
    draining.name = format!("{}, draining", workload.name);
    filling.checked.sent = messages;
    must(filled, "filling the queues")?;
    Ok(QueueReport { filling, draining })
}

fn must(is_so: bool, what: &str) -> Result<(), LoadError> {
    match is_so {
        true => Ok(()),
        false => Err(LoadError::TimedOut(what.to_owned())),
    }
}
