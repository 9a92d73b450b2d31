//! Calls that have no place: channels without bound, and tests that sleep instead of waiting for
//! what they want to see.

use crate::repository::{Repository, is_test_file, place};
use crate::rust::Source;

/// Nothing grows without bound (G9).
const UNBOUNDED: [&str; 4] = [
    "unbounded_channel",
    "unbounded",
    "UnboundedSender",
    "UnboundedReceiver",
];
/// The one place where tests wait.
const WAITING: &str = "tests/support/wait.rs";
/// Files with so many more calls, each with the reason.
const SLEEPS: [(&str, usize, &str); 3] = [
    (
        "tests/support/process.rs",
        1,
        "polls a process's end, with a deadline",
    ),
    (
        "tests/support/client.rs",
        1,
        "the pause of a client that tries address after address, with a deadline",
    ),
    (
        "crates/raft-store/tests/common/cluster.rs",
        3,
        "its own waiting, with deadlines: the crate cannot see testkit",
    ),
];

pub(crate) fn check(repository: &Repository) -> Vec<String> {
    let mut violations = Vec::new();
    for (path, source) in repository
        .rust()
        .filter(|(path, _)| !path.starts_with("tests/tidy/"))
    {
        for (at, word) in source.words().filter(|(_, word)| UNBOUNDED.contains(word)) {
            violations.push(format!(
                "{}: {word} has no bound",
                place(path, &source.code, at)
            ));
        }
        let sleeps = sleeps_in_tests(path, &source);
        let allowed = SLEEPS
            .iter()
            .find(|(file, ..)| *file == path)
            .map_or(0, |(_, count, _)| *count);
        if path != WAITING && sleeps.len() > allowed {
            violations.extend(sleeps.into_iter().skip(allowed).map(|at| {
                let place = place(path, &source.code, at);
                format!("{place}: a test waits for a condition (`wait_until`), not for a time")
            }));
        }
    }
    violations
}

/// Calls of any function called `sleep`, or of its kin.
fn sleeps_in_tests(path: &str, source: &Source) -> Vec<usize> {
    let is_call = |at: usize, word: &str| {
        ["sleep", "sleep_until", "sleep_ms"].contains(&word)
            && source.code[at + word.len()..].starts_with('(')
    };
    let in_tests = |at: usize| is_test_file(path) || source.is_in_tests(at);
    source
        .words()
        .filter(|(at, word)| is_call(*at, word) && in_tests(*at))
        .map(|(at, _)| at)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_without_bound_is_found_in_any_code() {
        let files = [(
            "crates/node/src/a.rs",
            "let (a, b) = mpsc::unbounded_channel();",
        )];
        assert_eq!(check(&Repository::of(&files)).len(), 1);
    }

    #[test]
    fn a_sleep_is_found_in_test_files_and_in_unit_tests_only() {
        let sleep = "async fn f() { tokio::time::sleep(x).await }";
        let unit = format!("{sleep}\n#[cfg(test)]\nmod tests {{ {sleep} }}\n");
        for (path, text, wanted) in [
            ("crates/node/src/a.rs", sleep, 0),
            ("crates/node/src/a.rs", unit.as_str(), 1),
            ("crates/node/tests/a.rs", sleep, 1),
            ("tests/process/a.rs", sleep, 1),
            ("tests/process/a.rs", "fn asleep() { fall_asleep(1) }", 0),
            (WAITING, sleep, 0),
        ] {
            assert_eq!(
                check(&Repository::of(&[(path, text)])).len(),
                wanted,
                "{path}: {text}"
            );
        }
    }

    #[test]
    fn an_exception_covers_what_it_was_given_for_and_no_more() {
        let (path, count, _) = SLEEPS[0];
        let text = "fn f() { sleep(x) }\n".repeat(count + 1);
        assert_eq!(check(&Repository::of(&[(path, &text)])).len(), 1);
    }
}
