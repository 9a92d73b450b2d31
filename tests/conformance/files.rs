//! The script files: read when the tests run, so that a new script needs no build.

use std::path::{Path, PathBuf};

use testkit::header::Header;
use testkit::script::Script;

/// One script.
pub(crate) struct File {
    /// `connect/clean_start_ends_the_session`.
    pub(crate) name: String,
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
    (files, wrong)
}

fn read(folder: &Path, path: &Path) -> Result<File, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    let name = path.strip_prefix(folder).unwrap_or(path).with_extension("");
    let header = Header::parse(&text)?;
    if header.ids.is_empty() {
        return Err("no version".to_owned());
    }
    Ok(File {
        name: name.to_string_lossy().into_owned(),
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
