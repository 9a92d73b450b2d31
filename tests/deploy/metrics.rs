//! Names of metrics: alerts and panels name what the broker has.

use std::collections::BTreeSet;

use testkit::report;

use crate::tools::{checkout, read};

/// Named by an alert or a panel, and not there yet. Empty when all families of the operator's contract
/// are.
pub(crate) const AWAITED: [&str; 0] = [];

/// `holdfast_` and `process_` names in a text, without the suffixes of histograms.
fn names(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let words = text.split(|c| !is_part(c));
    let words = words.filter(|word| word.starts_with("holdfast_") || word.starts_with("process_"));
    let suffixes = ["_bucket", "_sum", "_count"];
    words
        .map(|word| {
            let suffix = suffixes.iter().find_map(|suffix| word.strip_suffix(suffix));
            suffix.unwrap_or(word).to_owned()
        })
        .collect()
}

/// All that the broker has, from the page that is generated from its table.
pub(crate) fn documented() -> BTreeSet<String> {
    let page = read("docs/operations/metrics.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    let first = rows.filter_map(|row| row.split('`').next());
    first.flat_map(names).collect()
}

#[test]
fn alerts_and_panels_name_metrics_that_exist() {
    let documented = documented();
    assert!(documented.len() > 20, "the page is read: {documented:?}");
    let mut missing = BTreeSet::new();
    for file in [
        "deploy/prometheus/rules.yml",
        "deploy/grafana/holdfast.json",
    ] {
        let named = names(&read(file));
        assert!(named.len() > 10, "{file} is read: {named:?}");
        for name in named.difference(&documented) {
            if !AWAITED.contains(&name.as_str()) {
                missing.insert(format!("{name} ({file})"));
            }
        }
    }
    let there = AWAITED.iter().filter(|name| documented.contains(**name));
    let there: Vec<&str> = there.copied().collect();
    if !there.is_empty() {
        report(&format!(
            "awaited metrics that are there now, take them off the list: {there:?}"
        ));
    }
    assert!(missing.is_empty(), "no such metric: {missing:#?}");
}

/// An alert that wakes somebody up says what to do.
#[test]
fn every_alert_has_a_runbook() {
    let page = read("docs/operations/alerts.md");
    let rules = read("deploy/prometheus/rules.yml");
    let alerts = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "));
    let alerts: BTreeSet<&str> = alerts.collect();
    assert!(alerts.len() >= 16, "{alerts:?}");
    for alert in &alerts {
        let runbook = format!(
            "runbook: docs/operations/alerts.md#{}",
            alert.to_lowercase()
        );
        assert!(
            rules.contains(&runbook),
            "{alert} has no runbook annotation"
        );
        assert!(
            page.contains(&format!("\n## {alert}\n")),
            "{alert} has no section in alerts.md"
        );
    }
    let sections = page
        .lines()
        .filter_map(|line| line.strip_prefix("## Holdfast"));
    let of_nothing = sections.filter(|name| !alerts.contains(format!("Holdfast{name}").as_str()));
    assert_eq!(
        of_nothing.collect::<Vec<_>>(),
        [""; 0],
        "sections without an alert"
    );
    assert!(checkout("docs/operations/alerts.md").exists());
}
