//! Comments that point to a section of the design point to one that is there, and to no document
//! that is not.

use crate::repository::{Repository, place};

const DESIGN: &str = "docs/DESIGN.md";
/// Documents that the sources must not lean on, since they are not here.
const ELSEWHERE: [&str; 2] = ["OPERATIONS section", "FACTS section"];

pub(crate) fn check(repository: &Repository) -> Vec<String> {
    let design = repository.text(DESIGN).unwrap_or_default();
    let has_section = |number: &str| {
        design.lines().any(|line| {
            line.strip_prefix("## ")
                .and_then(|line| line.split_once(". "))
                .is_some_and(|(found, _)| found == number)
        })
    };
    let mut violations = Vec::new();
    let is_source = |path: &str| {
        let ends = [".rs", ".proto", ".md", ".toml", ".sh", ".c", ".py"];
        ends.iter().any(|end| path.ends_with(end)) && !path.starts_with("tests/tidy/")
    };
    for (path, text) in repository.files().filter(|(path, _)| is_source(path)) {
        for (at, found) in text.match_indices("DESIGN section ") {
            let number: String = text[at + found.len()..]
                .chars()
                .take_while(char::is_ascii_digit)
                .collect();
            if !has_section(&number) {
                violations.push(format!(
                    "{}: {DESIGN} has no section {number:?}",
                    place(path, text, at)
                ));
            }
        }
        for elsewhere in ELSEWHERE {
            for (at, found) in text.match_indices(elsewhere) {
                violations.push(format!(
                    "{}: {found}: no such document here",
                    place(path, text, at)
                ));
            }
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_that_is_not_there_is_found() {
        let design = (DESIGN, "## 1. Words\n## 12. More\n");
        let found = check(&Repository::of(&[
            design,
            ("a.rs", "// DESIGN section 12, flows\n"),
            ("b.rs", "\n// DESIGN section 2\n"),
            ("c.rs", "// OPERATIONS section 6\n"),
        ]));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            found[0].starts_with("b.rs:2: ") && found[1].starts_with("c.rs:1: "),
            "{found:?}"
        );
    }
}
