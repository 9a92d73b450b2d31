//! Loss, repetition, order, phantoms, altered messages, expiry.

use super::{Rule, broken, correct};

/// A persistent subscriber that was away, a transient one whose connection is lost.
const AWAY: &str = r#"
s> CONNECT v3 node=2
s< CONNACK
s> SUBSCRIBE t/# q2 id=1
s< SUBACK id=1 q2
u> CONNECT clean node=3
u< CONNACK
u> SUBSCRIBE t/+ q1 id=1 identifier=7
u< SUBACK id=1 q1
s! drop
p> CONNECT expiry=100s
p< CONNACK
p> PUBLISH t/a q1 "one" id=1 content_type=x
p> PUBLISH t/a q1 "two" id=2 expiry=900s
p> PUBLISH t/a q2 "three" id=3
p> PUBLISH t/a q2 "four" id=4
u< PUBLISH t/a q1 "one" id=1 identifier=7 content_type=x
u> PUBACK id=1
u< PUBLISH t/a q1 "two" id=2 identifier=7 expiry=900s
u> PUBACK id=2
node1! kill node=1
p! closed
p> CONNECT expiry=100s node=2
p< CONNACK present
p> PUBLISH t/a q1 "one" id=1 dup content_type=x
p> PUBLISH t/a q1 "two" id=2 dup expiry=900s
p> PUBLISH t/a q2 "three" id=3 dup
p> PUBLISH t/a q2 "four" id=4 dup
p< PUBACK id=1
p< PUBACK id=2
p< PUBREC id=3
p> PUBREL id=3
p< PUBCOMP id=3
p< PUBREC id=4
p> PUBREL id=4
p< PUBCOMP id=4
u< PUBLISH t/a q1 "three" id=3 identifier=7
u> PUBACK id=3
u< PUBLISH t/a q1 "four" id=4 identifier=7
u! closed
s> CONNECT v3 node=2
s< CONNACK present
s< PUBLISH t/a q1 "one" id=1
s> PUBACK id=1
s< PUBLISH t/a q1 "two" id=2
s> PUBACK id=2
s< PUBLISH t/a q1 "one" id=3
s> PUBACK id=3
s< PUBLISH t/a q2 "three" id=4
s> PUBREC id=4
s< PUBREL id=4
s> PUBCOMP id=4
s< PUBLISH t/a q2 "four" id=5
s> PUBREC id=5
s< PUBREL id=5
s> PUBCOMP id=5
"#;

const LAST: &str =
    "s< PUBLISH t/a q2 \"four\" id=5\ns> PUBREC id=5\ns< PUBREL id=5\ns> PUBCOMP id=5\n";

#[test]
fn what_was_acknowledged_is_not_lost() {
    broken(AWAY, LAST, "", Rule::Loss);
    broken(
        AWAY,
        "s< PUBLISH t/a q1 \"two\" id=2\ns> PUBACK id=2\n",
        "",
        Rule::Loss,
    );
}

#[test]
fn a_transient_subscriber_gets_all_that_precedes_what_it_got() {
    let two = "u< PUBLISH t/a q1 \"three\" id=3 identifier=7\nu> PUBACK id=3\n";
    broken(AWAY, two, "", Rule::Loss);
    // What comes last may have been lost with the connection.
    correct(&AWAY.replacen("u< PUBLISH t/a q1 \"four\" id=4 identifier=7\n", "", 1));
}

#[test]
fn what_was_not_acknowledged_may_be_lost() {
    let text = AWAY.replacen(
        "p< PUBREC id=4\np> PUBREL id=4\np< PUBCOMP id=4\n",
        "p! closed\n",
        1,
    );
    correct(&text);
    correct(&text.replacen(LAST, "", 1).replacen(
        "u< PUBLISH t/a q1 \"four\" id=4 identifier=7\n",
        "",
        1,
    ));
}

