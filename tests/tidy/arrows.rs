//! The crates' arrows: `codec <- session, router <- raft-store <- node`, and none between session
//! and router. Pure crates use nothing from outside that could bring a clock or a thread along.

use crate::repository::Repository;

/// A crate and those of ours that it may depend on.
const ARROWS: [(&str, &[&str]); 5] = [
    ("codec", &[]),
    ("session", &["codec"]),
    ("router", &["codec"]),
    ("raft-store", &["codec", "session", "router"]),
    ("node", &["codec", "session", "router", "raft-store"]),
];
/// Our packages that only tests may depend on.
const TEST_ONLY: [&str; 2] = ["testkit", "benches"];
/// What a pure crate may use from outside.
const PURE: [(&str, &[&str]); 3] = [
    ("codec", &["bytes", "thiserror"]),
    ("session", &["thiserror"]),
    ("router", &[]),
];

/// One dependency of a manifest.
#[derive(Debug, PartialEq)]
struct Dependency<'a> {
    name: &'a str,
    only_for_tests: bool,
}

pub(crate) fn check(repository: &Repository) -> Vec<String> {
    let mut violations = Vec::new();
    for (path, manifest) in repository.ending("/Cargo.toml") {
        let Some(name) = path
            .strip_prefix("crates/")
            .and_then(|path| path.strip_suffix("/Cargo.toml"))
        else {
            continue;
        };
        let Some((_, allowed)) = ARROWS.iter().find(|(of, _)| *of == name) else {
            violations.push(format!(
                "{path}: a crate that has no place among the arrows"
            ));
            continue;
        };
        for dependency in dependencies(manifest) {
            if is_forbidden(name, allowed, &dependency) {
                violations.push(format!(
                    "{path}: {name} must not depend on {}",
                    dependency.name
                ));
            }
        }
    }
    violations
}

fn is_forbidden(name: &str, allowed: &[&str], dependency: &Dependency<'_>) -> bool {
    let is_ours = ARROWS.iter().any(|(of, _)| *of == dependency.name);
    if is_ours {
        return !allowed.contains(&dependency.name);
    }
    if dependency.only_for_tests {
        return false;
    }
    let outside = PURE.iter().find(|(of, _)| *of == name);
    TEST_ONLY.contains(&dependency.name)
        || outside.is_some_and(|(_, allowed)| !allowed.contains(&dependency.name))
}

/// The names in all dependency tables of a manifest.
fn dependencies(manifest: &str) -> Vec<Dependency<'_>> {
    let mut found = Vec::new();
    let mut only_for_tests = None;
    for line in manifest.lines().map(str::trim) {
        if let Some(table) = line
            .strip_prefix('[')
            .and_then(|line| line.strip_suffix(']'))
        {
            // `[dependencies]`, `[target.'cfg(unix)'.dependencies]` or `[dependencies.NAME]`.
            let (table, name) = match table.split_once("dependencies.") {
                Some((kind, name)) => (format!("{kind}dependencies"), Some(name)),
                None => (table.to_owned(), None),
            };
            only_for_tests = table
                .ends_with("dependencies")
                .then(|| table.ends_with("dev-dependencies"));
            if let (Some(only_for_tests), Some(name)) = (only_for_tests.take(), name) {
                found.push(Dependency {
                    name,
                    only_for_tests,
                });
            } else {
                only_for_tests = table
                    .ends_with("dependencies")
                    .then(|| table.ends_with("dev-dependencies"));
            }
            continue;
        }
        let name = line
            .split(['=', '.', ' '])
            .next()
            .unwrap_or_default()
            .trim_matches('"');
        if let (Some(only_for_tests), false) =
            (only_for_tests, name.is_empty() || name.starts_with('#'))
        {
            found.push(Dependency {
                name,
                only_for_tests,
            });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn violations(name: &str, manifest: &str) -> usize {
        check(&Repository::of(&[(
            &format!("crates/{name}/Cargo.toml"),
            manifest,
        )]))
        .len()
    }

    #[test]
    fn every_way_to_write_a_dependency_is_seen() {
        let manifest = "[package]\nname = \"x\"\n[dependencies]\na.workspace = true\nb = { path = \"b\" }\n\
                        # c = \"1\"\n[dependencies.d]\nversion = \"1\"\n[target.'cfg(unix)'.dependencies]\n\"e\" = \"1\"\n\
                        [dev-dependencies]\nf = \"1\"\n[lints]\nworkspace = true\n";
        let names: Vec<_> = dependencies(manifest)
            .iter()
            .map(|found| (found.name, found.only_for_tests))
            .collect();
        assert_eq!(
            names,
            [
                ("a", false),
                ("b", false),
                ("d", false),
                ("e", false),
                ("f", true)
            ]
        );
    }

    #[test]
    fn session_and_router_must_not_know_each_other_even_in_tests() {
        assert_eq!(
            violations("session", "[dependencies]\nrouter.workspace = true\n"),
            1
        );
        assert_eq!(
            violations("router", "[dev-dependencies]\nsession.workspace = true\n"),
            1
        );
        assert_eq!(
            violations("raft-store", "[dependencies]\nsession.workspace = true\n"),
            0
        );
        assert_eq!(
            violations("raft-store", "[dependencies]\nnode.workspace = true\n"),
            1
        );
    }

    #[test]
    fn a_pure_crate_takes_no_runtime_along() {
        assert_eq!(violations("codec", "[dependencies]\ntokio = \"1\"\n"), 1);
        assert_eq!(
            violations("codec", "[dev-dependencies]\nproptest = \"1\"\n"),
            0
        );
    }

    #[test]
    fn the_broker_does_not_ship_its_test_harness() {
        assert_eq!(
            violations("node", "[dependencies]\ntestkit.workspace = true\n"),
            1
        );
        assert_eq!(
            violations("node", "[dev-dependencies]\ntestkit.workspace = true\n"),
            0
        );
    }

    #[test]
    fn a_new_crate_must_be_given_a_place() {
        assert_eq!(violations("misc", "[package]\n"), 1);
    }
}
