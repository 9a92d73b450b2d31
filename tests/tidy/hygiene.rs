//! Tracked files name no machine: no path of somebody's folders, no host that is not public. And no
//! work is left behind as a mark in the code.

use crate::repository::{Repository, place};

/// Where a path of one machine begins.
const MACHINE_PATHS: [&str; 4] = ["/work/", "/root/", "/home/", "/Users/"];
/// Hosts that a URL may name: public documents, ourselves, and placeholders.
const HOSTS: [&str; 9] = [
    "github.com",
    "rustup.rs",
    "www.apache.org",
    "docs.oasis-open.org",
    "127.0.0.1",
    "localhost",
    "example.com",
    "x",
    "",
];
/// Marks of unfinished work. An issue has a number, a date and somebody who looks at it.
const MARKS: [&str; 3] = ["TODO", "FIXME", "XXX"];
/// What names the rules themselves, or is not ours.
const EXEMPT: [&str; 3] = ["tests/tidy/", "Cargo.lock", "LICENSE"];

pub(crate) fn check(repository: &Repository) -> Vec<String> {
    let mut violations = Vec::new();
    for (path, text) in repository.files() {
        if EXEMPT.iter().any(|exempt| path.starts_with(exempt)) {
            continue;
        }
        for word in MACHINE_PATHS.iter().chain(&MARKS) {
            for (at, found) in text
                .match_indices(word)
                .filter(|(at, word)| stands_alone(text, *at, word))
            {
                violations.push(format!("{}: {found}", place(path, text, at)));
            }
        }
        for (at, host) in hosts(text).filter(|(_, host)| !HOSTS.contains(host)) {
            violations.push(format!("{}: the host {host}", place(path, text, at)));
        }
    }
    violations
}

/// Not in the middle of a longer word or path.
fn stands_alone(text: &str, at: usize, word: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || "._-~}/".contains(c);
    let goes_on = |c: char| c.is_alphanumeric();
    !text[..at].ends_with(is_word)
        && (word.ends_with('/') || !text[at + word.len()..].starts_with(goes_on))
}

/// The hosts of all URLs; empty where it is put in at run time.
fn hosts(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.match_indices("://").map(|(at, colon)| {
        let start = at + colon.len();
        let is_host = |c: char| c.is_ascii_alphanumeric() || ".-".contains(c);
        let rest = &text[start..];
        let end = rest.find(|c| !is_host(c)).unwrap_or(rest.len());
        (at, rest[..end].trim_end_matches('.'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn violations(text: &str) -> usize {
        check(&Repository::of(&[("docs/x.md", text)])).len()
    }

    #[test]
    fn paths_of_a_machine_are_found() {
        assert_eq!(violations("see /home/me/x and \"/root/.cargo\""), 2);
        assert_eq!(violations("crates/work/x, $HOME/work/x, a/root/b"), 0);
    }

    #[test]
    fn hosts_that_are_not_public_are_found() {
        assert_eq!(violations("https://mirror.local/crates"), 1);
        assert_eq!(
            violations("https://github.com/a/b http://{address}/x http://127.0.0.1:80"),
            0
        );
    }

    #[test]
    fn marks_of_unfinished_work_are_found() {
        assert_eq!(violations("// TODO: later\n// FIXME"), 2);
        assert_eq!(violations("TODOS methodXXX"), 0);
    }
}
