//! Where the checkout and the tools are, and how a tool is run.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The binary under test; `HOLDFAST_TEST_BINARY` names another one.
pub(crate) fn binary() -> PathBuf {
    std::env::var_os("HOLDFAST_TEST_BINARY").map_or_else(
        || PathBuf::from(env!("CARGO_BIN_EXE_holdfast")),
        PathBuf::from,
    )
}

/// A file of the checkout.
pub(crate) fn checkout(path: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).join(path)
}

/// Its content.
pub(crate) fn read(path: &str) -> String {
    let path = checkout(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A file in the folder that `scripts/deploy_tools.sh` printed, if it is there.
pub(crate) fn prepared(path: &str) -> Option<PathBuf> {
    let folder = PathBuf::from(std::env::var_os("HOLDFAST_DEPLOY_TOOLS")?);
    Some(folder.join(path)).filter(|path| path.exists())
}

/// Python with kubernetes-validate and Grafana's dashboard model.
pub(crate) fn python() -> Option<PathBuf> {
    prepared("python/bin/python")
}

/// A program on the search path, or where Debian puts those of root.
pub(crate) fn installed(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|program| program.is_file())
}

/// Runs a program to its end.
pub(crate) fn run<I: IntoIterator<Item = A>, A: AsRef<OsStr>>(program: &Path, args: I) -> Output {
    let mut command = Command::new(program);
    command.args(args);
    command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Everything that it printed.
pub(crate) fn printed(output: &Output) -> String {
    let (out, error) = (&output.stdout, &output.stderr);
    String::from_utf8_lossy(&[out.as_slice(), error.as_slice()].concat()).into_owned()
}

/// What it printed on standard output.
///
/// # Panics
/// When it failed.
pub(crate) fn succeeded(what: &str, output: &Output) -> String {
    assert!(output.status.success(), "{what}: {}", printed(output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
