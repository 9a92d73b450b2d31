//! docs/publish.md walks the path of one PUBLISH from function to function: each that it names as
//! `crate/file.rs::function` exists in `crates/CRATE/src/FILE.rs`, outside of tests.

use crate::repository::{Repository, place};
use crate::rust::Source;

const WALK: &str = "docs/publish.md";
/// Fewer would be no walk.
const STATIONS_MIN: usize = 15;

pub(crate) fn check(repository: &Repository) -> Vec<String> {
    let Some(walk) = repository.text(WALK) else {
        return vec![format!("{WALK} is missing")];
    };
    let stations = stations(walk);
    let mut violations = Vec::new();
    if stations.len() < STATIONS_MIN {
        violations.push(format!("{WALK}: names only {} functions", stations.len()));
    }
    for (at, station) in stations {
        if let Err(reason) = exists(repository, station) {
            violations.push(format!("{}: `{station}`: {reason}", place(WALK, walk, at)));
        }
    }
    violations
}

/// Everything in backquotes that looks like a function in a file.
fn stations(walk: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (at, _) in walk.match_indices(".rs::") {
        let start = walk[..at].rfind(['`', '\n']).map_or(0, |quote| quote + 1);
        let end = walk[at..]
            .find(['`', '\n'])
            .map_or(walk.len(), |length| at + length);
        found.push((start, &walk[start..end]));
    }
    found
}

fn exists(repository: &Repository, station: &str) -> Result<(), String> {
    let (file, function) = station.split_once("::").ok_or("names no function")?;
    let (package, file) = file.split_once('/').ok_or("names no crate")?;
    let path = format!("crates/{package}/src/{file}");
    let text = repository
        .text(&path)
        .ok_or_else(|| format!("{path} does not exist"))?;
    if Source::parse(text).has_function(function) {
        return Ok(());
    }
    Err(format!("{path} has no function {function}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_that_moved_is_found() {
        let walk = "See `node/publish.rs::on_publish`,\n`node/publish.rs::gone`, `node/gone.rs::f`,\n\
                    `node/publish.rs::only_tested`.\n";
        let source = "impl C {\n    pub(crate) fn on_publish(&mut self) {}\n}\n\
                      #[cfg(test)]\nmod tests {\n    fn only_tested() {}\n}\n";
        let found = check(&Repository::of(&[
            (WALK, walk),
            ("crates/node/src/publish.rs", source),
        ]));
        // Too short for a walk, and three wrong stations.
        assert_eq!(found.len(), 4, "{found:?}");
        assert!(
            found[1].contains("publish.md:2: `node/publish.rs::gone`"),
            "{found:?}"
        );
        assert!(
            found[2].contains("crates/node/src/gone.rs does not exist"),
            "{found:?}"
        );
        assert!(found[3].contains("no function only_tested"), "{found:?}");
    }

    #[test]
    fn no_walk_is_no_pass() {
        assert_eq!(check(&Repository::of(&[])).len(), 1);
    }
}
