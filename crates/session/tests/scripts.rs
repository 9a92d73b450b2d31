//! Runs every `tests/scripts/*.txt` against sessions and a broker of a page, and those of the whole
//! system's conformance scripts that say `# pure`.
//!
//! `UPDATE=1 cargo test -p session --test scripts` rewrites the expectations; review the diff.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a test: a panic is its failure"
)]

#[path = "../../../tests/support/script.rs"]
pub mod script;

#[path = "scripts/broker.rs"]
mod broker;

use std::fs;
use std::path::Path;

use broker::Broker;
use script::{PacketLine, Script, Step};

#[test]
fn every_script_runs_as_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let mut paths: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "no script in {}", folder.display());
    let failures: Vec<String> = paths.iter().filter_map(|path| run(path)).collect();
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

/// The scripts that are run over TCP too: there they are about more than sessions.
#[test]
fn every_pure_script_of_the_conformance_tests_runs_as_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/conformance/scripts");
    let Ok(areas) = fs::read_dir(&folder) else {
        // A copy of the pure crates alone has none.
        return;
    };
    let mut paths: Vec<_> = areas
        .flat_map(|area| fs::read_dir(area.unwrap().path()).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| is_pure(&fs::read_to_string(path).unwrap()))
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "none in {} is pure", folder.display());
    let failures: Vec<String> = paths.iter().filter_map(|path| run_shared(path)).collect();
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

fn is_pure(text: &str) -> bool {
    let mut head = text.lines().take_while(|line| line.starts_with('#'));
    head.any(|line| line == "# pure")
}

/// Runs a conformance script as 5.0, where it says what the pure broker can say: it has no connections
/// to close, and its CONNACK has no properties.
fn run_shared(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_string_lossy().into_owned();
    let text = fs::read_to_string(path).unwrap();
    let script = Script::parse(&text).unwrap_or_else(|why| panic!("{name} {why}"));
    let mut broker = Broker::new();
    for mut turn in script.turns_for("5.0") {
        let mut actual = broker.act(turn.is_send, turn.action);
        turn.expected.retain(|step| step.packet.name != "CLOSED");
        actual.retain(|(actor, _)| actor != "broker");
        for (_, packet) in &mut actual {
            *packet = in_order(packet);
        }
        let steps: Vec<Step> = turn.expected.iter().map(|step| as_pure(step)).collect();
        turn.expected = steps.iter().collect();
        if let Some(why) = turn.mismatch(&actual) {
            return Some(format!("{name} {why}"));
        }
    }
    None
}

/// What a line asks of the pure broker.
fn as_pure(step: &Step) -> Step {
    let mut packet = in_order(&step.packet);
    if packet.name == "CONNACK" {
        let words = packet.words().iter();
        let words = words.filter(|word| word.starts_with("session_present="));
        packet = packet.with_words(words.cloned().collect());
    }
    if packet.name == "UNSUBACK" {
        let words = packet.words().iter();
        let words = words.filter(|word| *word != "reason=0x00");
        packet = packet.with_words(words.cloned().collect());
    }
    Step {
        packet,
        ..step.clone()
    }
}

/// The order of words does not count.
fn in_order(packet: &PacketLine) -> PacketLine {
    let mut words = packet.words().to_vec();
    words.sort();
    packet.with_words(words)
}

/// Runs one file; the first mismatch as text.
fn run(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_string_lossy().into_owned();
    let text = fs::read_to_string(path).unwrap();
    let script = Script::parse(&text).unwrap_or_else(|why| panic!("{name} {why}"));
    let mut broker = Broker::new();
    let mut failure = None;
    let mut received = Vec::new();
    for turn in script.turns() {
        let actual = broker.act(turn.is_send, turn.action);
        if failure.is_none() {
            failure = turn.mismatch(&actual);
        }
        received.push(actual);
    }
    if failure.is_some() && std::env::var_os("UPDATE").is_some() {
        fs::write(path, script.updated(&received)).unwrap();
        return None;
    }
    failure.map(|why| format!("{name} {why}"))
}

#[test]
fn a_wrong_expectation_is_reported_and_updated() {
    let text = "# why\na> CONNECT clean_start=1\na< CONNACK session_present=1\n# end\n";
    let script = Script::parse(text).unwrap();
    let turns = script.turns();
    let actual = Broker::new().act(turns[0].is_send, turns[0].action);
    let why = turns[0].mismatch(&actual).unwrap();
    assert!(why.starts_with("line 3: expected a< CONNACK session_present=1"));
    let updated = text.replace("session_present=1", "session_present=0");
    assert_eq!(script.updated(&[actual]), updated);
    let why = turns[0].mismatch(&[]).unwrap();
    assert_eq!(why, "line 3: not received: a< CONNACK session_present=1");
}

#[test]
fn a_line_that_cannot_be_read_is_named() {
    for (text, why) in [
        ("a> ", "line 1: a packet or an event is missing"),
        ("\nnonsense", "line 2: an actor with >, < or ! is missing"),
        (
            "a< PINGRESP",
            "line 1: nothing happened yet to receive from",
        ),
        ("a> PUBLISH t \"open", "line 1: a quote is not closed"),
        ("a b> CONNECT", "line 1: \"a b\" is no actor"),
    ] {
        assert_eq!(Script::parse(text).err().unwrap(), why);
    }
}