#[test]
fn qos_2_comes_once_and_qos_1_as_often_as_it_was_sent() {
    let again = LAST.replace("id=5", "id=6");
    broken(AWAY, LAST, &format!("{LAST}{again}"), Rule::Repetition);
    let third = "s< PUBLISH t/a q1 \"one\" id=3\ns> PUBACK id=3\n";
    broken(AWAY, third, &third.repeat(2), Rule::Repetition);
    let once = "p> PUBLISH t/a q1 \"two\" id=2 dup expiry=900s\n";
    let text = AWAY
        .replacen(once, "", 1)
        .replacen("p< PUBACK id=2\n", "", 1)
        .replacen("node1! kill", "p< PUBACK id=2\nnode1! kill", 1);
    let two = "s< PUBLISH t/a q1 \"two\" id=2\ns> PUBACK id=2\n";
    broken(&text, two, &two.repeat(2), Rule::Repetition);
}

#[test]
fn one_publishers_messages_keep_their_order() {
    let from = "s< PUBLISH t/a q1 \"one\" id=1\ns> PUBACK id=1\ns< PUBLISH t/a q1 \"two\" id=2\n\
                s> PUBACK id=2\n";
    let to = "s< PUBLISH t/a q1 \"two\" id=1\ns> PUBACK id=1\ns< PUBLISH t/a q1 \"one\" id=2\n\
              s> PUBACK id=2\n";
    broken(AWAY, from, to, Rule::Order);
    let text = AWAY.replacen(LAST, "", 1);
    let text = text.replacen(
        "s< PUBLISH t/a q2 \"three\"",
        &format!("{LAST}s< PUBLISH t/a q2 \"three\""),
        1,
    );
    let found = super::judge(&text);
    assert!(
        found.violations.iter().all(|one| one.rule == Rule::Order),
        "{found:?}"
    );
    assert_eq!(found.violations.len(), 1);
}

#[test]
fn nothing_comes_that_nobody_published_or_asked_for() {
    broken(
        AWAY,
        r#"q1 "one" id=3"#,
        r#"q1 "nobody" id=3"#,
        Rule::Phantom,
    );
    let text = AWAY.replacen("u> SUBSCRIBE t/+", "u> SUBSCRIBE t/a", 1);
    let other = text.replacen("u> SUBSCRIBE t/a", "u> SUBSCRIBE t/b", 1);
    correct(&text);
    assert!(
        super::judge(&other)
            .violations
            .iter()
            .any(|one| one.rule == Rule::Phantom)
    );
    let early = "u> PUBACK id=2\nu< PUBLISH t/a q0 \"late\"\n";
    let late = format!("{}p> PUBLISH t/a q0 \"late\"\n", AWAY);
    broken(&late, "u> PUBACK id=2\n", early, Rule::Phantom);
}

#[test]
fn unsubscribed_is_unsubscribed() {
    let text = r#"
s> CONNECT
s< CONNACK
s> SUBSCRIBE t q1 id=1
s< SUBACK id=1 q1
p> CONNECT clean
p< CONNACK
p> PUBLISH t q1 "one" id=1
p< PUBACK id=1
s> UNSUBSCRIBE t id=2
p> PUBLISH t q1 "two" id=1
p< PUBACK id=1
s< PUBLISH t q1 "one" id=1
s> PUBACK id=1
s< UNSUBACK id=2
s< PUBLISH t q1 "two" id=2
s> PUBACK id=2
p> PUBLISH t q1 "three" id=1
p< PUBACK id=1
"#;
    broken(text, "\"two\" id=2", "\"three\" id=2", Rule::Phantom);
    // In between, both are right.
    correct(&text.replacen("s< PUBLISH t q1 \"two\" id=2\ns> PUBACK id=2\n", "", 1));
}

#[test]
fn what_was_forgotten_with_the_session_does_not_come_back() {
    let text = r#"
s> CONNECT expiry=100s
s< CONNACK
s> SUBSCRIBE t q1 id=1
s< SUBACK id=1 q1
s! drop
p> CONNECT clean
p< CONNACK
p> PUBLISH t q1 "old" id=1
p< PUBACK id=1
s> CONNECT clean expiry=100s
s< CONNACK
s> SUBSCRIBE t q1 id=1
s< SUBACK id=1 q1
p> PUBLISH t q1 "new" id=1
p< PUBACK id=1
s< PUBLISH t q1 "new" id=1
s> PUBACK id=1
"#;
    let new = "s< PUBLISH t q1 \"new\" id=1\ns> PUBACK id=1\n";
    let old = new.replace("new", "old");
    broken(text, new, &format!("{old}{new}"), Rule::Phantom);
}

