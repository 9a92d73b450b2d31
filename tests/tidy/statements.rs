//! Each normative statement that the sources cite exists in the requirement lists of
//! tests/conformance/statements.
//!
//! Cited as `MQTT-…` with number, in the numbering of either version; several as `[MQTT-A-1, -2]`,
//! `[MQTT-A-1..3]` or `[MQTT-A-1, B-2]`; one that only 3.1.1 numbers so as `[MQTT-A-1 of 3.1.1]`.

use std::collections::BTreeSet;

use crate::repository::{Repository, place};

/// The lists; the first column is the id.
const V311: &str = "tests/conformance/statements/mqtt-3.1.1.csv";
const V5: &str = "tests/conformance/statements/mqtt-5.0.csv";

/// Ids as `SECTION-NUMBER`.
struct Lists {
    v311: BTreeSet<String>,
    v5: BTreeSet<String>,
}

pub(crate) fn check(repository: &Repository) -> Vec<String> {
    let lists = Lists {
        v311: ids(repository.text(V311)),
        v5: ids(repository.text(V5)),
    };
    let mut violations = Vec::new();
    for (path, list) in [(V311, &lists.v311), (V5, &lists.v5)] {
        if list.is_empty() {
            violations.push(format!("{path}: no statements"));
        }
    }
    let citing = repository.files().filter(|(path, _)| {
        [".rs", ".txt", ".md", ".proto", ".py"]
            .iter()
            .any(|end| path.ends_with(end))
    });
    for (path, text) in citing {
        check_text(path, text, &lists, &mut violations);
    }
    violations
}

fn ids(csv: Option<&str>) -> BTreeSet<String> {
    let lines = csv.unwrap_or_default().lines();
    lines
        .filter_map(|line| Some(line.strip_prefix("MQTT-")?.split(',').next()?.to_owned()))
        .collect()
}

fn check_text(path: &str, text: &str, lists: &Lists, violations: &mut Vec<String>) {
    let mut from = 0;
    while let Some(found) = text[from..].find("MQTT-") {
        let at = from + found;
        from = at + "MQTT-".len();
        if !text[from..].starts_with(|c: char| c.is_ascii_digit()) {
            continue;
        }
        let mut reader = Reader { text, at: from };
        let cited = reader.citation();
        from = reader.at.max(from);
        for id in &cited.ids {
            let known = lists.v311.contains(id) || (!cited.only_v311 && lists.v5.contains(id));
            if !known {
                violations.push(format!(
                    "{}: there is no statement MQTT-{id}",
                    place(path, text, at)
                ));
            }
        }
        if cited.ids.is_empty() {
            violations.push(format!("{}: not a statement's id", place(path, text, at)));
        }
    }
}

#[derive(Default)]
struct Citation {
    ids: Vec<String>,
    only_v311: bool,
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    /// What follows `MQTT-`: an id, and the others of its list.
    fn citation(&mut self) -> Citation {
        let mut citation = Citation::default();
        let Some((section, mut number)) = self.id() else {
            return citation;
        };
        let mut section = section.to_owned();
        loop {
            citation.ids.push(format!("{section}-{number}"));
            let start = self.at;
            if self.take("..") {
                let Some(last) = self.number() else {
                    self.at = start;
                    break;
                };
                citation
                    .ids
                    .extend((number + 1..=last).map(|next| format!("{section}-{next}")));
            }
            let start = self.at;
            if !self.take(",") {
                break;
            }
            self.skip_to_next_word();
            if self.take("-") {
                match self.number() {
                    Some(next) => number = next,
                    None => {
                        self.at = start;
                        break;
                    }
                }
                continue;
            }
            match self.id() {
                Some((next_section, next)) => (section, number) = (next_section.to_owned(), next),
                None => {
                    // `, MQTT-…` is found by itself, and `, 0x95` is prose.
                    self.at = start;
                    break;
                }
            }
        }
        citation.only_v311 = self.text[self.at..].starts_with(" of 3.1.1");
        citation
    }

    /// `3.1.2-4`.
    fn id(&mut self) -> Option<(&'a str, u32)> {
        let start = self.at;
        let is_section = |c: char| c.is_ascii_digit() || c == '.';
        let length = self.text[start..].find(|c| !is_section(c))?;
        let section = &self.text[start..start + length];
        self.at = start + length;
        let is_id = section.split('.').count() == 3 && self.take("-");
        match self.number().filter(|_| is_id) {
            Some(number) => Some((section, number)),
            None => {
                self.at = start;
                None
            }
        }
    }

    fn number(&mut self) -> Option<u32> {
        let rest = &self.text[self.at..];
        let length = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        let number = rest[..length].parse().ok()?;
        self.at += length;
        Some(number)
    }

    fn take(&mut self, token: &str) -> bool {
        let takes = self.text[self.at..].starts_with(token);
        self.at += if takes { token.len() } else { 0 };
        takes
    }

    /// Spaces, and the comment's sign where a list goes on in the next line.
    fn skip_to_next_word(&mut self) {
        let rest = &self.text[self.at..];
        let skipped = rest
            .trim_start()
            .trim_start_matches("///")
            .trim_start_matches("//!")
            .trim_start();
        self.at += rest.len() - skipped.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The prefix is put in at run time, so that this file cites nothing.
    fn violations(text: &str) -> Vec<String> {
        let ids = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect();
        let lists = Lists {
            v311: ids(&["3.1.1-1", "4.6.0-2"]),
            v5: ids(&["3.1.1-2", "4.6.0-2", "4.6.0-3"]),
        };
        let mut found = Vec::new();
        check_text("x.rs", &text.replace('@', "MQTT-"), &lists, &mut found);
        found
    }

    #[test]
    fn ids_of_either_version_in_every_notation_are_accepted() {
        for text in [
            "[@3.1.1-1] [@3.1.1-2]",
            "[@4.6.0-2, -3]",
            "[@4.6.0-2,\n    /// -3]",
            "[@4.6.0-2..3]",
            "[@4.6.0-2, 3.1.1-1]",
            "[@4.6.0-2, @4.6.0-3]",
            "[@3.1.1-1 of 3.1.1]",
            "\"@3.1.1-1\", \"section 2\"",
            "[@3.1.1-1], 0x95",
            "[@…] and @x",
        ] {
            assert_eq!(violations(text), Vec::<String>::new(), "{text}");
        }
    }

    #[test]
    fn an_id_that_does_not_exist_is_found_wherever_it_stands_in_a_list() {
        for text in [
            "\n[@3.1.1-3]",
            "\n[@4.6.0-3, -4]",
            "\n[@4.6.0-2..4]",
            "\n[@4.6.0-2, 3.1.1-9]",
            "\n[@3.1.1-2 of 3.1.1]",
            "\n[@3.1-2]",
        ] {
            let found = violations(text);
            assert_eq!(found.len(), 1, "{text}: {found:?}");
            assert!(found[0].starts_with("x.rs:2: "), "{found:?}");
        }
    }

    #[test]
    fn empty_lists_do_not_pass() {
        assert_eq!(check(&Repository::of(&[])).len(), 2);
    }
}
