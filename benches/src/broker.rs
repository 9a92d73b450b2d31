//! Brokers that the benchmark starts, on ports that nobody uses, in folders of their own.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

use crate::error::LoadError;
use crate::process;
use crate::scrape;

/// How long a broker may take to be ready.
const READY_MAX: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(50);

/// The processes of all brokers that run.
static RUNNING: Mutex<Vec<u32>> = Mutex::new(Vec::new());

/// Ends all brokers of this process when it is asked to end (SIGTERM, SIGINT), and then the process.
///
/// # Errors
/// Signals cannot be received.
pub fn end_with_this_process() -> Result<(), LoadError> {
    let runtime = Builder::new_current_thread().enable_io().build();
    let runtime = runtime.map_err(LoadError::io("start the runtime"))?;
    let doing = "wait for signals";
    let (mut terminate, mut interrupt) = {
        let _entered = runtime.enter();
        (
            signal(SignalKind::terminate()).map_err(LoadError::io(doing))?,
            signal(SignalKind::interrupt()).map_err(LoadError::io(doing))?,
        )
    };
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            });
            for pid in running().iter() {
                // It may have ended by itself.
                let _killed = process::kill(*pid);
            }
            std::process::exit(1);
        })
        .map_err(LoadError::io(doing))?;
    Ok(())
}

fn running() -> MutexGuard<'static, Vec<u32>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Running brokers that form one service. They are killed when this is dropped.
#[derive(Debug)]
pub struct Brokers {
    nodes: Vec<BrokerNode>,
}

#[derive(Debug)]
struct BrokerNode {
    child: Child,
    mqtt: SocketAddr,
    admin: Option<SocketAddr>,
}

/// The ports of one Holdfast node.
#[derive(Debug, Clone, Copy)]
struct Ports {
    mqtt: SocketAddr,
    cluster: SocketAddr,
    admin: SocketAddr,
}

impl Brokers {
    /// A Holdfast cluster of `count` nodes; ready when it returns.
    ///
    /// # Errors
    /// It does not start: the reason is in `dir/node-N.log`.
    pub fn holdfast(binary: &Path, dir: &Path, count: u16) -> Result<Self, LoadError> {
        create_empty(dir)?;
        let ports = (0..count).map(|_| Ports::free());
        let ports = ports.collect::<io::Result<Vec<_>>>();
        let ports = ports.map_err(LoadError::io("find free ports"))?;
        let mut nodes = Vec::new();
        for (id, own) in (1_u16..).zip(&ports) {
            let file = dir.join(format!("node-{id}.toml"));
            write(&file, &holdfast_configuration(dir, id, &ports))?;
            let mut command = Command::new(binary);
            command.arg("run").arg("--config").arg(&file);
            nodes.push(BrokerNode {
                child: spawn(&mut command, &dir.join(format!("node-{id}.log")))?,
                mqtt: own.mqtt,
                admin: Some(own.admin),
            });
        }
        let brokers = Self { nodes };
        brokers.wait_until_ready(dir)?;
        Ok(brokers)
    }

    /// Debian's mosquitto, in memory, with no limit that could drop a message.
    ///
    /// # Errors
    /// It is not installed or does not start.
    pub fn mosquitto(dir: &Path) -> Result<Self, LoadError> {
        create_empty(dir)?;
        let mqtt = free_port().map_err(LoadError::io("find a free port"))?;
        let file = dir.join("mosquitto.conf");
        write(&file, &mosquitto_configuration(mqtt))?;
        let mut command = Command::new(mosquitto_binary());
        command.arg("-c").arg(&file);
        let nodes = vec![BrokerNode {
            child: spawn(&mut command, &dir.join("mosquitto.log"))?,
            mqtt,
            admin: None,
        }];
        let brokers = Self { nodes };
        brokers.wait_until_ready(dir)?;
        Ok(brokers)
    }

