//! The mutants of tests/mutants/broker.txt apply to the sources as they are, and the test that must
//! find each exists and bears the statement that it violates. That it finds it is shown by
//! scripts/broker_mutants.sh, which is not part of every run.

use std::collections::{BTreeMap, BTreeSet};

use testkit::header::{Header, parse_version};

use crate::repository::Repository;

const LIST: &str = "tests/mutants/broker.txt";
const SCRIPTS: &str = "tests/conformance/scripts";
const FORMS: [&str; 3] = ["single", "cluster", "kill"];

/// A block of the list.
#[derive(Default)]
struct Mutant<'a> {
    name: &'a str,
    sentence: &'a str,
    /// `5.0 MQTT-…`.
    statement: &'a str,
    test: &'a str,
    hunks: Vec<Hunk<'a>>,
}

/// Lines of one file, and what takes their place.
#[derive(Default)]
struct Hunk<'a> {
    path: &'a str,
    old: Vec<&'a str>,
    new: Vec<&'a str>,
}

pub(crate) fn check(repository: &Repository) -> Vec<String> {
    let Some(list) = repository.text(LIST) else {
        return vec![format!("{LIST} is missing")];
    };
    let mut violations = Vec::new();
    let mut names = BTreeSet::new();
    // What is replaced of each file: two mutants of one binary cannot both replace a line.
    let mut taken: BTreeMap<&str, Vec<(usize, usize)>> = BTreeMap::new();
    let mutants = parse(list);
    if mutants.is_empty() {
        violations.push(format!("{LIST}: no mutants"));
    }
    for mutant in &mutants {
        let mut wrong = Vec::new();
        if !names.insert(mutant.name) {
            wrong.push("is there twice".to_owned());
        }
        if mutant.sentence.is_empty() || mutant.hunks.is_empty() {
            wrong.push("is not complete".to_owned());
        }
        wrong.extend(check_test(repository, mutant).err());
        for hunk in &mutant.hunks {
            match place_of(repository, mutant, hunk) {
                Ok((start, end)) => {
                    let others = taken.entry(hunk.path).or_default();
                    if others.iter().any(|(from, to)| start < *to && *from < end) {
                        wrong.push(format!("replaces what another one does in {}", hunk.path));
                    }
                    others.push((start, end));
                }
                Err(why) => wrong.push(why),
            }
        }
        let name = mutant.name;
        violations.extend(wrong.into_iter().map(|why| format!("{LIST}: {name} {why}")));
    }
    violations
}

fn parse(list: &str) -> Vec<Mutant<'_>> {
    let mut mutants: Vec<Mutant<'_>> = Vec::new();
    for line in list.lines() {
        if let Some(name) = line.strip_prefix("== ") {
            mutants.push(Mutant {
                name,
                ..Mutant::default()
            });
            continue;
        }
        let Some(mutant) = mutants.last_mut() else {
            continue;
        };
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(statement) = line.strip_prefix("statement: ") {
            mutant.statement = statement;
        } else if let Some(test) = line.strip_prefix("test: ") {
            mutant.test = test;
        } else if let Some(path) = line.strip_prefix("file: ") {
            mutant.hunks.push(Hunk {
                path,
                ..Hunk::default()
            });
        } else if let Some(hunk) = mutant.hunks.last_mut() {
            match line.split_at(1) {
                ("-", old) => hunk.old.push(old),
                (_, new) => hunk.new.push(new),
            }
        } else {
            mutant.sentence = line;
        }
    }
    mutants
}

