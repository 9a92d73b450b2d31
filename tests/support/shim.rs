//! The disk of one node under the test's control: held fsyncs, and power failures.
//!
//! `fsync_shim.c` is compiled with `cc` and preloaded into the node. It blocks every fsync while
//! [`Shim::hold`] is in force, and keeps a mirror of exactly what was synced, from which
//! [`Shim::discard_unsynced`] rebuilds the data folder after the process was killed: kill -9 alone
//! loses nothing, as the page cache survives it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The shim of one node.
#[derive(Debug, Clone)]
pub struct Shim {
    directory: PathBuf,
    data_dir: PathBuf,
}

impl Shim {
    /// A shim that keeps its files in `directory` and watches `data_dir`.
    ///
    /// # Panics
    /// When the folders can't be made or the C compiler fails.
    #[must_use]
    pub fn new(directory: &Path, data_dir: &Path) -> Self {
        fs::create_dir_all(directory).expect("the temporary directory is writable");
        fs::create_dir_all(data_dir).expect("the temporary directory is writable");
        // The kernel names open files by their real paths.
        let data_dir = data_dir.canonicalize().expect("it was just made");
        let directory = directory.canonicalize().expect("it was just made");
        Self {
            directory,
            data_dir,
        }
    }

    /// What to set for the process.
    ///
    /// # Panics
    /// When the shim does not compile.
    #[must_use]
    pub fn environment(&self) -> Vec<(OsString, OsString)> {
        vec![
            ("LD_PRELOAD".into(), library().into()),
            ("HOLDFAST_SHIM_HOLD".into(), self.hold_file().into()),
            ("HOLDFAST_SHIM_DIR".into(), self.data_dir.clone().into()),
            ("HOLDFAST_SHIM_MIRROR".into(), self.mirror().into()),
        ]
    }

    /// Begins a new mirror, in which all that is in the data folder now counts as synced. Called
    /// before each start of the process.
    ///
    /// # Panics
    /// When the files can't be written.
    pub fn begin_life(&self) {
        if self.mirror().exists() {
            fs::remove_dir_all(self.mirror()).expect("the mirror is ours");
        }
        fs::create_dir_all(self.inodes()).expect("the temporary directory is writable");
        let mut journal = String::new();
        self.seed(&self.data_dir, &mut journal);
        fs::write(self.journal(), journal).expect("the mirror is writable");
    }

    /// From now on no fsync of the process returns.
    ///
    /// # Panics
    /// When the control file can't be written.
    pub fn hold(&self) {
        fs::write(self.hold_file(), b"").expect("the temporary directory is writable");
    }

    /// Lets all fsyncs go on.
    pub fn release(&self) {
        // Not held: nothing to release.
        drop(fs::remove_file(self.hold_file()));
    }

    /// Turns the data folder into what a power failure leaves: only what was synced. The process
    /// must be gone. Returns the number of bytes that were there and are not any more.
    ///
    /// # Panics
    /// When the files can't be written.
    pub fn discard_unsynced(&self) -> u64 {
        let names = self.durable_names();
        let before = size_of(&self.data_dir);
        remove_files(&self.data_dir);
        for (path, inode) in names {
            let content = self.inodes().join(&inode);
            if content.exists() {
                let parent = path.parent().expect("a file has a folder");
                fs::create_dir_all(parent).expect("the data folder is writable");
                fs::copy(content, &path).expect("the data folder is writable");
            }
        }
        before.saturating_sub(size_of(&self.data_dir))
    }

    /// Replays the journal: which names lead to which inode.
    fn durable_names(&self) -> BTreeMap<PathBuf, String> {
        let journal = fs::read(self.journal()).expect("begin_life made it");
        let journal = String::from_utf8_lossy(&journal);
        let mut names: BTreeMap<PathBuf, String> = BTreeMap::new();
        let mut directory = PathBuf::new();
        // Without its newline the last line was torn by the kill.
        for line in journal
            .split_inclusive('\n')
            .filter_map(|line| line.strip_suffix('\n'))
        {
            let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
            let (inode, name) = rest.split_once(' ').unwrap_or((rest, ""));
            match kind {
                "F" => {
                    names.retain(|_, known| known != inode);
                    names.insert(PathBuf::from(name), inode.to_owned());
                }
                "D" => {
                    directory = PathBuf::from(rest);
                    names.retain(|path, _| path.parent() != Some(&directory));
                }
                "E" => drop(names.insert(directory.join(name), inode.to_owned())),
                "R" => names
                    .values_mut()
                    .filter(|known| *known == inode)
                    .for_each(|known| name.clone_into(known)),
                unknown => panic!("the shim wrote an unknown journal line {unknown}"),
            }
        }
        names
    }

