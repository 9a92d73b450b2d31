//! The rules of docs/STYLE.md that a machine can check. Each rule is one file: what it forbids, and
//! tests that show that it bites. The rules read the sources as text, so this builds in seconds.
//!
//! `UPDATE=1 cargo test -p testkit --test tidy` rewrites what is generated.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "a test fails by panicking"
)]

mod arrows;
mod banned;
mod citations;
mod coverage;
mod decisions;
mod hygiene;
mod layout;
mod links;
mod metrics;
mod mutants;
mod publish_walk;
mod purity;
mod repository;
mod rust;
mod statements;

use repository::Repository;

/// Fails with every violation at once.
#[track_caller]
fn assert_none(violations: &[String]) {
    let count = violations.len();
    assert!(
        violations.is_empty(),
        "{count} violations:\n  {}",
        violations.join("\n  ")
    );
}

#[test]
fn crates_depend_on_each_other_only_along_the_arrows() {
    assert_none(&arrows::check(&Repository::read()));
}

#[test]
fn pure_code_touches_neither_clock_nor_thread_nor_hash_order() {
    assert_none(&purity::check(&Repository::read()));
}

#[test]
fn files_are_short_well_named_and_on_the_map() {
    assert_none(&layout::check(&Repository::read()));
}

#[test]
fn every_cited_statement_of_the_standard_exists() {
    assert_none(&statements::check(&Repository::read()));
}

#[test]
fn every_statement_of_the_standard_has_a_test() {
    assert_none(&coverage::check(&Repository::read()));
}

#[test]
fn every_cited_section_of_our_own_documents_exists() {
    assert_none(&citations::check(&Repository::read()));
}

#[test]
fn the_walk_of_a_publish_names_functions_that_exist() {
    assert_none(&publish_walk::check(&Repository::read()));
}

#[test]
fn links_between_documents_lead_somewhere() {
    assert_none(&links::check(&Repository::read()));
}

#[test]
fn decisions_are_complete_and_name_every_dependency() {
    assert_none(&decisions::check(&Repository::read()));
}

#[test]
fn nothing_names_a_machine_or_leaves_work_marked() {
    assert_none(&hygiene::check(&Repository::read()));
}

#[test]
fn nothing_grows_without_bound_and_no_test_sleeps() {
    assert_none(&banned::check(&Repository::read()));
}

#[test]
fn mutants_of_the_broker_apply_and_name_their_tests() {
    assert_none(&mutants::check(&Repository::read()));
}

#[test]
fn every_metric_is_recorded_and_documented() {
    let mut repository = Repository::read();
    if std::env::var_os("UPDATE").is_some() {
        metrics::update(&mut repository);
    }
    assert_none(&metrics::check(&repository));
}