    /// Where clients connect.
    #[must_use]
    pub fn endpoints(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.mqtt).collect()
    }

    /// Where metrics are.
    #[must_use]
    pub fn admins(&self) -> Vec<SocketAddr> {
        self.nodes.iter().filter_map(|node| node.admin).collect()
    }

    /// Their processes.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        self.nodes.iter().map(|node| node.child.id()).collect()
    }

    /// The process that leads the most shards.
    ///
    /// # Errors
    /// No node tells.
    pub fn leader_pid(&self) -> Result<u32, LoadError> {
        let mut best = None;
        for node in &self.nodes {
            let Some(admin) = node.admin else { continue };
            let text = scrape::get(admin, "/metrics")?;
            let leads = text
                .lines()
                .filter(|line| line.starts_with("holdfast_raft_role{"))
                .filter(|line| line.contains("role=\"leader\"") && line.ends_with("} 1"))
                .count();
            if best.is_none_or(|(most, _)| leads > most) {
                best = Some((leads, node.child.id()));
            }
        }
        best.map(|(_, pid)| pid)
            .ok_or_else(|| LoadError::Protocol("no node tells what it leads".to_owned()))
    }

    fn wait_until_ready(&self, dir: &Path) -> Result<(), LoadError> {
        let deadline = Instant::now() + READY_MAX;
        while !self.nodes.iter().all(BrokerNode::is_ready) {
            if Instant::now() > deadline {
                let what = format!("the start of the brokers (logs: {})", dir.display());
                return Err(LoadError::TimedOut(what));
            }
            sleep(LOOK);
        }
        Ok(())
    }
}

impl BrokerNode {
    fn is_ready(&self) -> bool {
        match self.admin {
            Some(admin) => scrape::get(admin, "/readyz").is_ok(),
            None => TcpStream::connect_timeout(&self.mqtt, LOOK).is_ok(),
        }
    }
}

impl Drop for Brokers {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            running().retain(|pid| *pid != node.child.id());
            // It may be dead already: one of the runs kills.
            let _killed = node.child.kill();
            let _reaped = node.child.wait();
        }
    }
}

impl Ports {
    fn free() -> io::Result<Self> {
        Ok(Self {
            mqtt: free_port()?,
            cluster: free_port()?,
            admin: free_port()?,
        })
    }
}

/// A port of loopback that nobody used a moment ago.
fn free_port() -> io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}

fn holdfast_configuration(dir: &Path, id: u16, ports: &[Ports]) -> String {
    let own = ports.get(usize::from(id.saturating_sub(1)));
    let peers: Vec<_> = (1_u16..)
        .zip(ports)
        .map(|(peer, ports)| format!("\"{peer}@{}\"", ports.cluster))
        .collect();
    let (mqtt, cluster, admin) = own.map_or_else(Default::default, |own| {
        (
            own.mqtt.to_string(),
            own.cluster.to_string(),
            own.admin.to_string(),
        )
    });
    format!(
        "[node]\nid = {id}\ndata_dir = \"{dir}/node-{id}\"\n\
         [cluster]\nname = \"bench\"\nlisten = \"{cluster}\"\npeers = [{peers}]\nreplicas = {replicas}\n\
         [[listener]]\nname = \"tcp\"\nkind = \"mqtt\"\nbind = \"{mqtt}\"\n\
         [auth]\nanonymous = true\n[admin]\nbind = \"{admin}\"\n",
        dir = dir.display(),
        peers = peers.join(", "),
        replicas = ports.len(),
    )
}

/// As fast as it gets: nothing on disk, no limits, no Nagle delay, no log.
fn mosquitto_configuration(mqtt: SocketAddr) -> String {
    format!(
        "listener {} {}\nallow_anonymous true\npersistence false\nmax_queued_messages 0\n\
         max_queued_bytes 0\nmax_inflight_messages 100\nsys_interval 0\nset_tcp_nodelay true\n\
         log_type error\n",
        mqtt.port(),
        mqtt.ip()
    )
}

/// Debian puts it where only root's search path looks.
fn mosquitto_binary() -> PathBuf {
    let usual = Path::new("/usr/sbin/mosquitto");
    if usual.exists() {
        usual.to_owned()
    } else {
        PathBuf::from("mosquitto")
    }
}

fn spawn(command: &mut Command, log: &Path) -> Result<Child, LoadError> {
    let failed = || LoadError::io(format!("start {}", command.get_program().to_string_lossy()));
    let failed = failed();
    let file = fs::File::create(log).map_err(LoadError::io(log.to_string_lossy()))?;
    let same = file
        .try_clone()
        .map_err(LoadError::io(log.to_string_lossy()))?;
    command.stdin(Stdio::null()).stdout(file).stderr(same);
    let child = command.spawn().map_err(failed)?;
    running().push(child.id());
    Ok(child)
}

fn create_empty(dir: &Path) -> Result<(), LoadError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(LoadError::io(dir.to_string_lossy())(error));
        }
        Ok(()) | Err(_) => {}
    }
    fs::create_dir_all(dir).map_err(LoadError::io(dir.to_string_lossy()))
}

fn write(file: &Path, text: &str) -> Result<(), LoadError> {
    fs::write(file, text).map_err(LoadError::io(file.to_string_lossy()))
}
