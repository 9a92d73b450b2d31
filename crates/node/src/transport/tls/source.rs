//! The certificates that a configuration names, and what each is for.

use std::sync::{Arc, RwLock};

use raft_store::PeerTls;

use super::{CLUSTER, Contents, File, Files, ListenerCertificate, Problem, User};
use crate::config::{ClientCertificate, Config};

/// A certificate that the configuration names.
#[derive(Debug)]
pub(super) struct Source {
    /// The listener's; `cluster` is the cluster port.
    pub(super) name: String,
    pub(super) files: Files,
    pub(super) role: Role,
}

/// What it is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Role {
    /// Clients connect to it; whether they show one as well.
    Listener(ClientCertificate),
    /// Nodes connect to it, and show one as well.
    Cluster,
}

/// Every certificate that the configuration names.
pub(super) fn sources(config: &Config) -> Vec<Source> {
    let mut sources = Vec::new();
    for (place, listener) in config.listeners.iter().enumerate() {
        let Some(tls) = &listener.tls else { continue };
        let key = |key: &str| format!("listener.{place}.{key}");
        let ca = tls.client_ca.as_ref();
        sources.push(Source {
            name: listener.name.clone(),
            files: Files {
                cert: File::new(key("cert"), &tls.cert),
                key: File::new(key("key"), &tls.key),
                ca: ca.map(|path| File::new(key("client_ca"), path)),
            },
            role: Role::Listener(tls.client_cert),
        });
    }
    if let Some(tls) = &config.cluster.tls {
        let key = |key: &str| format!("cluster.tls.{key}");
        sources.push(Source {
            name: CLUSTER.to_owned(),
            files: Files {
                cert: File::new(key("cert"), &tls.cert),
                key: File::new(key("key"), &tls.key),
                ca: Some(File::new(key("ca"), &tls.ca)),
            },
            role: Role::Cluster,
        });
    }
    sources
}

impl Source {
    /// What connections go by, if the files are good.
    pub(super) fn user(&self, contents: &Contents) -> Result<User, Problem> {
        match self.role {
            Role::Listener(client_cert) => {
                let server = self.files.server_config(contents, client_cert)?;
                Ok(User::Listener(Arc::new(ListenerCertificate {
                    client_cert,
                    current: RwLock::new(server),
                })))
            }
            Role::Cluster => {
                let required = ClientCertificate::Required;
                let server = self.files.server_config(contents, required)?;
                let client = self.files.client_config(contents)?;
                Ok(User::Cluster(PeerTls::new(server, client)))
            }
        }
    }
}
