//! Each statement of the standard that binds a server has a test, or its list says why none can show
//! it; each test names statements that exist.

use testkit::coverage::{LISTS, Shown, Statement, of_rust, of_script, statements, violations};

use crate::repository::Repository;

const SCRIPTS: &str = "tests/conformance/scripts/";
const RUST: &str = "tests/conformance/";

pub(crate) fn check(repository: &Repository) -> Vec<String> {
    let mut found = Vec::new();
    let mut shown: Vec<Shown> = Vec::new();
    for (path, text) in repository.ending(".txt") {
        let name = path.strip_prefix(SCRIPTS);
        let Some(name) = name.and_then(|name| name.strip_suffix(".txt")) else {
            continue;
        };
        match of_script(name, text) {
            Ok(test) => shown.push(test),
            Err(why) => found.push(format!("{path}: {why}")),
        }
    }
    for (path, text) in repository.ending(".rs") {
        if path.starts_with(RUST) {
            shown.extend(of_rust(text));
        }
    }
    let lists = LISTS.map(|(version, path)| {
        let list: Vec<Statement> = statements(repository.text(path).unwrap_or_default());
        (version, list)
    });
    for (version, list) in &lists {
        if list.is_empty() {
            found.push(format!("no statements of {version}"));
        }
    }
    found.extend(violations(&lists, &shown, |path, id| {
        let number = id.trim_start_matches("MQTT-");
        let text = repository.text(path);
        text.is_some_and(|text| text.contains(number))
    }));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "id,section,applies_to,requirement,broker_test\n";

    fn check_with(script: &str) -> Vec<String> {
        let list = format!("{HEAD}@1.1.1-1,1,server,a,b\n").replace('@', "MQTT-");
        let script = script.replace('@', "MQTT-");
        check(&Repository::of(&[
            (LISTS[0].1, &list),
            (LISTS[1].1, &list),
            ("tests/conformance/scripts/area/x.txt", &script),
        ]))
    }

    #[test]
    fn a_statement_with_a_test_in_each_version_passes() {
        let script = "# 3.1.1: @1.1.1-1\n# 5.0: @1.1.1-1\n# It shows it.\n";
        assert_eq!(check_with(script), Vec::<String>::new());
    }

    #[test]
    fn a_statement_without_a_test_is_found_in_each_version() {
        let found = check_with("# 5.0: @1.1.1-1\n# It shows it.\n");
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("3.1.1: "), "{found:?}");
    }

    #[test]
    fn a_head_that_can_not_be_read_is_found() {
        assert_eq!(check_with("# 5.0: nonsense\n# It shows it.\n").len(), 3);
    }
}
