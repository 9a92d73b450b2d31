//! `holdfast demo`: a cluster of real processes on this machine, to try what a kill does.
//!
//! Each node is `holdfast run --config DIR/node-N.toml`, as an operator would start it. The nodes
//! live in process groups of their own, so that Ctrl-C reaches only the demo, which stops them in
//! order; each watches a pipe from the demo, so that none outlives it, even after kill -9.

mod layout;
mod probe;
mod text;

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, timeout};

use crate::cli::{DemoArguments, say};
use crate::error::StartError;
use crate::signals::{Hangup, StopSignals};
use layout::{DemoNode, Layout};

/// Longest wait for every node to be ready.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How often a node that is not ready is asked again.
const POLL_EVERY: Duration = Duration::from_millis(200);
/// How long a node may take to stop in order before it is killed.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// Runs the demo until Ctrl-C, SIGTERM or a closed terminal.
///
/// # Errors
/// [`StartError::Usage`] when a port or the folder is taken; [`StartError::Failed`] when a node
/// does not start.
pub async fn run(arguments: &DemoArguments) -> Result<(), StartError> {
    let mut signals = StopSignals::install(Hangup::Stops)?;
    let (dir, scratch) = folder(arguments)?;
    let layout = Layout::prepare(arguments, &dir)?;
    layout.check_ports()?;
    say(&text::starting(&layout));
    let mut nodes = Nodes::start(&layout)?;
    let outcome = nodes.run(&mut signals).await;
    nodes.stop().await;
    if let Some(scratch) = scratch {
        std::fs::remove_dir_all(&scratch).map_err(|error| {
            StartError::failed(
                format!("cannot remove the temporary folder {}", scratch.display()),
                error,
            )
        })?;
    }
    if outcome.is_ok() {
        say("All nodes stopped.");
    }
    outcome
}

/// The folder of the demo, and the same once more if it is to be removed at the end.
fn folder(arguments: &DemoArguments) -> Result<(PathBuf, Option<PathBuf>), StartError> {
    let dir = if arguments.ephemeral {
        std::env::temp_dir().join(format!("holdfast-demo-{}", std::process::id()))
    } else {
        arguments.dir.clone()
    };
    let failed =
        |error| StartError::failed(format!("cannot make the folder {}", dir.display()), error);
    std::fs::create_dir_all(&dir).map_err(failed)?;
    // Absolute, so that the printed commands work from anywhere.
    let dir = dir.canonicalize().map_err(failed)?;
    let scratch = arguments.ephemeral.then(|| dir.clone());
    Ok((dir, scratch))
}

/// What a running node reports.
enum Event {
    /// The process ended.
    Ended { node: usize, status: ExitStatus },
    /// A node that had ended answers as ready again: somebody restarted it.
    Back { node: usize },
}

/// Most events that wait: each node has one task that sends, and each waits for room.
const EVENTS_MAX: usize = 16;

/// The processes of the demo.
struct Nodes {
    nodes: Vec<DemoNode>,
    /// Process id of each node that we started and that still runs.
    process_ids: Vec<Option<u32>>,
    events: mpsc::Receiver<Event>,
    watchers: JoinSet<()>,
}

impl Nodes {
    fn start(layout: &Layout) -> Result<Self, StartError> {
        let executable = std::env::current_exe()
            .map_err(|error| StartError::failed("cannot find this program's own file", error))?;
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let mut watchers = JoinSet::new();
        let mut process_ids = Vec::new();
        for (place, node) in layout.nodes.iter().enumerate() {
            let child = spawn(&executable, node).map_err(|error| {
                StartError::failed(format!("cannot start node {}", node.id), error)
            })?;
            process_ids.push(child.id());
            watchers.spawn(watch(place, node.clone(), child, sender.clone()));
        }
        Ok(Self {
            nodes: layout.nodes.clone(),
            process_ids,
            events,
            watchers,
        })
    }

    /// Waits until the nodes are ready, then tells what happens to them until a signal comes.
    async fn run(&mut self, signals: &mut StopSignals) -> Result<(), StartError> {
        let started = Instant::now();
        let everyone_ready = probe::wait_for_all(self.nodes.clone(), POLL_EVERY);
        tokio::pin!(everyone_ready);
        tokio::select! {
            () = signals.any() => return Ok(()),
            ready = timeout(READY_WITHIN, &mut everyone_ready) => if ready.is_err() {
                return Err(self.not_ready().await);
            },
            event = self.events.recv() => return Err(self.died_early(event)),
        }
        say(&text::ready(
            &self.nodes,
            &self.process_ids,
            started.elapsed(),
        ));
        loop {
            tokio::select! {
                () = signals.any() => {
                    say("\nStopping the nodes …");
                    return Ok(());
                }
                Some(event) = self.events.recv() => self.tell(&event),
            }
        }
    }

