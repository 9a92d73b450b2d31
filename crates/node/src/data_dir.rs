//! The data folder: whose it is, and that only one process uses it.
//!
//! ```text
//! DIR/LOCK            locked while a process uses the folder; holds its process id for people
//! DIR/identity.json   cluster, node and shard count this folder was made for
//! DIR/log, DIR/state  Raft log and applied state (crate raft-store)
//! DIR/clocks          shard time for the next start (crate raft-store)
//! ```
//! Invariants: nothing of a folder is changed before it is known to be ours or empty; the identity
//! is written once, before the first state, and never again.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Version of the folder's layout. Raised when an older broker could not read it any more.
const FORMAT: u32 = 1;
const LOCK_FILE: &str = "LOCK";
const IDENTITY_FILE: &str = "identity.json";
const IDENTITY_TEMPORARY: &str = "identity.json.new";
/// Entries of an otherwise empty folder that mean nothing: ours from a first start that was killed,
/// and what a file system puts at its root.
const MEANINGLESS: [&str; 3] = [LOCK_FILE, IDENTITY_TEMPORARY, "lost+found"];
/// Longest identity file that is read, bytes; a real one has about 100.
const IDENTITY_BYTES_MAX: u64 = 64 * 1024;

/// Whom a data folder belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// `cluster.name`.
    pub cluster: String,
    /// `node.id`.
    pub node: u16,
    /// `cluster.shards`: fixed for the life of the data, since it decides where a session lives.
    pub shards: u16,
}

/// What `identity.json` holds.
#[derive(Debug, Serialize, Deserialize)]
struct IdentityFile {
    format: u32,
    #[serde(flatten)]
    identity: Option<Identity>,
}

/// Why a data folder cannot be used. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Two processes on one folder would corrupt it.
    #[error("data folder {}: already in use by another process{}", path.display(), process(.process_id))]
    InUse {
        /// The folder.
        path: PathBuf,
        /// The process id that the lock file names.
        process_id: Option<String>,
    },
    /// The folder holds files, but no identity of ours.
    #[error("data folder {}: not empty and not made by holdfast (it holds {entry:?}); give an empty or a new folder as node.data_dir", path.display())]
    NotOurs {
        /// The folder.
        path: PathBuf,
        /// One of the files.
        entry: String,
    },
    /// The folder belongs to another node, cluster or shard count.
    #[error("data folder {}: made for {key} = {found}, but the configuration says {configured}; correct node.data_dir or {key}", path.display())]
    OtherIdentity {
        /// The folder.
        path: PathBuf,
        /// The key that differs.
        key: &'static str,
        /// What the folder was made for.
        found: String,
        /// What the configuration says.
        configured: String,
    },
    /// A newer broker wrote the folder.
    #[error("data folder {}: written in format {found} by a newer holdfast, this one reads up to {FORMAT}; start the newer version", path.display())]
    NewerFormat {
        /// The folder.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// The identity cannot be read as what it must be.
    #[error("data folder {}: {IDENTITY_FILE} is damaged: {reason}; restore it from a copy, or give this node a new folder and id", path.display())]
    DamagedIdentity {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The operating system refused.
    #[error("data folder {}: cannot {action}: {source}", path.display())]
    Io {
        /// The folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What it said.
        source: io::Error,
    },
}

impl DataDirError {
    /// Whether starting again with the same configuration must fail again.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::InUse { .. }
            | Self::NotOurs { .. }
            | Self::OtherIdentity { .. }
            | Self::NewerFormat { .. }
            | Self::DamagedIdentity { .. } => true,
            Self::Io { source, .. } => matches!(
                source.kind(),
                ErrorKind::PermissionDenied
                    | ErrorKind::ReadOnlyFilesystem
                    | ErrorKind::NotADirectory
                    | ErrorKind::AlreadyExists
                    | ErrorKind::NotFound
            ),
        }
    }
}

fn process(process_id: &Option<String>) -> String {
    process_id
        .as_ref()
        .map(|id| format!(" (process {id})"))
        .unwrap_or_default()
}

/// A data folder that is ours while this value lives.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    is_new: bool,
    /// The operating system releases the lock when the process ends, however it ends.
    _lock: File,
}

impl DataDir {
    /// Opens the folder, or makes it: takes the lock, then checks or writes the identity.
    ///
    /// Blocks on the disk (two fsyncs at the first start).
    ///
    /// # Errors
    /// [`DataDirError`]: the folder is in use, somebody else's, or cannot be written.
    pub fn open(path: &Path, identity: &Identity) -> Result<Self, DataDirError> {
        let at = Folder { path };
        at.create()?;
        at.refuse_foreign()?;
        let lock = at.lock()?;
        // Another process may have made it its own between the look and the lock.
        let is_new = match at.read_identity()? {
            Some(found) => {
                at.compare(&found, identity)?;
                false
            }
            None => {
                at.refuse_foreign()?;
                at.write_identity(identity)?;
                true
            }
        };
        at.sign(&lock)?;
        Ok(Self {
            path: path.to_owned(),
            is_new,
            _lock: lock,
        })
    }

