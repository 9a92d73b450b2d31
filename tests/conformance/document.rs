//! docs/CONFORMANCE.md says what the tests show.

use testkit::coverage::{LISTS, Shown, document, of_script, statements};
use testkit::header::parse_version;

use crate::files::{File, root};
use crate::registry::Test;

const DOCUMENT: &str = "docs/CONFORMANCE.md";

/// What all tests show.
pub(crate) fn shown(files: &[std::sync::Arc<File>], tests: &[Test]) -> Vec<Shown> {
    let mut shown: Vec<Shown> = files
        .iter()
        .filter_map(|file| of_script(&file.name, &file.text).ok())
        .collect();
    for test in tests {
        let ids = test.ids.iter().filter_map(|ids| parse_version(ids).ok());
        shown.push(Shown {
            name: test.name.to_owned(),
            ids: ids.collect(),
            forms: vec!["single", "cluster"],
        });
    }
    shown.sort_by(|one, other| one.name.cmp(&other.name));
    shown
}

/// Compares the document, or rewrites it with `UPDATE=1`.
///
/// # Errors
/// When it is out of date.
pub(crate) fn check(shown: &[Shown]) -> Result<(), String> {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).unwrap_or_default();
    let lists = LISTS.map(|(version, path)| (version, statements(&read(path))));
    let text = document(&lists, shown);
    if text == read(DOCUMENT) {
        return Ok(());
    }
    if std::env::var_os("UPDATE").is_some() {
        return std::fs::write(root().join(DOCUMENT), text).map_err(|error| error.to_string());
    }
    Err(format!(
        "{DOCUMENT} is out of date: UPDATE=1 cargo test --release -p node --test conformance document"
    ))
}
