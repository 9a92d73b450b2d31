//! Topics that start with `$`: wildcards at the first level pass them by [MQTT-4.7.2-1].

#![expect(
    clippy::unwrap_used,
    reason = "a test helper outside of a test function"
)]

use codec::{TopicFilter, TopicName};
use router::RouteTable;

/// The filters, of those given, that match `topic`.
fn matching<'a>(filters: &[&'a str], topic: &str) -> Vec<&'a str> {
    let mut table = RouteTable::new();
    for text in filters {
        table.add(&TopicFilter::try_from(*text).unwrap(), *text);
    }
    let mut out = Vec::new();
    table.route(&TopicName::try_from(topic).unwrap(), &mut out);
    out
}

const FILTERS: [&str; 16] = [
    "#",
    "$",
    "$/#",
    "$SYS",
    "$SYS/#",
    "$SYS/+",
    "$SYS/+/Clients",
    "$SYS/monitor/#",
    "$SYS/monitor/+",
    "$SYS/monitor/Clients",
    "+",
    "+/#",
    "+/+",
    "+/monitor/#",
    "+/monitor/Clients",
    "a/$SYS",
];

/// [MQTT-4.7.2-1], the examples of section 4.7.2.
#[test]
fn wildcards_at_the_first_level_match_no_dollar_topic() {
    assert_eq!(
        matching(&FILTERS, "$SYS/monitor/Clients"),
        [
            "$SYS/#",
            "$SYS/+/Clients",
            "$SYS/monitor/#",
            "$SYS/monitor/+",
            "$SYS/monitor/Clients"
        ]
    );
    assert_eq!(
        matching(&FILTERS, "$SYS/monitor"),
        ["$SYS/#", "$SYS/+", "$SYS/monitor/#"]
    );
    assert_eq!(matching(&FILTERS, "$SYS"), ["$SYS", "$SYS/#"]);
    assert_eq!(matching(&FILTERS, "$SYS/"), ["$SYS/#", "$SYS/+"]);
    assert_eq!(matching(&FILTERS, "$"), ["$", "$/#"]);
    assert_eq!(matching(&FILTERS, "$/x"), ["$/#"]);
    assert!(matching(&FILTERS, "$t/x").is_empty());
}

/// [MQTT-4.7.2-1] speaks of topics that begin with `$`, not of later levels.
#[test]
fn a_dollar_after_the_first_byte_is_a_character_like_any_other() {
    assert_eq!(matching(&FILTERS, "a/$SYS"), ["#", "+/#", "+/+", "a/$SYS"]);
    assert_eq!(matching(&FILTERS, "a$"), ["#", "+", "+/#"]);
    assert_eq!(matching(&FILTERS, "/$SYS"), ["#", "+/#", "+/+"]);
    assert_eq!(
        matching(&["$SYS/+", "$SYS/#"], "$SYS/$x"),
        ["$SYS/#", "$SYS/+"]
    );
}

/// Section 4.7.2: a client that wants both kinds subscribes to both.
#[test]
fn hash_and_dollar_sys_hash_together_match_everything_once() {
    assert_eq!(matching(&["#", "$SYS/#"], "$SYS/x"), ["$SYS/#"]);
    assert_eq!(matching(&["#", "$SYS/#"], "x"), ["#"]);
}