#[test]
fn a_message_is_not_altered() {
    broken(
        AWAY,
        "identifier=7 content_type=x",
        "identifier=7",
        Rule::Altered,
    );
    broken(
        AWAY,
        "q1 \"one\" id=1 identifier=7",
        "q1 \"one\" id=1",
        Rule::Altered,
    );
    broken(
        AWAY,
        "\"one\" id=1 identifier=7",
        "\"one\" id=1 identifier=8",
        Rule::Altered,
    );
    broken(
        AWAY,
        "s< PUBLISH t/a q1 \"two\"",
        "s< PUBLISH t/b q1 \"two\"",
        Rule::Altered,
    );
    broken(
        AWAY,
        "s< PUBLISH t/a q1 \"one\" id=3",
        "s< PUBLISH t/a q0 \"one\"",
        Rule::Altered,
    );
    broken(
        AWAY,
        "s< PUBLISH t/a q1 \"one\" id=3",
        "s< PUBLISH t/a q2 \"one\" id=3",
        Rule::Altered,
    );
    broken(
        AWAY,
        "s< PUBLISH t/a q1 \"one\" id=3",
        "s< PUBLISH t/a q1 retain \"one\" id=3",
        Rule::Altered,
    );
}

/// Two messages wait for an offline session; one of them expires.
const EXPIRED: &str = r#"
s> CONNECT expiry=900s
s< CONNACK
s> SUBSCRIBE t q1 id=1
s< SUBACK id=1 q1
s! drop
p> CONNECT clean
p< CONNACK
p> PUBLISH t q1 "short" id=1 expiry=20s
p< PUBACK id=1
p> PUBLISH t q1 "long" id=1 expiry=800s
p< PUBACK id=1
time! wait 60s
s> CONNECT expiry=900s
s< CONNACK present
s< PUBLISH t q1 "long" id=1 expiry=740s
s> PUBACK id=1
"#;

#[test]
fn expired_messages_are_not_delivered_and_the_interval_counts_down() {
    let long = "s< PUBLISH t q1 \"long\" id=1 expiry=740s\n";
    let both = format!("s< PUBLISH t q1 \"short\" id=2 expiry=1s\ns> PUBACK id=2\n{long}");
    broken(EXPIRED, long, &both, Rule::Expiry);
    broken(EXPIRED, "expiry=740s", "expiry=800s", Rule::Expiry);
    broken(EXPIRED, "expiry=740s", "expiry=801s", Rule::Expiry);
    broken(
        EXPIRED,
        "\"long\" id=1 expiry=740s",
        "\"long\" id=1",
        Rule::Altered,
    );
}

#[test]
fn who_subscribes_between_two_attempts_sees_their_messages_in_another_order() {
    let text = r#"
p> CONNECT expiry=100s
p< CONNACK
p> PUBLISH t q1 "one" id=1
s> CONNECT clean
s< CONNACK
s> SUBSCRIBE t q1 id=1
p> PUBLISH t q1 "two" id=2
s< SUBACK id=1 q1
s< PUBLISH t q1 "two" id=1
s> PUBACK id=1
p! closed
p> CONNECT expiry=100s
p< CONNACK present
p> PUBLISH t q1 "one" id=1 dup
p> PUBLISH t q1 "two" id=2 dup
p< PUBACK id=1
p< PUBACK id=2
s< PUBLISH t q1 "one" id=2
s> PUBACK id=2
s< PUBLISH t q1 "two" id=3
s> PUBACK id=3
"#;
    let later = "s< PUBLISH t q1 \"two\" id=3\ns> PUBACK id=3\n";
    correct(text);
    let backwards = text.replacen(later, "", 1).replacen(
        "s< PUBLISH t q1 \"one\" id=2\n",
        &format!("{later}s< PUBLISH t q1 \"one\" id=2\n"),
        1,
    );
    assert!(
        super::judge(&backwards)
            .violations
            .iter()
            .any(|one| one.rule == Rule::Order)
    );
}