/// The test is one of the conformance runner's, and its script says that it shows the statement.
fn check_test(repository: &Repository, mutant: &Mutant<'_>) -> Result<(), String> {
    let (statement, test) = (mutant.statement, mutant.test);
    let parts: Vec<&str> = test.split("::").collect();
    let [script, version, form] = parts[..] else {
        return Err(format!("names no test: {test:?}"));
    };
    if !FORMS.contains(&form) {
        return Err(format!("{test}: there is no form {form:?}"));
    }
    let path = format!("{SCRIPTS}/{script}.txt");
    let text = repository
        .text(&path)
        .ok_or_else(|| format!("{path} does not exist"))?;
    let header = Header::parse(text).map_err(|why| format!("{path}: {why}"))?;
    let (statement_version, ids) = parse_version(&statement.replacen(' ', ": ", 1))
        .map_err(|why| format!("{statement:?}: {why}"))?;
    let shown = header.ids.get(version).map_or(&[][..], Vec::as_slice);
    match &ids[..] {
        [id] if version == statement_version && shown.contains(id) => Ok(()),
        _ => Err(format!("{path} does not show {statement}")),
    }
}

/// Where the lines are that a mutant replaces.
fn place_of(
    repository: &Repository,
    mutant: &Mutant<'_>,
    hunk: &Hunk<'_>,
) -> Result<(usize, usize), String> {
    let Hunk { path, old, new } = hunk;
    let switch = format!("codec::mutant(\"{}\")", mutant.name);
    if old.is_empty() || !new.iter().any(|line| line.contains(&switch)) {
        return Err(format!("replaces nothing in {path}, or without its switch"));
    }
    let text = repository
        .text(path)
        .ok_or_else(|| format!("{path} does not exist"))?;
    let lines: Vec<&str> = text.lines().collect();
    let found = lines.windows(old.len()).enumerate();
    let mut starts = found.filter(|(_, window)| window == old);
    match (starts.next(), starts.next()) {
        (Some((start, _)), None) => Ok((start, start + old.len())),
        (None, _) => Err(format!("{path}: the lines that it replaces are not there")),
        _ => Err(format!(
            "{path}: the lines that it replaces are there more than once"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "fn f() {\n    one();\n    two();\n    one();\n}\n";
    /// The prefix of ids is put in at run time, so that this file cites nothing.
    const SCRIPT: &str = "# 5.0: @1, @2\n# What it shows.\na> PINGREQ\n";
    const MUTANT: &str = "\
== first
It does not do two.
statement: 5.0 @2
test: area/shows::5.0::single
file: a.rs
-    two();
+    if !codec::mutant(\"first\") { two(); }
";

    fn violations(list: &str) -> Vec<String> {
        let [list, script] = [list, SCRIPT].map(|text| text.replace('@', "MQTT-"));
        let script_path = format!("{SCRIPTS}/area/shows.txt");
        check(&Repository::of(&[
            (LIST, &list),
            (&script_path, &script),
            ("a.rs", SOURCE),
        ]))
    }

    #[test]
    fn a_mutant_that_applies_and_whose_test_bears_its_statement_is_accepted() {
        assert_eq!(violations(MUTANT), Vec::<String>::new());
    }

    #[test]
    fn whatever_does_not_fit_any_more_is_found() {
        for (part, instead) in [
            ("-    two();", "-    three();"),
            ("-    two();", "-    one();"),
            ("file: a.rs", "file: b.rs"),
            ("codec::mutant(\"first\")", "codec::mutant(\"second\")"),
            ("area/shows", "area/gone"),
            ("::5.0::", "::3.1.1::"),
            ("::single", "::double"),
            ("@2", "@3"),
            ("5.0 @2", "3.1.1 @2"),
            ("It does not do two.\n", ""),
            ("test: area/shows::5.0::single\n", ""),
        ] {
            let found = violations(&MUTANT.replace(part, instead));
            assert_eq!(found.len(), 1, "{part} → {instead}: {found:?}");
        }
    }

    #[test]
    fn two_that_replace_one_line_or_have_one_name_are_found() {
        let found = violations(&format!("{MUTANT}\n{}", MUTANT.replace("first", "other")));
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(violations(&format!("{MUTANT}\n{MUTANT}")).len(), 2);
    }

    #[test]
    fn an_empty_list_does_not_pass() {
        assert_eq!(violations("").len(), 1);
        assert_eq!(check(&Repository::of(&[])).len(), 1);
    }
}
