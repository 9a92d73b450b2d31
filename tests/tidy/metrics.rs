//! Metrics: what is recorded is in the table of crates/node/src/metrics/table.rs, what is in the table is
//! recorded, and docs/operations/metrics.md says all of it. `UPDATE=1` rewrites that page's tables.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::repository::{Repository, is_test_file, place};
use crate::rust::Source;

const TABLE: &str = "crates/node/src/metrics/table.rs";
const NAMES: &str = "crates/node/src/metrics/names.rs";
const PROCESS: &str = "crates/node/src/metrics/process.rs";
const PAGE: &str = "docs/operations/metrics.md";
const BEGIN: &str = "<!-- generated from crates/node/src/metrics.rs by tests/tidy -->\n";
const END: &str = "<!-- end of generated -->\n";

/// One metric.
#[derive(Debug, PartialEq)]
struct Metric {
    constant: String,
    name: String,
    kind: String,
    labels: Vec<String>,
    help: String,
}

/// The values that a label has.
struct Values {
    label: String,
    metric: String,
    values: Vec<String>,
}

pub(crate) fn check(repository: &Repository) -> Vec<String> {
    let table = table(&source(repository));
    let mut violations = Vec::new();
    if table.is_empty() {
        violations.push(format!("{TABLE}: no table"));
    }
    violations.extend(unlisted(repository, &table));
    violations.extend(unrecorded(repository, &table));
    let page = repository.text(PAGE).unwrap_or_default();
    if generated_part(page) != Some(tables(repository).as_str()) {
        violations.push(format!(
            "{PAGE} is out of date: UPDATE=1 cargo test -p testkit --test tidy rewrites it"
        ));
    }
    violations
}

/// Rewrites the tables of the page.
pub(crate) fn update(repository: &mut Repository) {
    let page = repository
        .text(PAGE)
        .unwrap_or(&format!("# Metrics\n\n{BEGIN}{END}"))
        .to_owned();
    let (before, rest) = page
        .split_once(BEGIN)
        .expect("the page has the mark where tables begin");
    let (_, after) = rest
        .split_once(END)
        .expect("the page has the mark where tables end");
    let page = format!("{before}{BEGIN}{}{END}{after}", tables(repository));
    repository.write(PAGE, page);
}

fn generated_part(page: &str) -> Option<&str> {
    Some(page.split_once(BEGIN)?.1.split_once(END)?.0)
}

/// Names that are recorded and not in the table.
fn unlisted(repository: &Repository, table: &[Metric]) -> Vec<String> {
    let listed: BTreeSet<&str> = table.iter().map(|metric| metric.name.as_str()).collect();
    let is_name = |text: &str| {
        let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        text.starts_with("holdfast_") && text.chars().all(is_part)
    };
    let mut violations = Vec::new();
    for (path, source) in recording(repository) {
        for (at, name) in source.strings.iter().filter(|(_, text)| is_name(text)) {
            if !source.is_in_tests(*at) && !listed.contains(name.as_str()) {
                violations.push(format!(
                    "{}: {name} is not in the table",
                    place(path, &source.code, *at)
                ));
            }
        }
    }
    violations
}

/// Rows of the table that nothing records: an alert on one would never fire.
fn unrecorded(repository: &Repository, table: &[Metric]) -> Vec<String> {
    let mut recorded = BTreeSet::new();
    for (path, source) in recording(repository) {
        let words = source
            .words()
            .filter(|(at, _)| !source.is_in_tests(*at))
            .map(|(_, word)| word);
        if path == NAMES {
            continue;
        }
        if path == TABLE {
            // Its own functions record some: every word counts that is neither declared nor a row.
            recorded.extend(recorded_in_table(&source.code));
        } else {
            recorded.extend(words.map(str::to_owned));
            recorded.extend(source.strings.iter().map(|(_, text)| text.clone()));
        }
    }
    let is_recorded =
        |metric: &&Metric| recorded.contains(&metric.name) || recorded.contains(&metric.constant);
    table
        .iter()
        .filter(|metric| !is_recorded(metric))
        .map(|metric| format!("{TABLE}: nothing records {}", metric.name))
        .collect()
}

/// First arguments of `gauge!(…)` and its kin.
fn recorded_in_table(code: &str) -> impl Iterator<Item = String> {
    let calls = ["counter!(", "gauge!(", "histogram!("];
    calls.into_iter().flat_map(|call| {
        code.match_indices(call).filter_map(|(at, call)| {
            Some(
                crate::rust::words(&code[at + call.len()..])
                    .next()?
                    .1
                    .to_owned(),
            )
        })
    })
}

