//! docs/decisions: numbered without gaps, with the four parts of a decision; the list of
//! dependencies names each one.

use crate::repository::Repository;

const FOLDER: &str = "docs/decisions/";
const DEPENDENCIES: &str = "docs/decisions/0002-dependencies.md";
const PARTS: [&str; 4] = [
    "## Context",
    "## Decision",
    "## What we gave up",
    "## How we would notice it was wrong",
];
/// A page, not an essay.
const LINES_MAX: usize = 80;
/// What the project was given to build on.
const GIVEN: [&str; 9] = [
    "tokio",
    "openraft",
    "tonic",
    "prost",
    "rocksdb",
    "dashmap",
    "tracing",
    "metrics",
    "metrics-exporter-prometheus",
];

pub(crate) fn check(repository: &Repository) -> Vec<String> {
    let mut violations = Vec::new();
    let decisions = repository
        .files()
        .filter(|(path, _)| path.starts_with(FOLDER));
    for ((path, text), number) in decisions.zip(1..) {
        let wanted = format!("{FOLDER}{number:04}-");
        if !path.starts_with(&wanted) {
            violations.push(format!("{path}: the next number is {number:04}"));
        }
        if !text.starts_with(&format!("# {number:04}: ")) {
            violations.push(format!("{path}: does not begin with its number and title"));
        }
        for part in PARTS {
            if !text.lines().any(|line| line == part) {
                violations.push(format!("{path}: lacks {part:?}"));
            }
        }
        if text.lines().count() > LINES_MAX {
            violations.push(format!("{path}: more than one page"));
        }
    }
    violations.extend(unexplained_dependencies(repository));
    violations
}

fn unexplained_dependencies(repository: &Repository) -> Vec<String> {
    let manifest = repository.text("Cargo.toml").unwrap_or_default();
    let reasons = repository.text(DEPENDENCIES).unwrap_or_default();
    let explained = |name: &str| {
        let rows = reasons.lines().filter_map(|line| line.strip_prefix("| "));
        rows.filter_map(|row| row.split('|').next())
            .any(|cell| cell.split([',', ' ']).any(|word| word == name))
    };
    let table = manifest
        .split_once("[workspace.dependencies]")
        .map_or("", |(_, table)| table);
    table
        .lines()
        .take_while(|line| !line.starts_with('['))
        .filter(|line| !line.contains("path = "))
        .filter_map(|line| line.split_once(" = "))
        .map(|(name, _)| name)
        .filter(|name| !name.starts_with('#') && !GIVEN.contains(name) && !explained(name))
        .map(|name| format!("Cargo.toml: {DEPENDENCIES} gives no reason for {name}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decision(number: &str) -> String {
        format!("# {number}: T\n{}\n", PARTS.join("\n"))
    }

    #[test]
    fn a_gap_a_missing_part_and_a_wrong_title_are_found() {
        let (first, third) = (decision("0001"), decision("0003"));
        let second = decision("0002").replace(PARTS[2], "");
        let path = |name: &str| format!("{FOLDER}{name}.md");
        let good = [(path("0001-a"), first.as_str())];
        let bad = [
            (path("0001-a"), first.as_str()),
            (path("0003-c"), third.as_str()),
        ];
        let worse = [
            (path("0001-a"), first.as_str()),
            (path("0002-b"), second.as_str()),
        ];
        for (files, wanted) in [(&good[..], 0), (&bad[..], 2), (&worse[..], 1)] {
            let files: Vec<_> = files
                .iter()
                .map(|(path, text)| (path.as_str(), *text))
                .collect();
            let found = check(&Repository::of(&files));
            assert_eq!(found.len(), wanted, "{found:?}");
        }
    }

    #[test]
    fn a_dependency_without_a_reason_is_found() {
        let manifest = "[workspace.dependencies]\ncodec = { path = \"x\" }\ntokio = \"1\"\na = \"1\"\nb = \"1\"\n[profile]\nc = 1\n";
        let found = check(&Repository::of(&[
            ("Cargo.toml", manifest),
            (DEPENDENCIES, "| x, a | reason for b |\n"),
        ]));
        assert_eq!(
            found
                .iter()
                .filter(|line| line.starts_with("Cargo.toml"))
                .count(),
            1,
            "{found:?}"
        );
        assert!(
            found.iter().any(|line| line.ends_with("reason for b")),
            "{found:?}"
        );
    }
}
