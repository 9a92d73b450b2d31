//! The Docker engine, the image of the binary under test, and whatever must be gone in the end.

use std::path::PathBuf;
use std::process::{Output, Stdio};

use tempfile::TempDir;
use tokio::process::Command;
use tokio::sync::{Mutex, MutexGuard};

use crate::tools::{binary, checkout, installed, prepared, succeeded};

/// One scenario at a time: each has three nodes.
static TURN: Mutex<()> = Mutex::const_new(());

/// An engine that answers, with an image of the binary. The image goes with the value.
pub(crate) struct Engine {
    /// The image.
    pub(crate) image: String,
    /// It was here before, and stays.
    is_given: bool,
    _turn: MutexGuard<'static, ()>,
}

/// `docker` with arguments.
pub(crate) fn docker(arguments: &[&str]) -> Command {
    let mut command = Command::new("docker");
    command
        .args(arguments)
        .kill_on_drop(true)
        .stdin(Stdio::null());
    if let Some(folder) = prepared("docker") {
        command.env("DOCKER_CONFIG", folder);
    }
    command
}

/// Runs it to its end.
pub(crate) async fn output(mut command: Command) -> Output {
    let output = command.output().await;
    output.unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// What `docker` printed, without the end of the line.
///
/// # Panics
/// When it failed.
pub(crate) async fn docker_text(arguments: &[&str]) -> String {
    let output = output(docker(arguments)).await;
    succeeded(&format!("docker {arguments:?}"), &output)
        .trim_end()
        .to_owned()
}

impl Engine {
    /// Builds the image as the Dockerfile's users do; `None` when no engine answers.
    pub(crate) async fn start() -> Option<Self> {
        let turn = TURN.lock().await;
        installed("docker")?;
        if !output(docker(&["info"])).await.status.success() {
            return None;
        }
        if let Ok(image) = std::env::var("HOLDFAST_TEST_IMAGE") {
            return Some(Self {
                image,
                is_given: true,
                _turn: turn,
            });
        }
        let image = format!("holdfast:test-{}", std::process::id());
        let context = TempDir::new().expect("a temporary folder");
        std::fs::create_dir(context.path().join("dist")).expect("it is writable");
        std::fs::copy(binary(), context.path().join("dist/holdfast")).expect("there is room");
        let mut build = docker(&[
            "build", "--quiet", "--target", "prebuilt", "--tag", &image, "--file",
        ]);
        build
            .arg(checkout("deploy/docker/Dockerfile"))
            .arg(context.path());
        // The one that every Docker has; BuildKit may be a package of its own.
        build.env("DOCKER_BUILDKIT", "0");
        succeeded("docker build", &output(build).await);
        Some(Self {
            image,
            is_given: false,
            _turn: turn,
        })
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if !self.is_given {
            at_once(&["image", "rm", "--force", &self.image]);
        }
    }
}

/// For the end of a test, which can't wait: what fails then is left behind and seen in `docker ps`.
pub(crate) fn at_once(arguments: &[&str]) {
    let mut command = std::process::Command::new("docker");
    command
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    drop(command.status());
}

/// The commands that run compose here: version 2 as a plugin, 1.29 as a program of its own.
pub(crate) async fn composes() -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let plugin = output(docker(&["compose", "version"])).await;
    if plugin.status.success() {
        found.push(vec!["docker".to_owned(), "compose".to_owned()]);
    }
    if installed("docker-compose").is_some() {
        found.push(vec!["docker-compose".to_owned()]);
    }
    found
}

/// A file in a folder that the containers' user can read.
pub(crate) fn write_for_containers(
    folder: &std::path::Path,
    name: &str,
    content: &[u8],
) -> PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let set = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("it is ours");
    };
    std::fs::create_dir_all(folder).expect("it is writable");
    set(folder, 0o755);
    let file = folder.join(name);
    std::fs::write(&file, content).expect("it is writable");
    set(&file, 0o644);
    file
}