    /// Opens a folder that a node has used, whosever it is: takes the lock and reads the identity.
    ///
    /// # Errors
    /// [`DataDirError`]: the folder is in use, or has no identity.
    pub fn open_existing(path: &Path) -> Result<(Self, Identity), DataDirError> {
        let at = Folder { path };
        let absent = || DataDirError::NotOurs {
            path: path.to_owned(),
            entry: "no identity.json".to_owned(),
        };
        at.read_identity()?.ok_or_else(absent)?;
        let lock = at.lock()?;
        let identity = at.read_identity()?.ok_or_else(absent)?;
        let data_dir = Self {
            path: path.to_owned(),
            is_new: false,
            _lock: lock,
        };
        Ok((data_dir, identity))
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the Raft log of all shards lies.
    pub fn log_path(&self) -> PathBuf {
        self.path.join("log")
    }

    /// Where the applied state of all shards lies.
    pub fn state_path(&self) -> PathBuf {
        self.path.join("state")
    }

    /// Whether this start made the folder's identity.
    pub fn is_new(&self) -> bool {
        self.is_new
    }
}

/// A folder that may or may not be ours.
struct Folder<'a> {
    path: &'a Path,
}

impl Folder<'_> {
    fn failed(&self, action: &'static str) -> impl FnOnce(io::Error) -> DataDirError {
        let path = self.path.to_owned();
        move |source| DataDirError::Io {
            path,
            action,
            source,
        }
    }

    fn create(&self) -> Result<(), DataDirError> {
        if self.path.is_dir() {
            return Ok(());
        }
        fs::create_dir_all(self.path).map_err(self.failed("create it"))?;
        // Makes the folder's own name durable; above it, names are the operator's.
        let parent = self
            .path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        sync_folder(parent.unwrap_or_else(|| Path::new(".")))
            .map_err(self.failed("sync the folder above it"))
    }

    /// Refuses a folder that has files but no identity.
    fn refuse_foreign(&self) -> Result<(), DataDirError> {
        let mut stranger = None;
        for entry in fs::read_dir(self.path).map_err(self.failed("list it"))? {
            let name = entry
                .map_err(self.failed("list it"))?
                .file_name()
                .to_string_lossy()
                .into_owned();
            if name == IDENTITY_FILE {
                return Ok(());
            }
            if !MEANINGLESS.contains(&name.as_str()) {
                stranger = Some(name);
            }
        }
        match stranger {
            None => Ok(()),
            Some(entry) => Err(DataDirError::NotOurs {
                path: self.path.to_owned(),
                entry,
            }),
        }
    }

    fn lock(&self) -> Result<File, DataDirError> {
        let path = self.path.join(LOCK_FILE);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(path).map_err(self.failed("write to it"))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::Error(source)) => Err(self.failed("lock it")(source)),
            Err(TryLockError::WouldBlock) => {
                let mut process_id = String::new();
                // Only for the message: without it the refusal stands as well.
                (&mut file).take(20).read_to_string(&mut process_id).ok();
                let process_id = process_id.trim().to_owned();
                let is_number =
                    !process_id.is_empty() && process_id.bytes().all(|byte| byte.is_ascii_digit());
                let process_id = is_number.then_some(process_id);
                Err(DataDirError::InUse {
                    path: self.path.to_owned(),
                    process_id,
                })
            }
        }
    }

    /// Leaves our process id in the lock file.
    fn sign(&self, mut lock: &File) -> Result<(), DataDirError> {
        lock.set_len(0)
            .and_then(|()| writeln!(lock, "{}", std::process::id()))
            .map_err(self.failed("write its lock file"))
    }

    fn read_identity(&self) -> Result<Option<Identity>, DataDirError> {
        let file = match File::open(self.path.join(IDENTITY_FILE)) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.failed("read its identity")(error)),
        };
        let mut bytes = Vec::new();
        file.take(IDENTITY_BYTES_MAX)
            .read_to_end(&mut bytes)
            .map_err(self.failed("read its identity"))?;
        let damaged = |reason: String| DataDirError::DamagedIdentity {
            path: self.path.to_owned(),
            reason,
        };
        let file: IdentityFile =
            serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if file.format > FORMAT {
            return Err(DataDirError::NewerFormat {
                path: self.path.to_owned(),
                found: file.format,
            });
        }
        match file.identity {
            Some(identity) => Ok(Some(identity)),
            None => Err(damaged("cluster, node or shards is missing".to_owned())),
        }
    }

    fn compare(&self, found: &Identity, configured: &Identity) -> Result<(), DataDirError> {
        let keys = [
            (
                "cluster.name",
                format!("{:?}", found.cluster),
                format!("{:?}", configured.cluster),
            ),
            (
                "node.id",
                found.node.to_string(),
                configured.node.to_string(),
            ),
            (
                "cluster.shards",
                found.shards.to_string(),
                configured.shards.to_string(),
            ),
        ];
        match keys
            .into_iter()
            .find(|(_, found, configured)| found != configured)
        {
            None => Ok(()),
            Some((key, found, configured)) => Err(DataDirError::OtherIdentity {
                path: self.path.to_owned(),
                key,
                found,
                configured,
            }),
        }
    }

    /// Writes the identity beside its place, syncs it, and moves it there: after a crash it is
    /// there as a whole or not at all.
    fn write_identity(&self, identity: &Identity) -> Result<(), DataDirError> {
        let content = IdentityFile {
            format: FORMAT,
            identity: Some(identity.clone()),
        };
        let temporary = self.path.join(IDENTITY_TEMPORARY);
        let write = || -> io::Result<()> {
            let mut file = File::create(&temporary)?;
            serde_json::to_writer_pretty(&mut file, &content)?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            fs::rename(&temporary, self.path.join(IDENTITY_FILE))?;
            sync_folder(self.path)
        };
        write().map_err(self.failed("write its identity"))
    }
}