    fn tell(&mut self, event: &Event) {
        match event {
            Event::Ended { node, status } => {
                if let Some(process_id) = self.process_ids.get_mut(*node) {
                    *process_id = None;
                }
                if let Some(node) = self.nodes.get(*node) {
                    say(&text::ended(node, *status));
                }
            }
            Event::Back { node } => {
                if let Some(node) = self.nodes.get(*node) {
                    say(&text::back(node));
                }
            }
        }
    }

    /// The error for a node that ended before the cluster was ready.
    fn died_early(&mut self, event: Option<Event>) -> StartError {
        let place = match event {
            Some(Event::Ended { node, .. } | Event::Back { node }) => node,
            None => 0,
        };
        if let Some(process_id) = self.process_ids.get_mut(place) {
            *process_id = None;
        }
        let Some(node) = self.nodes.get(place) else {
            return StartError::failed("a node ended during the start", "see its log");
        };
        let last =
            layout::last_log_line(&node.log_file).unwrap_or_else(|| "its log is empty".to_owned());
        StartError::failed(
            format!(
                "node {} ended during the start (log: {})",
                node.id,
                node.log_file.display()
            ),
            last,
        )
    }

    /// The error for nodes that are not ready in time.
    async fn not_ready(&self) -> StartError {
        let mut reasons = Vec::new();
        for node in &self.nodes {
            if let Err(reason) = probe::ready(node.admin).await {
                reasons.push(format!(
                    "node {}: {} (log: {})",
                    node.id,
                    reason.trim(),
                    node.log_file.display()
                ));
            }
        }
        let what = format!("not every node is ready after {} s", READY_WITHIN.as_secs());
        StartError::failed(what, reasons.join("\n"))
    }

    /// Stops what still runs: SIGTERM, and SIGKILL for what is still there after [`STOP_WITHIN`].
    async fn stop(mut self) {
        self.signal_all(rustix::process::Signal::TERM);
        let ended = async {
            while self.process_ids.iter().any(Option::is_some) {
                let Some(event) = self.events.recv().await else {
                    return;
                };
                if let Event::Ended { node, .. } = event
                    && let Some(process_id) = self.process_ids.get_mut(node)
                {
                    *process_id = None;
                }
            }
        };
        if timeout(STOP_WITHIN, ended).await.is_err() {
            say(&format!(
                "Killing what has not stopped within {} s.",
                STOP_WITHIN.as_secs()
            ));
        }
        // Ends the watchers; the children they own are killed with them, if any is left.
        self.watchers.shutdown().await;
    }

    fn signal_all(&self, which: rustix::process::Signal) {
        for process_id in self.process_ids.iter().flatten() {
            let raw = i32::try_from(*process_id)
                .ok()
                .and_then(rustix::process::Pid::from_raw);
            if let Some(process_id) = raw {
                // An error means that it has ended already.
                rustix::process::kill_process(process_id, which).ok();
            }
        }
    }
}

/// Starts one node.
fn spawn(executable: &Path, node: &DemoNode) -> std::io::Result<Child> {
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(&node.log_file)?;
    let mut command = Command::new(executable);
    command
        .args(["run", "--exit-with-stdin", "--config"])
        .arg(&node.config_file)
        .stdin(Stdio::piped())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .kill_on_drop(true);
    // The nodes of a demo are configured by their files alone.
    for (name, _) in std::env::vars_os() {
        if name
            .to_str()
            .is_some_and(|name| name.starts_with("HOLDFAST_") && name.contains("__"))
        {
            command.env_remove(name);
        }
    }
    command.spawn()
}

/// Reports when a node ends, and when somebody has started it again.
async fn watch(place: usize, node: DemoNode, mut child: Child, events: mpsc::Sender<Event>) {
    // `wait` would close it, which tells the node to stop.
    let _standard_input = child.stdin.take();
    let Ok(status) = child.wait().await else {
        return;
    };
    if events
        .send(Event::Ended {
            node: place,
            status,
        })
        .await
        .is_err()
    {
        return;
    }
    let mut poll = interval(POLL_EVERY);
    let mut was_ready = false;
    loop {
        poll.tick().await;
        let is_ready = probe::ready(node.admin).await.is_ok();
        if is_ready && !was_ready && events.send(Event::Back { node: place }).await.is_err() {
            return;
        }
        was_ready = is_ready;
    }
}
