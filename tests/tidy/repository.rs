//! The files that the rules look at: what git tracks or would track.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::rust::Source;

/// The repository's text files by path from its root, with `/` between folders.
#[derive(Default)]
pub(crate) struct Repository {
    files: BTreeMap<String, String>,
}

/// Folders that hold no sources, for when git cannot be asked.
const SKIPPED_FOLDERS: [&str; 5] = [
    ".git",
    "target",
    "holdfast-data",
    "holdfast-demo",
    "__pycache__",
];

impl Repository {
    /// The repository that this test was built from.
    pub(crate) fn read() -> Self {
        let root = root();
        let mut files = BTreeMap::new();
        for path in tracked(&root).unwrap_or_else(|| walked(&root)) {
            // What is no text, or is deleted and not committed yet, breaks no rule.
            if let Ok(text) = std::fs::read_to_string(root.join(&path)) {
                files.insert(path, text);
            }
        }
        assert!(
            files.len() > 100,
            "only {} files in {}",
            files.len(),
            root.display()
        );
        Self { files }
    }

    /// A repository of these files, for the tests of the rules.
    #[cfg(test)]
    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        let own = |(path, text): &(&str, &str)| ((*path).to_owned(), (*text).to_owned());
        Self {
            files: files.iter().map(own).collect(),
        }
    }

    /// Every file.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files
            .iter()
            .map(|(path, text)| (path.as_str(), text.as_str()))
    }

    /// Files whose name ends like this.
    pub(crate) fn ending(&self, end: &str) -> impl Iterator<Item = (&str, &str)> {
        self.files().filter(move |(path, _)| path.ends_with(end))
    }

    /// Rust files, taken apart.
    pub(crate) fn rust(&self) -> impl Iterator<Item = (&str, Source)> {
        self.ending(".rs")
            .map(|(path, text)| (path, Source::parse(text)))
    }

    /// One file.
    pub(crate) fn text(&self, path: &str) -> Option<&str> {
        self.files.get(path).map(String::as_str)
    }

    /// Whether there is such a file or folder.
    pub(crate) fn has(&self, path: &str) -> bool {
        let folder = format!("{}/", path.trim_end_matches('/'));
        path.is_empty()
            || self.files.contains_key(path)
            || self
                .files
                .range(folder.clone()..)
                .next()
                .is_some_and(|(file, _)| file.starts_with(&folder))
    }

    /// Replaces a file, here and on disk.
    pub(crate) fn write(&mut self, path: &str, text: String) {
        std::fs::write(root().join(path), &text).unwrap();
        self.files.insert(path.to_owned(), text);
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

fn tracked(root: &Path) -> Option<Vec<String>> {
    let arguments = [
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ];
    let output = Command::new("git")
        .arg("-C")
        .arg(root)
        .args(arguments)
        .output()
        .ok()?;
    let list = String::from_utf8(output.stdout)
        .ok()
        .filter(|_| output.status.success())?;
    Some(list.split_terminator('\0').map(str::to_owned).collect())
}

fn walked(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && !SKIPPED_FOLDERS.contains(&name.as_str()) {
                folders.push(path);
            } else if path.is_file() {
                found.push(
                    path.strip_prefix(root)
                        .unwrap()
                        .to_string_lossy()
                        .into_owned(),
                );
            }
        }
    }
    found
}

/// Whether a Rust file belongs to the tests as a whole.
pub(crate) fn is_test_file(path: &str) -> bool {
    path.starts_with("tests/") || path.contains("/tests/") || path.ends_with("/tests.rs")
}

/// `PATH:LINE` of an offset, lines from 1.
pub(crate) fn place(path: &str, text: &str, offset: usize) -> String {
    let line = text[..offset].matches('\n').count() + 1;
    format!("{path}:{line}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_exist_through_their_files() {
        let repository = Repository::of(&[("docs/decisions/0001-x.md", "")]);
        assert!(repository.has("docs"));
        assert!(repository.has("docs/decisions/"));
        assert!(repository.has("docs/decisions/0001-x.md"));
        assert!(!repository.has("doc"));
    }

    #[test]
    fn without_git_the_same_files_are_found() {
        let root = root();
        let walked = walked(&root);
        for path in [
            "Cargo.toml",
            "crates/codec/src/lib.rs",
            "tests/tidy/main.rs",
        ] {
            assert!(walked.iter().any(|found| found == path), "{path}");
        }
    }
}
