//! One node of a cluster: its process, ports, files and configuration.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::{ClusterOptions, NodeId};
use crate::ports::Port;
use crate::process::{Process, ProcessOptions};
use crate::shim::Shim;

#[derive(Debug)]
pub(super) struct Node {
    pub(super) process: Option<Process>,
    pub(super) options: ProcessOptions,
    pub(super) data_dir: PathBuf,
    pub(super) shim: Option<Shim>,
    pub(super) mqtt: Port,
    pub(super) cluster: Port,
    pub(super) admin: Port,
    pub(super) suspended: bool,
}

impl Node {
    pub(super) fn new(id: NodeId, options: &ClusterOptions, directory: &Path) -> Self {
        let data_dir = directory.join(format!("node-{id}"));
        let shim = options
            .shim
            .then(|| Shim::new(&directory.join(format!("shim-{id}")), &data_dir));
        let environment = shim.as_ref().map(Shim::environment).unwrap_or_default();
        let configuration = configuration_path(directory, id);
        Self {
            process: None,
            options: ProcessOptions {
                binary: options.binary.clone(),
                arguments: vec!["run".into(), "--config".into(), configuration.into()],
                environment,
                log: directory.join(format!("node-{id}.log")),
            },
            data_dir,
            shim,
            mqtt: Port::reserve(),
            cluster: Port::reserve(),
            admin: Port::reserve(),
            suspended: false,
        }
    }

    pub(super) fn configuration(
        &self,
        id: NodeId,
        (advertised, peers): (SocketAddr, &str),
        options: &ClusterOptions,
    ) -> String {
        let Self {
            mqtt,
            cluster,
            admin,
            ..
        } = self;
        let (mqtt, cluster, admin) = (mqtt.address(), cluster.address(), admin.address());
        let data_dir = self.data_dir.display();
        let ClusterOptions {
            shards,
            inflight_max,
            limits,
            auth,
            admin: admin_lines,
            log,
            snapshot_after,
            cluster: cluster_lines,
            listeners,
            storage,
            ..
        } = options;
        format!(
            r#"[node]
id = {id}
data_dir = "{data_dir}"

[cluster]
name = "test"
listen = "{cluster}"
advertise = "{advertised}"
peers = [{peers}]
shards = {shards}
{cluster_lines}

[storage]
snapshot_after = {snapshot_after}
{storage}

[[listener]]
name = "tcp"
kind = "mqtt"
bind = "{mqtt}"
{listeners}

[limits]
inflight_max = {inflight_max}
{limits}

[auth]
{auth}

[admin]
bind = "{admin}"
{admin_lines}

[log]
format = "json"
level = "{log}"
target = "stderr"
"#
        )
    }
}

pub(super) fn configuration_path(directory: &Path, id: NodeId) -> PathBuf {
    directory.join(format!("node-{id}.toml"))
}
