//! Which statement of the standard is shown by which test: read from the heads of the tests, compared
//! with the lists in `tests/conformance/statements`, written as `docs/CONFORMANCE.md`.

use std::collections::{BTreeMap, BTreeSet};

use crate::header::{Header, LABELS, parse_version};

/// The lists: version, path from the repository's root.
pub const LISTS: [(&str, &str); 2] = [
    ("3.1.1", "tests/conformance/statements/mqtt-3.1.1.csv"),
    ("5.0", "tests/conformance/statements/mqtt-5.0.csv"),
];

/// Statements about what is not built yet: without a test until it is.
const AWAITED: [(&str, &str); 0] = [];

const WEBSOCKET: &str = "tests/process/transports/websocket.rs";

/// Statements that are shown by tests of another kind: which file.
const ELSEWHERE: [(&str, &str); 7] = [
    ("5.0: MQTT-4.12.1-2", "tests/process/authentication.rs"),
    ("3.1.1: MQTT-6.0.0-1", WEBSOCKET),
    ("3.1.1: MQTT-6.0.0-2", WEBSOCKET),
    ("3.1.1: MQTT-6.0.0-4", WEBSOCKET),
    ("5.0: MQTT-6.0.0-1", WEBSOCKET),
    ("5.0: MQTT-6.0.0-2", WEBSOCKET),
    ("5.0: MQTT-6.0.0-4", WEBSOCKET),
];

/// A row of a list.
#[derive(Clone, Debug)]
pub struct Statement {
    /// `MQTT-3.1.2-22`.
    pub id: String,
    /// What it binds: `server`, `client`, `sender`, `receiver` or `both`.
    pub applies_to: String,
    /// What it says.
    pub requirement: String,
    /// How a test shows it.
    pub broker_test: String,
}

impl Statement {
    /// Whether it binds a server.
    #[must_use]
    pub fn binds_server(&self) -> bool {
        self.applies_to != "client"
    }

    /// Why no test can show it, in the words of the list.
    #[must_use]
    pub fn unobservable(&self) -> Option<&str> {
        let text = self.broker_test.to_lowercase();
        let says_so = text.contains("not observable") || text.starts_with("n/a");
        says_so.then_some(self.broker_test.as_str())
    }
}

/// A test and what it shows.
#[derive(Clone, Debug)]
pub struct Shown {
    /// `connect/clean_start_ends_the_session`.
    pub name: String,
    /// Version → statements.
    pub ids: BTreeMap<&'static str, Vec<String>>,
    /// The forms in which it runs.
    pub forms: Vec<&'static str>,
}

/// Reads a list.
#[must_use]
pub fn statements(csv: &str) -> Vec<Statement> {
    let rows = rows(csv).into_iter().skip(1);
    rows.filter_map(|row| {
        let [id, _, applies_to, requirement, broker_test, ..] = row.as_slice() else {
            return None;
        };
        Some(Statement {
            id: id.clone(),
            applies_to: applies_to.clone(),
            requirement: requirement.clone(),
            broker_test: broker_test.clone(),
        })
    })
    .collect()
}

/// Rows of fields; a quoted field may hold commas, line ends and doubled quotes.
fn rows(csv: &str) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    let mut row = vec![String::new()];
    let mut is_quoted = false;
    let mut chars = csv.chars().peekable();
    while let Some(c) = chars.next() {
        let field = row.last_mut().expect("a row has a field");
        match c {
            '"' if is_quoted && chars.next_if_eq(&'"').is_some() => field.push('"'),
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => row.push(String::new()),
            '\n' if !is_quoted => rows.push(std::mem::replace(&mut row, vec![String::new()])),
            '\r' => {}
            c => field.push(c),
        }
    }
    rows.push(row);
    rows.retain(|row| row.len() > 1);
    rows
}

