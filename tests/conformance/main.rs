//! Conformance to MQTT 3.1, 3.1.1 and 5.0: readable scripts over TCP against real brokers, each on
//! one node and on three; some also with nodes that are killed.
//!
//! ```text
//! cargo test --release -p node --test conformance -- connect/          all scripts of an area
//! cargo test --release -p node --test conformance -- ::5.0::cluster    one version and form
//! ```
//!
//! `scripts` holds the scripts, `statements` the requirements whose ids they bear.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "tests fail by panicking, and whatever they do not expect is a failure"
)]

mod actor;
mod barrier;
mod brokers;
mod configurations;
mod connection;
mod document;
mod driver;
mod files;
mod keep_alive;
mod killer;
mod place;
mod registry;
mod scenario;
mod traces;
mod workers;

use std::sync::Arc;

use codec::ProtocolVersion;
use libtest_mimic::{Arguments, Failed, Trial};
use testkit::coverage::of_script;
use testkit::{Random, report, scale};
use tokio::runtime::{Builder, Runtime};

use crate::brokers::Brokers;
use crate::driver::VERSIONS;
use crate::files::File;
use crate::registry::Test;
use crate::scenario::{Form, Scenario};
use crate::workers::Workers;

/// Scripts that run at once: most of the time they wait for an answer.
const THREADS: usize = 8;

/// Scripts of the kill form in `make test`: each takes seconds. `make test-full` runs all.
const KILLS: usize = 20;

fn main() {
    let mut arguments = Arguments::from_args();
    let threads = arguments.test_threads.unwrap_or(THREADS);
    arguments.test_threads = Some(threads);
    let runtime = Builder::new_multi_thread().enable_all().build();
    let run = Run {
        brokers: Arc::default(),
        runtime: Arc::new(runtime.expect("there are threads")),
        workers: Workers::new(threads),
    };
    let (files, wrong) = files::read_all();
    let files: Vec<Arc<File>> = files.into_iter().map(Arc::new).collect();
    let tests = registry::all();
    let is_whole_run = arguments.filter.is_none() && !arguments.list;
    let scenarios = scenarios(&files, is_whole_run);
    let mut trials = vec![
        fact("every_script_can_be_read", move || {
            if wrong.is_empty() {
                Ok(())
            } else {
                Err(wrong.join("\n"))
            }
        }),
        fact("the_document_is_up_to_date", {
            let shown = document::shown(&files, &tests);
            move || document::check(&shown)
        }),
    ];
    trials.extend(rust_trials(&tests, &run));
    let scripts = scenarios.into_iter();
    trials.extend(scripts.map(|scenario| trial(scenario, &run)));
    let conclusion = libtest_mimic::run(&arguments, trials);
    run.runtime.block_on(run.brokers.stop());
    conclusion.exit();
}

/// What all tests of a run share.
#[derive(Clone)]
struct Run {
    brokers: Arc<Brokers>,
    runtime: Arc<Runtime>,
    workers: Workers,
}

/// All scripts in all versions and forms; those that share a broker one after another.
fn scenarios(files: &[Arc<File>], is_whole_run: bool) -> Vec<Scenario> {
    let mut scenarios = Vec::new();
    for file in files {
        for version in VERSIONS {
            for form in [Form::Single, Form::Cluster, Form::Kill] {
                scenarios.push(Scenario {
                    file: Arc::clone(file),
                    version,
                    form,
                });
            }
        }
    }
    scenarios.retain(is_sensible);
    if is_whole_run {
        sample_kills(&mut scenarios);
    }
    let is_kill = |scenario: &Scenario| scenario.form == Form::Kill;
    let (kills, mut others): (Vec<_>, Vec<_>) = scenarios.into_iter().partition(is_kill);
    others.sort_by_key(|scenario| {
        let header = &scenario.file.header;
        (header.config.clone(), header.is_alone, scenario.form)
    });
    // Kills go on one by one while the others run.
    let between = others.len().checked_div(kills.len()).unwrap_or(0).max(1);
    let mut kills = kills.into_iter();
    let mut mixed = Vec::new();
    for chunk in others.chunks(between) {
        mixed.extend(kills.next());
        mixed.extend(chunk.iter().cloned());
    }
    mixed.extend(kills);
    mixed
}

/// Keeps some of the kill form, by the seed.
fn sample_kills(scenarios: &mut Vec<Scenario>) {
    let is_kill = |scenario: &Scenario| scenario.form == Form::Kill;
    let mut kills: Vec<String> = scenarios
        .iter()
        .filter(|scenario| is_kill(scenario))
        .map(Scenario::name)
        .collect();
    if scale() > 1 || kills.len() <= KILLS {
        return;
    }
    let mut random = Random::from_environment();
    report(&format!(
        "conformance: {KILLS} of {} scripts with kills, HOLDFAST_TEST_SEED={}",
        kills.len(),
        random.seed()
    ));
    let mut kept = Vec::new();
    for _ in 0..KILLS {
        let bound = u64::try_from(kills.len()).unwrap_or(1);
        let index = usize::try_from(random.below(bound)).unwrap_or(0);
        kept.push(kills.swap_remove(index));
    }
    scenarios.retain(|scenario| !is_kill(scenario) || kept.contains(&scenario.name()));
}

/// Whether a script is for this version and form.
fn is_sensible(scenario: &Scenario) -> bool {
    let Scenario {
        file,
        version,
        form,
    } = scenario;
    let shown = of_script(&file.name, &file.text);
    file.header.ids.contains_key(label(*version))
        && shown.is_ok_and(|shown| shown.forms.contains(&form.to_string().as_str()))
}

/// A test that needs no broker.
fn fact(name: &str, check: impl FnOnce() -> Result<(), String> + Send + 'static) -> Trial {
    Trial::test(name, move || check().map_err(Failed::from))
}

/// The tests that are written in Rust.
fn rust_trials(tests: &[Test], run: &Run) -> Vec<Trial> {
    let mut trials = Vec::new();
    for test in tests {
        for version in VERSIONS.into_iter().filter(|version| test.is_for(*version)) {
            for form in [Form::Single, Form::Cluster] {
                let Run {
                    brokers,
                    runtime,
                    workers,
                } = run.clone();
                let test = *test;
                let job = move || runtime.block_on(test.run(version, form, &brokers));
                let name = test.full_name(version, form);
                trials.push(Trial::test(name, move || workers.run(job)));
            }
        }
    }
    trials
}

fn trial(scenario: Scenario, run: &Run) -> Trial {
    let Run {
        brokers,
        runtime,
        workers,
    } = run.clone();
    Trial::test(scenario.name(), move || {
        workers.run(move || runtime.block_on(scenario.run(&brokers)))
    })
}

/// A version as scripts name it.
pub(crate) fn label(version: ProtocolVersion) -> &'static str {
    match version {
        ProtocolVersion::V31 => "3.1",
        ProtocolVersion::V311 => "3.1.1",
        ProtocolVersion::V5 => "5.0",
    }
}