fn recording(repository: &Repository) -> impl Iterator<Item = (&str, Source)> {
    let is_ours =
        |path: &str| path.starts_with("crates/") && path.contains("/src/") && !is_test_file(path);
    repository.rust().filter(move |(path, _)| is_ours(path))
}

/// Names, their values, and the table.
fn source(repository: &Repository) -> String {
    let text = |path| repository.text(path).unwrap_or_default();
    format!("{}{}", text(NAMES), text(TABLE))
}

/// The rows of `TABLE`, with the labels from the comments of the names.
fn table(text: &str) -> Vec<Metric> {
    let source = Source::parse(text);
    let names = names(text, &source);
    let rows = source
        .code
        .split_once("TABLE:")
        .map_or("", |(_, rows)| rows);
    let offset = source.code.len() - rows.len();
    let rows = rows.split_once("];").map_or("", |(rows, _)| rows);
    let mut metrics = Vec::new();
    for kind in ["gauge", "counter", "histogram"] {
        for (at, call) in rows.match_indices(&format!("{kind}(")) {
            let constant = crate::rust::words(&rows[at + call.len()..])
                .next()
                .map_or("", |(_, word)| word);
            let help = source
                .strings
                .iter()
                .find(|(string_at, _)| *string_at > offset + at);
            let Some(((name, labels), (_, help))) = names.get(constant).cloned().zip(help) else {
                continue;
            };
            metrics.push(Metric {
                constant: constant.to_owned(),
                name,
                kind: kind.to_owned(),
                labels,
                help: unbroken(help),
            });
        }
    }
    metrics.sort_by(|a, b| a.name.cmp(&b.name));
    metrics
}

/// Constant → name and labels.
fn names(text: &str, source: &Source) -> BTreeMap<String, (String, Vec<String>)> {
    let mut names = BTreeMap::new();
    for (at, declaration) in source.code.match_indices("pub const ") {
        let Some((_, constant)) = crate::rust::words(&source.code[at + declaration.len()..]).next()
        else {
            continue;
        };
        let string = source.strings.iter().find(|(string_at, _)| *string_at > at);
        if let Some((_, name)) = string.filter(|(_, name)| name.starts_with("holdfast_")) {
            names.insert(
                constant.to_owned(),
                (name.clone(), labels(&comment_above(text, at))),
            );
        }
    }
    names
}

/// The doc comment that ends in the line above an offset, as one line.
fn comment_above(text: &str, at: usize) -> String {
    let above: Vec<&str> = text[..at].lines().collect();
    let lines = above
        .iter()
        .rev()
        .skip_while(|line| line.trim().is_empty())
        .map(|line| line.trim());
    let mut lines: Vec<&str> = lines.map_while(|line| line.strip_prefix("///")).collect();
    lines.reverse();
    lines.join("")
}

/// What is in backquotes after `Label` or `Labels`, without links.
fn labels(comment: &str) -> Vec<String> {
    let Some((_, list)) = comment.split_once("Label") else {
        return Vec::new();
    };
    let quoted = list.split('`').skip(1).step_by(2);
    quoted
        .filter(|word| word.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
        .map(str::to_owned)
        .collect()
}

/// Lists of label values: `/// Values of `LABEL` in [`METRIC`].` above an array of strings.
fn values(text: &str) -> Vec<Values> {
    let source = Source::parse(text);
    let names = names(text, &source);
    let mut found = Vec::new();
    for (at, _) in source.code.match_indices("pub const ") {
        let comment = comment_above(text, at);
        let mut quoted = comment.split('`').skip(1).step_by(2);
        let (Some(label), Some(constant)) = (quoted.next(), quoted.next()) else {
            continue;
        };
        if !comment.trim_start().starts_with("Values of") {
            continue;
        }
        let end = at + source.code[at..].find("];").unwrap_or(0);
        let strings = source
            .strings
            .iter()
            .filter(|(string_at, _)| (at..end).contains(string_at));
        found.push(Values {
            label: label.to_owned(),
            metric: names
                .get(constant)
                .map(|(name, _)| name.clone())
                .unwrap_or_default(),
            values: strings.map(|(_, value)| value.clone()).collect(),
        });
    }
    found
}

/// Name, type and help of each metric of the process: the strings of each `add(…)`.
fn process_metrics(text: &str) -> Vec<[String; 3]> {
    let source = Source::parse(text);
    let calls = source
        .code
        .match_indices("add(")
        .filter(|(at, _)| !source.is_in_tests(*at));
    let mut found: Vec<[String; 3]> = calls
        .filter_map(|(at, _)| {
            let mut strings = source
                .strings
                .iter()
                .filter(|(string_at, _)| *string_at > at);
            let mut next = || strings.next().map(|(_, text)| unbroken(text));
            Some([next()?, next()?, next()?])
        })
        .collect();
    found.sort();
    found
}

/// A literal that goes on in the next line.
fn unbroken(literal: &str) -> String {
    let mut parts = literal.split("\\\n");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.trim_start())
}

