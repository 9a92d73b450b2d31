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
mod driver;
mod files;
mod killer;
mod place;
mod scenario;
mod traces;

use std::sync::Arc;

use codec::ProtocolVersion;
use libtest_mimic::{Arguments, Failed, Trial};
use tokio::runtime::{Builder, Runtime};

use crate::brokers::Brokers;
use crate::driver::VERSIONS;
use crate::scenario::{Form, Scenario};

/// Scripts that run at once: most of the time they wait for an answer.
const THREADS: usize = 8;

fn main() {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = arguments.test_threads.or(Some(THREADS));
    let runtime = Builder::new_multi_thread().enable_all().build();
    let runtime = Arc::new(runtime.expect("there are threads"));
    let brokers = Arc::new(Brokers::default());
    let (files, wrong) = files::read_all();
    let mut scenarios = Vec::new();
    for file in files.into_iter().map(Arc::new) {
        for version in VERSIONS {
            for form in [Form::Single, Form::Cluster, Form::Kill] {
                scenarios.push(Scenario {
                    file: Arc::clone(&file),
                    version,
                    form,
                });
            }
        }
    }
    scenarios.retain(is_sensible);
    scenarios.sort_by_key(|scenario| {
        let header = &scenario.file.header;
        (header.config.clone(), header.is_alone, scenario.form)
    });
    let mut trials: Vec<Trial> = scenarios
        .into_iter()
        .map(|scenario| trial(scenario, &brokers, &runtime))
        .collect();
    trials.push(Trial::test("every_script_can_be_read", move || {
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(Failed::from(wrong.join("\n")))
        }
    }));
    let conclusion = libtest_mimic::run(&arguments, trials);
    runtime.block_on(brokers.stop());
    conclusion.exit();
}

/// Whether a script is for this version and form.
fn is_sensible(scenario: &Scenario) -> bool {
    let Scenario {
        file,
        version,
        form,
    } = scenario;
    let header = &file.header;
    let only = header.only.as_ref().map(|(form, _)| form.as_str());
    let turns = file.script.turns_for(label(*version));
    let fails_over = turns
        .iter()
        .any(|turn| turn.action.packet.name == "failover");
    header.ids.contains_key(label(*version))
        && match form {
            Form::Single => only != Some("cluster"),
            Form::Cluster => only != Some("single"),
            Form::Kill => fails_over && only != Some("single") && header.config.is_none(),
        }
}

fn trial(scenario: Scenario, brokers: &Arc<Brokers>, runtime: &Arc<Runtime>) -> Trial {
    let (brokers, runtime) = (Arc::clone(brokers), Arc::clone(runtime));
    Trial::test(scenario.name(), move || {
        runtime
            .block_on(scenario.run(&brokers))
            .map_err(Failed::from)
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