    fn seed(&self, directory: &Path, journal: &mut String) {
        for entry in fs::read_dir(directory).expect("the data folder is readable") {
            let entry = entry.expect("the data folder is readable");
            let path = entry.path();
            let metadata = entry.metadata().expect("the data folder is readable");
            if metadata.is_dir() {
                self.seed(&path, journal);
            } else {
                let inode = metadata.ino();
                fs::copy(&path, self.inodes().join(inode.to_string()))
                    .expect("the mirror is writable");
                journal.push_str(&format!("F {inode} {}\n", path.display()));
            }
        }
    }

    fn hold_file(&self) -> PathBuf {
        self.directory.join("hold")
    }

    fn mirror(&self) -> PathBuf {
        self.directory.join("mirror")
    }

    fn inodes(&self) -> PathBuf {
        self.mirror().join("inodes")
    }

    fn journal(&self) -> PathBuf {
        self.mirror().join("journal")
    }
}

/// Compiles the shim once per test process.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = LIBRARY.get_or_init(|| {
        let directory = tempfile::tempdir().expect("the temporary directory is writable");
        let source = directory.path().join("fsync_shim.c");
        let library = directory.path().join("fsync_shim.so");
        fs::write(&source, include_str!("fsync_shim.c"))
            .expect("the temporary directory is writable");
        compile(&["-shared", "-fPIC", "-pthread"], &source, &library);
        (directory, library)
    });
    path
}

fn compile(options: &[&str], source: &Path, target: &Path) {
    let status = Command::new("cc")
        .args([
            "-O1",
            "-Wall",
            "-Werror=implicit-function-declaration",
            "-o",
        ])
        .arg(target)
        .args(options)
        .arg(source)
        .status()
        .expect("cc is there: RocksDB needs it too");
    assert!(status.success(), "cc failed on {}", source.display());
}