/// The page's generated part.
fn tables(repository: &Repository) -> String {
    let text = source(repository);
    let text = text.as_str();
    let mut out = String::from("\n| name | type | labels | meaning |\n|---|---|---|---|\n");
    for Metric {
        name,
        kind,
        labels,
        help,
        ..
    } in table(text)
    {
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        writeln!(
            out,
            "| `{name}` | {kind} | {} | {help} |",
            labels.join(", ")
        )
        .unwrap();
    }
    for [name, kind, help] in process_metrics(repository.text(PROCESS).unwrap_or_default()) {
        writeln!(out, "| `{name}` | {kind} | | {help} |").unwrap();
    }
    out.push_str("\n| label | of | values |\n|---|---|---|\n");
    for Values {
        label,
        metric,
        values,
    } in values(text)
    {
        writeln!(out, "| `{label}` | `{metric}` | {} |", values.join(", ")).unwrap();
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "/// Open. Labels `listener`,\n/// `reason` (one of [`REASONS`]).\n\
        pub const OPEN: &str = \"holdfast_open\";\n\
        /// Values of `reason` in [`OPEN`].\npub const REASONS: [&str; 2] = [\"a\", \"b\"];\n\
        pub const TABLE: [Metric; 1] = [\n    gauge(OPEN, \"Open \\\n        now.\"),\n];\n";
    const RECORDS: (&str, &str) = (
        "crates/node/src/count.rs",
        "fn f() { gauge!(OPEN).set(1.0) }",
    );

    fn page(repository: &Repository) -> String {
        format!("# Metrics\n{BEGIN}{}{END}", tables(repository))
    }

    #[test]
    fn name_type_labels_and_meaning_are_read_from_the_source() {
        let read = table(SMALL);
        assert_eq!(read.len(), 1);
        assert_eq!(
            (read[0].name.as_str(), read[0].kind.as_str()),
            ("holdfast_open", "gauge")
        );
        assert_eq!(read[0].labels, ["listener", "reason"]);
        assert_eq!(read[0].help, "Open now.");
        assert_eq!(values(SMALL)[0].values, ["a", "b"]);
    }

    #[test]
    fn a_page_that_is_out_of_date_is_found() {
        let old = page(&Repository::of(&[(TABLE, SMALL)]));
        let good = Repository::of(&[(TABLE, SMALL), RECORDS, (PAGE, &old)]);
        assert_eq!(check(&good), Vec::<String>::new());
        let newer = SMALL.replace("Open \\", "Opened \\");
        let bad = Repository::of(&[(TABLE, &newer), RECORDS, (PAGE, &old)]);
        assert_eq!(check(&bad).len(), 1);
    }

    #[test]
    fn a_name_that_is_not_in_the_table_is_found() {
        let page = page(&Repository::of(&[(TABLE, SMALL)]));
        let other = (
            "crates/raft-store/src/x.rs",
            "fn f() { counter!(\"holdfast_other_total\") }",
        );
        let found = check(&Repository::of(&[
            (TABLE, SMALL),
            RECORDS,
            other,
            (PAGE, &page),
        ]));
        assert!(
            found.len() == 1 && found[0].contains("holdfast_other_total"),
            "{found:?}"
        );
    }

    #[test]
    fn a_row_that_nothing_records_is_found() {
        let page = page(&Repository::of(&[(TABLE, SMALL)]));
        let found = check(&Repository::of(&[(TABLE, SMALL), (PAGE, &page)]));
        assert!(
            found.len() == 1 && found[0].contains("nothing records holdfast_open"),
            "{found:?}"
        );
    }
}