/// What a script shows, by its head and text.
///
/// # Errors
/// When its head cannot be read.
pub fn of_script(name: &str, text: &str) -> Result<Shown, String> {
    let header = Header::parse(text)?;
    let actions = |event: &str| text.lines().any(|line| line.contains(event));
    let is_for_sessions_only = actions("! limits") || actions("! exchange");
    let only = header.only.as_ref().map(|(form, _)| form.as_str());
    let mut forms = Vec::new();
    if !is_for_sessions_only {
        let is_killed = actions("! failover") && header.config.is_none();
        forms.extend((only != Some("cluster")).then_some("single"));
        forms.extend((only != Some("single")).then_some("cluster"));
        forms.extend((is_killed && only != Some("single")).then_some("kill"));
    }
    forms.extend(header.is_pure.then_some("pure"));
    Ok(Shown {
        name: name.to_owned(),
        ids: header.ids,
        forms,
    })
}

/// What the tests in a Rust file show: lines `name: "…"` and lines that are `"VERSION: ID, ID"`.
#[must_use]
pub fn of_rust(text: &str) -> Vec<Shown> {
    let mut shown: Vec<Shown> = Vec::new();
    for line in text.lines().map(str::trim) {
        let quoted = |prefix: &str| {
            let rest = line.strip_prefix(prefix)?.strip_prefix('"')?;
            Some(rest.split_once('"')?.0)
        };
        if let Some(name) = quoted("name: ").filter(|name| name.contains('/')) {
            shown.push(Shown {
                name: name.to_owned(),
                ids: BTreeMap::new(),
                forms: vec!["single", "cluster"],
            });
        }
        let version = quoted("").and_then(|text| parse_version(text).ok());
        if let (Some((label, ids)), Some(test)) = (version, shown.last_mut()) {
            test.ids.entry(label).or_default().extend(ids);
        }
    }
    shown.retain(|test| !test.ids.is_empty());
    shown
}

/// The list in which the ids of a version are found.
fn list_of(label: &str) -> &str {
    if label == "5.0" { "5.0" } else { "3.1.1" }
}

/// Statements without test, tests with unknown statements, names given twice. `cites`: whether a file
/// names a statement.
#[must_use]
pub fn violations(
    lists: &[(&str, Vec<Statement>)],
    shown: &[Shown],
    cites: impl Fn(&str, &str) -> bool,
) -> Vec<String> {
    let mut violations = Vec::new();
    let mut names = BTreeSet::new();
    for test in shown {
        let name = test.name.rsplit('/').next().unwrap_or_default();
        if !names.insert(name) {
            violations.push(format!("{}: there is another {name}", test.name));
        }
        for (label, ids) in &test.ids {
            let list = lists.iter().find(|(version, _)| *version == list_of(label));
            let known = |id: &String| {
                list.is_some_and(|(_, list)| list.iter().any(|statement| statement.id == *id))
            };
            for id in ids.iter().filter(|id| !known(id)) {
                violations.push(format!("{}: {label} has no {id}", test.name));
            }
        }
    }
    for (version, list) in lists {
        for statement in list.iter().filter(|statement| statement.binds_server()) {
            let id = &statement.id;
            let has_test = !tests_of(version, id, shown).is_empty();
            let key = format!("{version}: {id}");
            let is_awaited = AWAITED.iter().any(|(awaited, _)| *awaited == key);
            if is_awaited && has_test {
                violations.push(format!("{key} has a test and is awaited no more"));
            }
            let mut elsewhere = ELSEWHERE.iter().filter(|(other, _)| *other == key);
            let has_test = has_test || elsewhere.any(|(_, path)| cites(path, id));
            if !is_awaited && !has_test && statement.unobservable().is_none() {
                violations.push(format!("{key} has no test: {}", statement.requirement));
            }
        }
    }
    violations
}

fn tests_of<'a>(version: &str, id: &str, shown: &'a [Shown]) -> Vec<&'a Shown> {
    let shows = |test: &&Shown| {
        let ids = test.ids.get(version);
        ids.is_some_and(|ids| ids.iter().any(|other| other == id))
    };
    shown.iter().filter(shows).collect()
}

/// `docs/CONFORMANCE.md`.
#[must_use]
pub fn document(lists: &[(&str, Vec<Statement>)], shown: &[Shown]) -> String {
    let mut out = String::from(
        "# Conformance\n\n\
         Which test shows which statement of the standard.\n\
         Generated from the heads of the tests in `tests/conformance`: \
         `UPDATE=1 cargo test -p node --test conformance document`.\n\
         [TESTING.md](TESTING.md) says what the forms mean and how to run one test.\n",
    );
    for label in LABELS {
        let count = shown.iter().filter(|test| test.ids.contains_key(label));
        out.push_str(&format!(
            "\nTests that run as {label}: {}.\n",
            count.count()
        ));
    }
    for (version, list) in lists {
        out.push_str(&section(version, list, shown));
    }
    out
}

