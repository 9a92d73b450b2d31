//! The demo's folder: `DIR/node-N.toml`, `DIR/node-N/` and `DIR/node-N.log` of each node.
//!
//! Configuration files that exist are used as they are, never overwritten: edit one, start again.

use std::fs;
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use crate::cli::DemoArguments;
use crate::config::{Config, Loaded, Sources};
use crate::error::StartError;

/// One node of the demo.
#[derive(Debug, Clone)]
pub(super) struct DemoNode {
    pub(super) id: u16,
    pub(super) mqtt: SocketAddr,
    pub(super) cluster: SocketAddr,
    pub(super) admin: SocketAddr,
    pub(super) config_file: PathBuf,
    pub(super) log_file: PathBuf,
}

/// All nodes of the demo, in order.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) dir: PathBuf,
    pub(super) nodes: Vec<DemoNode>,
}

impl Layout {
    /// Writes the configuration files that are missing, and reads all of them.
    pub(super) fn prepare(arguments: &DemoArguments, dir: &Path) -> Result<Self, StartError> {
        check_folder(dir, arguments.nodes)?;
        let nodes = (1..=arguments.nodes)
            .map(|id| node(arguments, dir, id))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            dir: dir.to_owned(),
            nodes,
        })
    }

    /// Finds out before anything is started whether a port is taken, and says which and what for.
    pub(super) fn check_ports(&self) -> Result<(), StartError> {
        for node in &self.nodes {
            for (purpose, address, flag) in [
                ("MQTT", node.mqtt, "--mqtt-port"),
                ("cluster", node.cluster, "--cluster-port"),
                ("admin", node.admin, "--admin-port"),
            ] {
                if let Err(error) = TcpListener::bind(address) {
                    let (id, dir) = (node.id, self.dir.display());
                    return Err(StartError::Usage(format!(
                        "port {} on {} ({purpose} of node {id}): {error}; stop what uses it (another demo?), or choose others with {flag} and an empty --dir (this one: {dir})",
                        address.port(),
                        address.ip(),
                    )));
                }
            }
        }
        Ok(())
    }
}

/// Refuses a folder that holds something else, or a demo of another size.
fn check_folder(dir: &Path, nodes: u8) -> Result<(), StartError> {
    let failed = |error| StartError::failed(format!("cannot list {}", dir.display()), error);
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        names.push(
            entry
                .map_err(failed)?
                .file_name()
                .to_string_lossy()
                .into_owned(),
        );
    }
    let configured = names
        .iter()
        .filter(|name| name.starts_with("node-") && name.ends_with(".toml"))
        .count();
    if !names.is_empty() && configured == 0 {
        let message = format!(
            "{} is not empty and holds no demo: give an empty or a new folder as --dir",
            dir.display()
        );
        return Err(StartError::Usage(message));
    }
    // Fewer are fine only when none was written yet: a first start may have been cut short.
    if configured > usize::from(nodes) || (configured > 0 && !is_cluster_of(dir, nodes)) {
        let message = format!(
            "{} holds a demo of another size than --nodes {nodes}: give another --dir, or remove it to start anew",
            dir.display()
        );
        return Err(StartError::Usage(message));
    }
    Ok(())
}

/// Whether the first configuration in the folder names as many peers as there shall be nodes. One
/// that cannot be read is reported where it is loaded.
fn is_cluster_of(dir: &Path, nodes: u8) -> bool {
    load(&config_file(dir, 1)).map_or(true, |config| {
        config.cluster.peers.len() == usize::from(nodes)
    })
}

fn config_file(dir: &Path, id: u8) -> PathBuf {
    dir.join(format!("node-{id}.toml"))
}

/// Makes sure that a node has a configuration file, and reads it.
fn node(arguments: &DemoArguments, dir: &Path, id: u8) -> Result<DemoNode, StartError> {
    let config_file = config_file(dir, id);
    write_new(&config_file, &configuration(arguments, dir, id)).map_err(|error| {
        StartError::failed(format!("cannot write {}", config_file.display()), error)
    })?;
    let config = load(&config_file)?;
    let listener = config
        .listeners
        .first()
        .and_then(|listener| listener.bind.address());
    Ok(DemoNode {
        id: config.node.id,
        mqtt: listener.ok_or_else(|| {
            StartError::Usage(format!("{} has no listener", config_file.display()))
        })?,
        cluster: config.cluster.listen,
        admin: config.admin.bind,
        log_file: dir.join(format!("node-{id}.log")),
        config_file,
    })
}

fn load(file: &Path) -> Result<Config, StartError> {
    let sources = Sources {
        file: Some(file.to_owned()),
        ..Sources::default()
    };
    Ok(Loaded::load(&sources)?.config)
}

