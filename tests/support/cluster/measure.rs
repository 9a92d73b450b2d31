//! What a node costs: resident memory, disk, and its own counters.

use std::path::Path;

use super::{Cluster, NodeId};

impl Cluster {
    /// Resident memory of a running node in bytes, as the system counts it.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn resident_bytes(&self, id: NodeId) -> u64 {
        self.status_bytes(id, "VmRSS:")
    }

    /// The most resident memory that a node's process has had since it started, in bytes.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn peak_resident_bytes(&self, id: NodeId) -> u64 {
        self.status_bytes(id, "VmHWM:")
    }

    fn status_bytes(&self, id: NodeId, field: &str) -> u64 {
        let process = self.node(id).process.as_ref().expect("it runs");
        let status = std::fs::read_to_string(format!("/proc/{}/status", process.id()));
        let status = status.expect("a process that runs has a status");
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kibibytes.expect("a line with this field") << 10
    }

    /// Bytes of all files in a node's data folder.
    #[must_use]
    pub fn disk_bytes(&self, id: NodeId) -> u64 {
        folder_bytes(&self.node(id).data_dir)
    }

    /// The sum of all samples of one metric that have this label; 0 when there is none.
    pub async fn metric(&self, id: NodeId, name: &str, (label, value): (&str, &str)) -> f64 {
        let samples = self.metrics(id).await;
        let matching = samples.iter().filter(|sample| {
            sample.name == name && sample.labels.get(label).is_some_and(|found| found == value)
        });
        matching.map(|sample| sample.value).sum()
    }
}

/// Files come and go while a node works: those that are gone count nothing.
fn folder_bytes(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return 0;
    };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => folder_bytes(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    });
    sizes.sum()
}