fn size_of(directory: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(directory) else {
        return 0;
    };
    entries
        .filter_map(Result::ok)
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => size_of(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

/// Removes all files and keeps the folders.
fn remove_files(directory: &Path) {
    for entry in fs::read_dir(directory).expect("the data folder is readable") {
        let path = entry.expect("the data folder is readable").path();
        if path.is_dir() {
            remove_files(&path);
        } else {
            fs::remove_file(&path).expect("the data folder is writable");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{Process, ProcessOptions};
    use crate::wait::wait_until;
    use std::time::Duration;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// Writes, syncs and renames as databases do, then waits to be killed.
    const WRITER: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
static int make(const char *name) { return open(name, O_CREAT | O_RDWR | O_TRUNC, 0644); }
static void put(int fd, const char *text) { if (write(fd, text, strlen(text)) < 0) _exit(1); }
int main(int count, char **arguments) {
    if (count < 2 || chdir(arguments[1]) != 0) return 1;
    int here = open(".", O_RDONLY | O_DIRECTORY);
    int log = make("log");
    put(log, "synced,"); fdatasync(log); put(log, "synced too,"); fsync(log); put(log, "unsynced");
    put(make("never"), "never synced");
    int recycled = make("old");
    put(recycled, "0123456789"); fdatasync(recycled); fsync(here);
    rename("old", "new"); pwrite(recycled, "AB", 2, 0); fdatasync(recycled); pwrite(recycled, "xyz", 3, 4);
    int current = make("current");
    put(current, "first"); fsync(current); fsync(here);
    int temporary = make("temporary");
    put(temporary, "second"); fsync(temporary); rename("temporary", "current");
    int gone = make("gone");
    put(gone, "gone"); fsync(gone); unlink("gone"); fsync(here);
    int later = make("later");
    put(later, "later"); fsync(later); rename("later", "renamed, directory not synced");
    puts("done"); fflush(stdout);
    pause();
}
"#;

    fn writer(source: &str, directory: &Path, shim: &Shim) -> Process {
        let path = directory.join("writer.c");
        let binary = directory.join("writer");
        fs::write(&path, source).expect("writable");
        compile(&[], &path, &binary);
        shim.begin_life();
        Process::start(&ProcessOptions {
            binary,
            arguments: vec![shim.data_dir.clone().into()],
            environment: shim.environment(),
            log: directory.join("log"),
        })
    }

    fn content(shim: &Shim) -> BTreeMap<String, String> {
        let entries = fs::read_dir(&shim.data_dir)
            .expect("readable")
            .map(|entry| entry.expect("readable").path());
        entries
            .map(|path| {
                let name = path
                    .file_name()
                    .expect("a name")
                    .to_string_lossy()
                    .into_owned();
                (name, fs::read_to_string(&path).expect("readable"))
            })
            .collect()
    }

    #[tokio::test]
    async fn only_what_was_synced_survives_a_power_failure() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let shim = Shim::new(
            &directory.path().join("shim"),
            &directory.path().join("data"),
        );
        let mut process = writer(WRITER, directory.path(), &shim);
        wait_until("all writes", PATIENCE, async || {
            process.log_tail(1) == "done"
        })
        .await;
        process.kill();
        assert_eq!(
            content(&shim)["log"],
            "synced,synced too,unsynced",
            "kill -9 alone loses nothing"
        );

        assert!(shim.discard_unsynced() > 0);

        let expected = [
            ("log", "synced,synced too,"),
            ("new", "AB23456789"),
            ("current", "second"),
            ("later", "later"),
        ];
        let expected = expected.map(|(name, text)| (name.to_owned(), text.to_owned()));
        assert_eq!(content(&shim), BTreeMap::from(expected));
    }

    #[tokio::test]
    async fn a_replaced_file_keeps_its_old_content_until_the_directory_is_synced() {
        let source = WRITER.replace(
            r#"rename("temporary", "current");"#,
            r#"rename("temporary", "current"); puts("done"); fflush(stdout); pause();"#,
        );
        let directory = tempfile::tempdir().expect("a temporary directory");
        let shim = Shim::new(
            &directory.path().join("shim"),
            &directory.path().join("data"),
        );
        let mut process = writer(&source, directory.path(), &shim);
        wait_until("the rename", PATIENCE, async || {
            process.log_tail(1) == "done"
        })
        .await;
        process.kill();
        assert_eq!(content(&shim)["current"], "second");

        shim.discard_unsynced();

        assert_eq!(content(&shim)["current"], "first");
        assert_eq!(content(&shim)["temporary"], "second");
    }

    #[tokio::test]
    async fn what_survived_one_life_counts_as_synced_in_the_next() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let shim = Shim::new(
            &directory.path().join("shim"),
            &directory.path().join("data"),
        );
        fs::create_dir_all(shim.data_dir.join("sub")).expect("writable");
        fs::write(shim.data_dir.join("sub/kept"), "kept").expect("writable");
        shim.begin_life();

        shim.discard_unsynced();

        assert_eq!(
            fs::read_to_string(shim.data_dir.join("sub/kept")).expect("readable"),
            "kept"
        );
    }

    #[tokio::test]
    async fn a_held_fsync_returns_only_after_the_release() {
        let source = r#"
#include <stdio.h>
#include <fcntl.h>
#include <unistd.h>
int main(int count, char **arguments) {
    int fd = open(arguments[count - 1], O_RDONLY);
    puts("before"); fflush(stdout);
    fsync(fd);
    puts("after"); fflush(stdout);
    pause();
}
"#;
        let directory = tempfile::tempdir().expect("a temporary directory");
        let shim = Shim::new(
            &directory.path().join("shim"),
            &directory.path().join("data"),
        );
        shim.hold();
        let process = writer(source, directory.path(), &shim);
        wait_until("the call", PATIENCE, async || {
            process.log_tail(1) == "before"
        })
        .await;
        crate::wait::let_pass(Duration::from_millis(300)).await;
        assert_eq!(process.log_tail(1), "before", "it is held");

        shim.release();

        wait_until("the release", PATIENCE, async || {
            process.log_tail(1) == "after"
        })
        .await;
    }
}
