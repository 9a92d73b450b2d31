//! The script files: read when the tests run, so that a new script needs no build.

use std::path::{Path, PathBuf};

use testkit::header::Header;
use testkit::script::{Script, Step, parse_seconds};

/// In a scenario of sessions time costs nothing; here it passes.
const WAIT_MAX_S: u32 = 3;

/// One script.
pub(crate) struct File {
    /// `connect/clean_start_ends_the_session`.
    pub(crate) name: String,
    /// From the repository's root.
    pub(crate) path: String,
    pub(crate) header: Header,
    pub(crate) script: Script,
    /// As it is written.
    pub(crate) text: String,
}

/// The repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// All scripts in the order of their names, or what is wrong with them.
pub(crate) fn read_all() -> (Vec<File>, Vec<String>) {
    let folder = root().join("tests/conformance/scripts");
    let (mut files, mut wrong) = (Vec::new(), Vec::new());
    let mut paths = Vec::new();
    for area in entries(&folder) {
        paths.extend(entries(&area));
    }
    paths.retain(|path| path.extension().is_some_and(|end| end == "txt"));
    for path in paths {
        match read(&folder, &path) {
            Ok(file) => files.push(file),
            Err(why) => wrong.push(format!("{}: {why}", path.display())),
        }
    }
    files.extend(of_sessions());
    (files, wrong)
}

/// The scenarios of the crate `session`, as far as a client over TCP can play them: as 5.0.
fn of_sessions() -> Vec<File> {
    let paths = entries(&root().join("crates/session/tests/scripts"));
    paths.iter().filter_map(|path| of_session(path)).collect()
}

fn of_session(path: &Path) -> Option<File> {
    if path.extension()? != "txt" {
        return None;
    }
    let text = std::fs::read_to_string(path).ok()?;
    let script = Script::parse(&text).ok()?;
    let takes_long = |step: &Step| {
        let seconds = step.packet.positional(0).and_then(parse_seconds);
        step.packet.name == "wait" && seconds.is_none_or(|seconds| seconds > WAIT_MAX_S)
    };
    if script.turns().iter().any(|turn| takes_long(turn.action)) {
        return None;
    }
    let name = path.file_stem()?.to_string_lossy();
    Some(File {
        path: format!("crates/session/tests/scripts/{name}.txt"),
        name: format!("session/tests/scripts/{name}"),
        header: Header {
            ids: [("5.0", Vec::new())].into(),
            is_alone: text.contains("SUBSCRIBE #"),
            ..Header::default()
        },
        script,
        text,
    })
}

fn read(folder: &Path, path: &Path) -> Result<File, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    let name = path.strip_prefix(folder).unwrap_or(path).with_extension("");
    let header = Header::parse(&text)?;
    if header.ids.is_empty() {
        return Err("no version".to_owned());
    }
    let name = name.to_string_lossy().into_owned();
    Ok(File {
        path: format!("tests/conformance/scripts/{name}.txt"),
        name,
        header,
        script: Script::parse(&text)?,
        text,
    })
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}
