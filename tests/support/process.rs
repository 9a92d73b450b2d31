//! One real broker process: started, signalled, killed, and its log kept.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::wait::wait_until;
use rustix::process::{Pid, Signal, kill_process};

/// Until all threads of a process obey SIGSTOP.
const STOPPED_WITHIN: Duration = Duration::from_secs(5);
/// Characters of one log line that are shown.
const LINE_CHARS_MAX: usize = 300;

/// What to run.
#[derive(Debug, Clone)]
pub struct ProcessOptions {
    /// The binary `holdfast`.
    pub binary: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Set in addition to our own environment.
    pub environment: Vec<(OsString, OsString)>,
    /// Where its standard error goes; appended to.
    pub log: PathBuf,
}

/// A child process that does not outlive this value.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts the process.
    ///
    /// # Panics
    /// When it can't be started.
    #[must_use]
    pub fn start(options: &ProcessOptions) -> Self {
        let log = append_to(&options.log);
        let child = command_bound_to_this_process(&options.binary)
            .args(&options.arguments)
            .envs(options.environment.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file handle can be duplicated"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", options.binary.display()));
        Self {
            child,
            log: options.log.clone(),
        }
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL; returns when the process is gone. The time is that of the signal.
    pub fn kill(&mut self) -> Instant {
        let at = Instant::now();
        self.signal(Signal::KILL);
        drop(self.child.wait());
        at
    }

    /// SIGKILL without waiting for the process to be gone.
    pub fn kill_without_waiting(&mut self) -> Instant {
        let at = Instant::now();
        self.signal(Signal::KILL);
        at
    }

    /// Sends a signal; one to a process that is gone does nothing.
    pub fn signal(&mut self, signal: Signal) {
        let gone = matches!(self.child.try_wait(), Ok(Some(_)));
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let (false, Some(pid)) = (gone, pid) {
            // It may have ended since; then there is nothing to signal.
            kill_process(pid, signal).ok();
        }
    }

    /// SIGSTOP; returns when every thread has stopped: the signal alone only asks for it.
    ///
    /// # Panics
    /// When they do not stop.
    pub async fn suspend(&mut self) {
        self.signal(Signal::STOP);
        let tasks = PathBuf::from(format!("/proc/{}/task", self.child.id()));
        wait_until("all threads are stopped", STOPPED_WITHIN, async || {
            fs::read_dir(&tasks).is_ok_and(|mut tasks| {
                tasks.all(|task| task.is_ok_and(|task| is_stopped(&task.path())))
            })
        })
        .await;
    }

    /// How it ended, if it did.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits up to `limit` for it to end by itself.
    pub async fn wait_exit(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.exit_status() {
                return Some(status);
            }
            if Instant::now() > deadline {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The last `lines_max` lines of its log.
    #[must_use]
    pub fn log_tail(&self, lines_max: usize) -> String {
        tail(&self.log, lines_max)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Whether the state in `/proc/PID/task/TID/stat`, which follows the name in parentheses, is T.
fn is_stopped(task: &Path) -> bool {
    let stat = fs::read_to_string(task.join("stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
}

/// The last `lines_max` lines of a text file, long lines cut.
#[must_use]
pub fn tail(path: &Path, lines_max: usize) -> String {
    let text = fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(lines_max)..];
    let cut = last
        .iter()
        .map(|line| line.chars().take(LINE_CHARS_MAX).collect::<String>());
    cut.collect::<Vec<_>>().join("\n")
}

fn append_to(path: &Path) -> File {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()))
}

/// `setpriv --pdeathsig` makes the kernel kill the child when we are killed ourselves, when no
/// destructor runs. It replaces itself with the broker, so the process id stays.
fn command_bound_to_this_process(binary: &Path) -> Command {
    let setpriv = Path::new("/usr/bin/setpriv");
    if !setpriv.exists() {
        return Command::new(binary);
    }
    let mut command = Command::new(setpriv);
    command.arg("--pdeathsig").arg("KILL").arg("--").arg(binary);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, directory: &Path) -> Process {
        Process::start(&ProcessOptions {
            binary: PathBuf::from("/bin/sh"),
            arguments: vec!["-c".into(), script.into()],
            environment: vec![("GREETING".into(), "hello".into())],
            log: directory.join("log"),
        })
    }

    #[tokio::test]
    async fn a_process_writes_its_log_and_is_killed() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut process = shell("echo $GREETING; exec sleep 1000", directory.path());
        wait_until("the greeting", Duration::from_secs(10), async || {
            process.log_tail(1) == "hello"
        })
        .await;
        process.kill();
        assert_eq!(process.exit_status().and_then(|status| status.code()), None);
    }

    #[tokio::test]
    async fn a_dropped_process_is_gone() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let process = shell("exec sleep 1000", directory.path());
        let entry = PathBuf::from(format!("/proc/{}", process.child.id()));
        assert!(entry.exists());
        drop(process);
        assert!(!entry.exists());
    }

    #[tokio::test]
    async fn a_suspended_process_stands_still() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let script = "while :; do echo again; sleep 0.01; done";
        let mut process = shell(script, directory.path());
        let lines = |process: &Process| process.log_tail(usize::MAX).lines().count();
        let limit = Duration::from_secs(10);
        wait_until("a line", limit, async || lines(&process) > 0).await;
        process.suspend().await;
        let before = lines(&process);
        crate::wait::let_pass(Duration::from_millis(200)).await;
        assert_eq!(lines(&process), before);
        process.signal(Signal::CONT);
        wait_until("more lines", limit, async || lines(&process) > before).await;
    }

    #[tokio::test]
    async fn an_exit_is_seen() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut process = shell("exit 3", directory.path());
        let status = process
            .wait_exit(Duration::from_secs(10))
            .await
            .expect("it exits");
        assert_eq!(status.code(), Some(3));
    }
}