fn section(version: &str, list: &[Statement], shown: &[Shown]) -> String {
    let (ours, theirs): (Vec<_>, Vec<_>) =
        list.iter().partition(|statement| statement.binds_server());
    let tested = ours
        .iter()
        .filter(|statement| !tests_of(version, &statement.id, shown).is_empty());
    let mut out = format!(
        "\n## MQTT {version}\n\n{} statements bind a server, {} of them have tests.\n\n\
         | statement | requirement | tests | forms |\n|---|---|---|---|\n",
        ours.len(),
        tested.count()
    );
    for statement in ours {
        let id = &statement.id;
        let tests = tests_of(version, id, shown);
        let names: Vec<String> = tests
            .iter()
            .map(|test| format!("`{}`", test.name))
            .collect();
        let forms: BTreeSet<&str> = tests.iter().flat_map(|test| test.forms.clone()).collect();
        let key = format!("{version}: {id}");
        let awaited = AWAITED.iter().find(|(awaited, _)| *awaited == key);
        let elsewhere = ELSEWHERE.iter().find(|(other, _)| *other == key);
        let names = match elsewhere {
            Some((_, path)) if names.is_empty() => vec![format!("`{path}`")],
            _ => names,
        };
        let names = match (names.as_slice(), statement.unobservable(), awaited) {
            ([], Some(why), _) => format!("none: {}", cell(why)),
            ([], None, Some((_, why))) => format!("none: {why}"),
            ([], None, None) => "none".to_owned(),
            (names, ..) => names.join("<br>"),
        };
        let forms = forms.into_iter().collect::<Vec<_>>().join(", ");
        let requirement = cell(&statement.requirement);
        out.push_str(&format!("| {id} | {requirement} | {names} | {forms} |\n"));
    }
    out.push_str(&format!(
        "\nThese bind clients only ({}):\n\n",
        theirs.len()
    ));
    for statement in theirs {
        out.push_str(&format!(
            "- {}: {}\n",
            statement.id,
            cell(&statement.requirement)
        ));
    }
    out
}

/// Text that may stand in a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
        .replace('\n', " ")
        .replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    const CSV: &str = "id,section,applies_to,requirement,broker_test\n\
        @1-1,1,server,\"a, \"\"b\"\"\",try it\n@1-2,1,client,c,d\n@1-3,1,both,e,Not observable: f\n";

    fn lists() -> Vec<(&'static str, Vec<Statement>)> {
        vec![("5.0", statements(CSV))]
    }

    fn test(name: &str, id: &str) -> Shown {
        Shown {
            name: name.to_owned(),
            ids: BTreeMap::from([("5.0", vec![id.to_owned()])]),
            forms: vec!["single"],
        }
    }

    #[test]
    fn a_list_is_read_with_its_quotes() {
        let list = statements(CSV);
        assert_eq!(list.len(), 3);
        assert_eq!(list[0].requirement, "a, \"b\"");
        assert!(list[2].unobservable().is_some() && !list[1].binds_server());
    }

    #[test]
    fn what_is_shown_is_no_violation() {
        assert_eq!(
            violations(&lists(), &[test("a/x", "@1-1")], |_, _| false),
            Vec::<String>::new()
        );
    }

    #[test]
    fn what_is_missing_unknown_or_double_is_one() {
        assert_eq!(violations(&lists(), &[], |_, _| false).len(), 1);
        let shown = [test("a/x", "@1-1"), test("b/x", "@1-9")];
        let found = violations(&lists(), &shown, |_, _| false);
        assert_eq!(found.len(), 2, "{found:?}");
    }

    #[test]
    fn tests_in_rust_are_found() {
        let text = "    name: \"a/x\",\n    ids: &[\n        \"5.0: @1-1\",\n    ],\n";
        let shown = of_rust(&text.replace('@', "MQTT-"));
        assert_eq!(shown.len(), 1);
        assert_eq!(shown[0].ids["5.0"].len(), 1);
    }
}
