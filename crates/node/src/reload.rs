//! The configuration, read again while the node runs: at SIGHUP, and by `POST /config/reload`.
//!
//! Invariants:
//! - All or nothing: with anything wrong, everything stays as it was.
//! - What cannot change while the node runs is named, at every reload, until it is restarted.

use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

use crate::broker::Broker;
use crate::config::{Entry, Loaded};
use crate::error::StartError;
use crate::{count, logging};

/// Reads all sources of the configuration once more.
pub type Reread = Box<dyn Fn() -> Result<Loaded, StartError> + Send + Sync>;

/// Sections whose keys can change, and single keys.
const RELOADABLE: [&str; 4] = ["auth", "acl", "limits", "log.level"];

/// What reads it again.
pub(crate) struct Reloader {
    broker: Arc<Broker>,
    reread: Reread,
    /// What is in force.
    entries: Mutex<Vec<Entry>>,
}

/// What a reload did.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Reloaded {
    /// Keys whose new values are in force.
    changed: Vec<String>,
    /// Keys whose new values are not.
    needs_restart: Vec<String>,
}

/// What a look at the certificates found.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct TlsReloaded {
    /// Listeners with a new certificate.
    changed: Vec<String>,
    /// Listeners whose files are as they were.
    unchanged: Vec<String>,
}

impl Reloader {
    /// `entries`: what the node was started with.
    pub(crate) fn new(broker: Arc<Broker>, reread: Reread, entries: Vec<Entry>) -> Self {
        Self {
            broker,
            reread,
            entries: Mutex::new(entries),
        }
    }

    /// Reads everything again, files of credentials and certificates included. Reads from the disk.
    ///
    /// # Errors
    /// Something is wrong: everything stays as it was.
    pub(crate) fn reload(&self) -> Result<Reloaded, StartError> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = (self.reread)().and_then(|loaded| {
            self.take_over(&loaded)?;
            // A certificate that is not good leaves the old one in use, and is logged by itself.
            drop(self.reload_tls());
            Ok(compare(&mut entries, loaded.entries))
        });
        match &outcome {
            Ok(reloaded) => {
                count::config_reloaded();
                let changed = reloaded.changed.join(", ");
                tracing::info!(changed, "configuration reloaded");
                if !reloaded.needs_restart.is_empty() {
                    let keys = reloaded.needs_restart.join(", ");
                    tracing::warn!(keys, "these keys changed and need a restart");
                }
            }
            Err(error) => {
                tracing::error!(%error, "not reloaded: everything stays as it was");
            }
        }
        outcome
    }

    /// Looks at the certificates of all listeners and of the cluster port. Reads from the disk.
    ///
    /// # Errors
    /// A sentence for each whose new files are not good: the old certificate stays in use.
    pub(crate) fn reload_tls(&self) -> Result<TlsReloaded, String> {
        let mut reloaded = TlsReloaded::default();
        let mut problems = Vec::new();
        for looked in self.broker.tls.reload() {
            match looked.result {
                Ok(true) => reloaded.changed.push(looked.listener),
                Ok(false) => reloaded.unchanged.push(looked.listener),
                Err(problem) => problems.push(format!("{}: {problem}", looked.listener)),
            }
        }
        if problems.is_empty() {
            Ok(reloaded)
        } else {
            Err(problems.join("; "))
        }
    }

    fn take_over(&self, loaded: &Loaded) -> Result<(), StartError> {
        let config = &loaded.config;
        // First what can fail.
        self.broker.reload_access(&config.auth, &config.acl)?;
        self.broker.set_limits(&config.limits);
        if let Err(reason) = logging::set_level(&config.log.level) {
            tracing::debug!(reason, "the log level stays");
        }
        Ok(())
    }
}

/// What differs; `in_force` takes over what can change.
fn compare(in_force: &mut Vec<Entry>, new: Vec<Entry>) -> Reloaded {
    let mut reloaded = Reloaded::default();
    let mut taken = Vec::with_capacity(new.len());
    let gone = in_force.iter().filter(|old| find(&new, old).is_none());
    let gone: Vec<Entry> = gone.cloned().collect();
    for entry in new {
        let old = find(in_force, &entry);
        if old.is_some_and(|old| old.value == entry.value) {
            taken.push(entry);
        } else if is_reloadable(&entry) {
            reloaded.changed.push(entry.full_key());
            taken.push(entry);
        } else {
            reloaded.needs_restart.push(entry.full_key());
            taken.extend(old.cloned());
        }
    }
    for entry in gone {
        if is_reloadable(&entry) {
            reloaded.changed.push(entry.full_key());
        } else {
            reloaded.needs_restart.push(entry.full_key());
            taken.push(entry);
        }
    }
    *in_force = taken;
    reloaded
}

fn find<'a>(entries: &'a [Entry], sought: &Entry) -> Option<&'a Entry> {
    let mut entries = entries.iter();
    entries.find(|entry| entry.key == sought.key && entry.section == sought.section)
}

fn is_reloadable(entry: &Entry) -> bool {
    let key = entry.full_key();
    RELOADABLE.iter().any(|reloadable| {
        let rest = key.strip_prefix(reloadable);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Origin;

    fn entry(section: &str, key: &'static str, value: &str) -> Entry {
        Entry {
            section: section.to_owned(),
            key,
            value: value.to_owned(),
            origin: Origin::Default,
        }
    }

    #[test]
    fn what_cannot_change_is_named_until_it_is_as_it_was() {
        let mut in_force = vec![
            entry("limits", "connect_rate", "1"),
            entry("node", "name", "\"a\""),
            entry("acl.0", "who", "\"all\""),
            entry("listener.1", "bind", "\"127.0.0.1:1\""),
        ];
        let new = || {
            vec![
                entry("limits", "connect_rate", "2"),
                entry("node", "name", "\"b\""),
            ]
        };
        let reloaded = compare(&mut in_force, new());
        assert_eq!(reloaded.changed, ["limits.connect_rate", "acl.0.who"]);
        assert_eq!(reloaded.needs_restart, ["node.name", "listener.1.bind"]);
        let again = compare(&mut in_force, new());
        assert_eq!(again.changed, [""; 0]);
        assert_eq!(again.needs_restart, ["node.name", "listener.1.bind"]);
        assert_eq!(in_force[0].value, "2");
        assert_eq!(in_force[1].value, "\"a\"");
    }
}