/// Writes a file that does not exist yet; leaves one that does.
fn write_new(path: &Path, content: &str) -> std::io::Result<()> {
    match fs::File::create_new(path) {
        Ok(mut file) => file.write_all(content.as_bytes()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// The configuration of one node, as an operator would write it.
fn configuration(arguments: &DemoArguments, dir: &Path, id: u8) -> String {
    let port = |first: u16, id: u8| first + u16::from(id) - 1;
    let peers: Vec<String> = (1..=arguments.nodes)
        .map(|peer| {
            format!(
                "\"{peer}@127.0.0.1:{}\"",
                port(arguments.cluster_port, peer)
            )
        })
        .collect();
    let data_dir = toml_edit::Value::from(
        dir.join(format!("node-{id}"))
            .to_string_lossy()
            .into_owned(),
    );
    format!(
        "# Node {id} of a demo cluster, written by `holdfast demo`, which keeps your changes.\n\
         [node]\n\
         id = {id}\n\
         data_dir = {data_dir}\n\
         \n\
         [cluster]\n\
         name = \"holdfast-demo\"\n\
         listen = \"127.0.0.1:{cluster}\"\n\
         peers = [{peers}]\n\
         replicas = {replicas}\n\
         \n\
         [[listener]]\n\
         name = \"tcp\"\n\
         kind = \"mqtt\"\n\
         bind = \"127.0.0.1:{mqtt}\"\n\
         \n\
         [admin]\n\
         bind = \"127.0.0.1:{admin}\"\n\
         \n\
         [log]\n\
         format = \"text\"\n",
        cluster = port(arguments.cluster_port, id),
        peers = peers.join(", "),
        replicas = arguments.nodes,
        mqtt = port(arguments.mqtt_port, id),
        admin = port(arguments.admin_port, id),
    )
}

/// How much of a log's end is read, bytes.
const LOG_END_BYTES: u64 = 4 * 1024;

/// The last line of a log: what a process that ended early had to say.
pub(super) fn last_log_line(path: &Path) -> Option<String> {
    let mut file = fs::File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_END_BYTES)))
        .ok()?;
    let mut bytes = Vec::new();
    file.take(LOG_END_BYTES).read_to_end(&mut bytes).ok()?;
    String::from_utf8_lossy(&bytes)
        .lines()
        .map(str::trim)
        .rfind(|line| !line.is_empty())
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(nodes: u8) -> DemoArguments {
        DemoArguments {
            nodes,
            dir: PathBuf::new(),
            ephemeral: false,
            mqtt_port: 1883,
            cluster_port: 7401,
            admin_port: 8080,
        }
    }

    #[test]
    fn the_generated_files_are_valid_configurations_of_one_cluster() {
        let scratch = tempfile::tempdir().unwrap();
        let layout = Layout::prepare(&arguments(3), scratch.path()).unwrap();
        let shown: Vec<_> = layout
            .nodes
            .iter()
            .map(|node| {
                (
                    node.id,
                    node.mqtt.port(),
                    node.cluster.port(),
                    node.admin.port(),
                )
            })
            .collect();
        assert_eq!(
            shown,
            [
                (1, 1883, 7401, 8080),
                (2, 1884, 7402, 8081),
                (3, 1885, 7403, 8082)
            ]
        );
    }

    #[test]
    fn files_that_exist_are_kept() {
        let scratch = tempfile::tempdir().unwrap();
        Layout::prepare(&arguments(3), scratch.path()).unwrap();
        let file = config_file(scratch.path(), 2);
        let edited = fs::read_to_string(&file)
            .unwrap()
            .replace("127.0.0.1:1884", "127.0.0.1:2884");
        fs::write(&file, &edited).unwrap();
        let layout = Layout::prepare(&arguments(3), scratch.path()).unwrap();
        assert_eq!(layout.nodes[1].mqtt.port(), 2884);
        assert_eq!(fs::read_to_string(&file).unwrap(), edited);
    }

    #[test]
    fn a_folder_with_something_else_or_another_size_is_refused() {
        let scratch = tempfile::tempdir().unwrap();
        fs::write(scratch.path().join("thesis.txt"), "precious").unwrap();
        assert!(Layout::prepare(&arguments(3), scratch.path()).is_err());
        let scratch = tempfile::tempdir().unwrap();
        Layout::prepare(&arguments(3), scratch.path()).unwrap();
        assert!(Layout::prepare(&arguments(1), scratch.path()).is_err());
        assert!(Layout::prepare(&arguments(5), scratch.path()).is_err());
    }

    #[test]
    fn a_taken_port_is_named_with_its_purpose() {
        let scratch = tempfile::tempdir().unwrap();
        let mut layout = Layout::prepare(&arguments(1), scratch.path()).unwrap();
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let free: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let node = &mut layout.nodes[0];
        (node.mqtt, node.cluster, node.admin) = (free, free, taken.local_addr().unwrap());
        let message = layout.check_ports().unwrap_err().to_string();
        assert!(message.contains("admin of node 1"), "{message}");
        assert!(
            message.contains(&taken.local_addr().unwrap().port().to_string()),
            "{message}"
        );
    }
}