/// Makes the names in a folder durable.
fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            cluster: "holdfast".to_owned(),
            node: 1,
            shards: 4,
        }
    }

    fn refusal(path: &Path, identity: &Identity) -> String {
        DataDir::open(path, identity).unwrap_err().to_string()
    }

    #[test]
    fn a_missing_folder_is_made_and_found_again() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("a/b");
        assert!(DataDir::open(&path, &identity()).unwrap().is_new());
        assert!(!DataDir::open(&path, &identity()).unwrap().is_new());
    }

    #[test]
    fn a_first_start_that_was_killed_can_be_repeated() {
        let scratch = tempfile::tempdir().unwrap();
        fs::write(scratch.path().join(LOCK_FILE), "1\n").unwrap();
        fs::write(scratch.path().join(IDENTITY_TEMPORARY), "{").unwrap();
        fs::create_dir(scratch.path().join("lost+found")).unwrap();
        assert!(DataDir::open(scratch.path(), &identity()).unwrap().is_new());
    }

    #[test]
    fn a_folder_in_use_is_refused_and_names_the_process() {
        let scratch = tempfile::tempdir().unwrap();
        let first = DataDir::open(scratch.path(), &identity()).unwrap();
        let message = refusal(scratch.path(), &identity());
        assert!(
            message.contains("already in use by another process"),
            "{message}"
        );
        assert!(
            message.contains(&std::process::id().to_string()),
            "{message}"
        );
        drop(first);
        DataDir::open(scratch.path(), &identity()).unwrap();
    }

    #[test]
    fn a_folder_of_somebody_else_is_refused_and_stays_as_it_is() {
        let scratch = tempfile::tempdir().unwrap();
        fs::write(scratch.path().join("thesis.txt"), "precious").unwrap();
        let message = refusal(scratch.path(), &identity());
        assert!(message.contains("thesis.txt"), "{message}");
        let names: Vec<_> = fs::read_dir(scratch.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, ["thesis.txt"]);
    }

    #[test]
    fn a_folder_of_another_node_cluster_or_shard_count_is_refused_by_key() {
        let scratch = tempfile::tempdir().unwrap();
        DataDir::open(scratch.path(), &identity()).unwrap();
        let before = fs::read(scratch.path().join(IDENTITY_FILE)).unwrap();
        for (key, other) in [
            (
                "cluster.name",
                Identity {
                    cluster: "other".to_owned(),
                    ..identity()
                },
            ),
            (
                "node.id",
                Identity {
                    node: 2,
                    ..identity()
                },
            ),
            (
                "cluster.shards",
                Identity {
                    shards: 8,
                    ..identity()
                },
            ),
        ] {
            let error = DataDir::open(scratch.path(), &other).unwrap_err();
            assert!(error.to_string().contains(key), "{error}");
            assert!(error.is_permanent());
        }
        assert_eq!(
            fs::read(scratch.path().join(IDENTITY_FILE)).unwrap(),
            before
        );
    }

    #[test]
    fn a_newer_or_damaged_identity_is_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join(IDENTITY_FILE);
        for (content, part) in [
            (r#"{"format": 2, "anything": []}"#, "newer holdfast"),
            (r#"{"format": 1}"#, "missing"),
            ("", "damaged"),
            ("not json", "damaged"),
        ] {
            fs::write(&file, content).unwrap();
            let message = refusal(scratch.path(), &identity());
            assert!(message.contains(part), "{message}");
            assert_eq!(fs::read_to_string(&file).unwrap(), content);
        }
    }

    #[test]
    fn a_path_through_a_file_is_refused_for_good() {
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(
            DataDir::open(&file, &identity())
                .unwrap_err()
                .is_permanent()
        );
        assert!(
            DataDir::open(&file.join("below"), &identity())
                .unwrap_err()
                .is_permanent()
        );
    }
}
