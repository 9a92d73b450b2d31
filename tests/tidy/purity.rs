//! Replicated code and the pure crates: no clock, thread, async, randomness, float, hash iteration,
//! log line or metric, and no I/O. Time comes in as an argument, outputs go out.
//!
//! Clippy guards the pure crates; the pure modules of raft-store share a crate with I/O, so only
//! this rule guards them.

use crate::repository::{Repository, is_test_file, place};
use crate::rust::Source;

/// Pure crates and pure modules of raft-store: a file, or a folder with everything in it.
const PURE: [&str; 12] = [
    "crates/codec/src/",
    "crates/session/src/",
    "crates/router/src/",
    "crates/raft-store/src/machine.rs",
    "crates/raft-store/src/machine/",
    "crates/raft-store/src/command.rs",
    "crates/raft-store/src/state.rs",
    "crates/raft-store/src/digest.rs",
    "crates/raft-store/src/encoding.rs",
    "crates/raft-store/src/encoding/",
    "crates/raft-store/src/batch.rs",
    "crates/raft-store/src/ids.rs",
];
/// Modules of raft-store that its pure modules may use.
const PURE_MODULES: [&str; 7] = [
    "machine", "command", "state", "digest", "encoding", "batch", "ids",
];
/// Words that none of these have a use for.
const FORBIDDEN: [&str; 29] = [
    "Instant",
    "SystemTime",
    "UNIX_EPOCH",
    "thread",
    "tokio",
    "futures",
    "async",
    "await",
    "HashMap",
    "HashSet",
    "RandomState",
    "DashMap",
    "rand",
    "f32",
    "f64",
    "tracing",
    "metrics",
    "fs",
    "net",
    "process",
    "println",
    "eprintln",
    "Mutex",
    "RwLock",
    "RefCell",
    "static",
    "openraft",
    "rocksdb",
    "tonic",
];

pub(crate) fn check(repository: &Repository) -> Vec<String> {
    let mut violations = Vec::new();
    for pure in PURE {
        if !repository.has(pure.trim_end_matches('/')) {
            violations.push(format!("{pure} is listed as pure and does not exist"));
        }
    }
    for (path, source) in repository.rust() {
        let is_pure = PURE
            .iter()
            .any(|pure| path == *pure || (pure.ends_with('/') && path.starts_with(pure)));
        if is_pure && !is_test_file(path) {
            check_file(path, &source, &mut violations);
        }
    }
    violations
}

fn check_file(path: &str, source: &Source, violations: &mut Vec<String>) {
    for (at, word) in source.words() {
        let is_lifetime = at > 0 && source.code.as_bytes()[at - 1] == b'\'';
        if FORBIDDEN.contains(&word) && !is_lifetime && !source.is_in_tests(at) {
            violations.push(format!(
                "{}: `{word}` in pure code",
                place(path, &source.code, at)
            ));
        }
    }
    if !path.starts_with("crates/raft-store/") {
        return;
    }
    for (at, text) in source.code.match_indices("crate::") {
        let module = source
            .words()
            .find(|(word_at, _)| *word_at == at + text.len());
        let Some((_, module)) = module else { continue };
        if !PURE_MODULES.contains(&module) && !source.is_in_tests(at) {
            let place = place(path, &source.code, at);
            violations.push(format!(
                "{place}: pure code uses `crate::{module}`, which is not pure"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn violations(text: &str) -> Vec<String> {
        let mut violations = Vec::new();
        check_file(
            "crates/raft-store/src/machine.rs",
            &Source::parse(text),
            &mut violations,
        );
        violations
    }

    #[test]
    fn a_clock_a_hash_map_and_a_log_line_are_found_where_they_are() {
        let found = violations(
            "use std::time::Instant;\n\nfn f(m: HashMap<u8, u8>) { tracing::info!(\"x\"); }\n",
        );
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(
            found[0].starts_with("crates/raft-store/src/machine.rs:1:"),
            "{found:?}"
        );
    }

    #[test]
    fn words_in_comments_names_and_tests_are_no_use() {
        let text = "/// No Mutex, no clock: `Instant`.\nfn thread_of(static_x: &'static str) {}\n\
                    #[cfg(test)]\nmod tests { fn f() { let x: f64 = 1.0; } }\n";
        assert_eq!(violations(text), Vec::<String>::new());
    }

    #[test]
    fn pure_modules_use_pure_modules_only() {
        assert_eq!(violations("use crate::command::Command;\n").len(), 0);
        assert_eq!(violations("use crate::db::StateDb;\n").len(), 1);
    }

    #[test]
    fn a_pure_file_that_moved_away_is_noticed() {
        assert_eq!(
            check(&Repository::of(&[("README.md", "")])).len(),
            PURE.len()
        );
    }
}
