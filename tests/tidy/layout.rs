//! Files hold one idea: at most 500 lines without tests, a name that says which, and a line in the
//! code map of docs/ARCHITECTURE.md.

use std::collections::BTreeSet;

use crate::repository::{Repository, is_test_file};

/// Lines without tests.
const LINES_MAX: usize = 500;
/// Drawers that collect what has no place.
const FORBIDDEN_NAMES: [&str; 8] = [
    "mod.rs",
    "utils.rs",
    "util.rs",
    "types.rs",
    "helpers.rs",
    "helper.rs",
    "misc.rs",
    "common.rs",
];
/// Files that may be longer, each with the reason.
const LONGER: [(&str, &str); 0] = [];
/// Where the code map is.
const MAP: &str = "docs/ARCHITECTURE.md";

pub(crate) fn check(repository: &Repository) -> Vec<String> {
    let mut violations = Vec::new();
    for (path, source) in repository.rust() {
        let name = path.rsplit('/').next().unwrap_or(path);
        if FORBIDDEN_NAMES.contains(&name) {
            violations.push(format!("{path}: the name says nothing"));
        }
        let lines = source.lines_without_tests();
        let may_be_longer = LONGER.iter().any(|(longer, _)| *longer == path);
        if lines > LINES_MAX && !may_be_longer && !is_test_file(path) {
            violations.push(format!(
                "{path}: {lines} lines without tests, at most {LINES_MAX}"
            ));
        }
    }
    violations.extend(off_the_map(repository));
    violations
}

/// Source files that the code map lacks, and files on it that are not there.
fn off_the_map(repository: &Repository) -> Vec<String> {
    let Some(map) = repository.text(MAP) else {
        return vec![format!("{MAP} is missing")];
    };
    let named = mapped(map);
    let is_source =
        |path: &&str| path.starts_with("crates/") && path.contains("/src/") && !is_test_file(path);
    let sources: BTreeSet<&str> = repository
        .ending(".rs")
        .map(|(path, _)| path)
        .filter(is_source)
        .collect();
    let missing = sources
        .iter()
        .filter(|path| !named.contains(**path))
        .map(|path| format!("{path}: not in the code map of {MAP}"));
    let gone = named
        .iter()
        .filter(|path| !sources.contains(path.as_str()))
        .map(|path| format!("{MAP}: names {path}, which does not exist"));
    missing.chain(gone).collect()
}

/// The files in the tables of the code map: a heading `### crates/NAME` says where, the first cell
/// of each row names files of its `src` in backquotes.
fn mapped(map: &str) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    let mut folder = None;
    for line in map.lines() {
        if line.starts_with('#') {
            folder = line
                .strip_prefix("### `crates/")
                .and_then(|rest| rest.split('`').next());
        }
        let Some((folder, row)) = folder.zip(line.strip_prefix('|')) else {
            continue;
        };
        let cell = row.split('|').next().unwrap_or_default();
        for file in cell
            .split('`')
            .skip(1)
            .step_by(2)
            .filter(|file| file.ends_with(".rs"))
        {
            named.insert(format!("crates/{folder}/src/{file}"));
        }
    }
    named
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAP_TEXT: &str =
        "### `crates/codec`\n| file | what |\n|---|---|\n| `lib.rs`, `a/b.rs` | `c.rs` |\n";

    #[test]
    fn a_long_file_is_found_and_its_tests_do_not_count() {
        let code = "fn f() {}\n".repeat(LINES_MAX);
        let tests = format!("#[cfg(test)]\nmod tests {{\n{code}}}\n");
        let check_text = |text: &str| {
            check(&Repository::of(&[
                ("crates/codec/src/lib.rs", text),
                ("crates/codec/src/a/b.rs", ""),
                (MAP, MAP_TEXT),
            ]))
        };
        assert_none(&check_text(&format!("{code}{tests}")));
        let found = check_text(&format!("{code}fn g() {{}}\n{tests}"));
        assert!(
            found.len() == 1 && found[0].contains("501 lines"),
            "{found:?}"
        );
    }

    #[test]
    fn drawers_are_found_anywhere() {
        for path in ["crates/codec/src/utils.rs", "tests/process/mod.rs"] {
            let found = check(&Repository::of(&[(path, "")]));
            assert!(
                found.iter().any(|line| line.contains("says nothing")),
                "{found:?}"
            );
        }
    }

    #[test]
    fn files_and_map_must_agree() {
        let files = [
            ("crates/codec/src/lib.rs", ""),
            ("crates/codec/src/new.rs", ""),
            (MAP, MAP_TEXT),
        ];
        let found = check(&Repository::of(&files));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            found[0].contains("new.rs: not in the code map"),
            "{found:?}"
        );
        assert!(
            found[1].contains("a/b.rs, which does not exist"),
            "{found:?}"
        );
    }

    #[test]
    fn an_exception_that_is_not_needed_any_more_is_removed() {
        let repository = Repository::read();
        for (path, reason) in LONGER {
            let source = crate::rust::Source::parse(repository.text(path).unwrap());
            assert!(
                source.lines_without_tests() > LINES_MAX,
                "{path} is short again: {reason}"
            );
        }
    }

    fn assert_none(found: &[String]) {
        assert!(found.is_empty(), "{found:?}");
    }
}
