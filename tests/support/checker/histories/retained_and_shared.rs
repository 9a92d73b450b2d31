//! Retained messages and shared subscriptions.

use super::{Rule, broken, correct};

/// Two values on one topic, one cleared on another; a new subscriber.
const RETAINED: &str = r#"
p> CONNECT
p< CONNACK
p> PUBLISH r/a q1 "one" id=1 retain
p< PUBACK id=1
p> PUBLISH r/a q1 "two" id=1 retain
p< PUBACK id=1
p> PUBLISH r/b q1 "gone" id=1 retain
p< PUBACK id=1
p> PUBLISH r/b q1 "" id=1 retain
p< PUBACK id=1
s> CONNECT clean
s< CONNACK
s> SUBSCRIBE r/# q1 id=1
s< SUBACK id=1 q1
s< PUBLISH r/a q1 retain "two" id=1
s> PUBACK id=1
p> PUBLISH r/a q1 "three" id=1 retain
p< PUBACK id=1
s< PUBLISH r/a q1 "three" id=1
s> PUBACK id=1
"#;

#[test]
fn a_new_subscriber_gets_the_last_value() {
    let two = "s< PUBLISH r/a q1 retain \"two\" id=1\n";
    broken(RETAINED, two, &two.replace("two", "one"), Rule::Retained);
    let end = "s< PUBLISH r/a q1 \"three\" id=1\ns> PUBACK id=1\n";
    let stale = "s< PUBLISH r/a q1 retain \"two\" id=2\ns> PUBACK id=2\n";
    broken(RETAINED, end, &format!("{end}{stale}"), Rule::Retained);
    let gone = "s< PUBLISH r/b q1 retain \"gone\" id=2\ns> PUBACK id=2\n";
    broken(RETAINED, end, &format!("{end}{gone}"), Rule::Retained);
    // Overtaken by a newer one it need not come; without one it must.
    let without = RETAINED
        .replacen(two, "", 1)
        .replacen("s> PUBACK id=1\n", "", 1);
    correct(&without);
    let from = "p> PUBLISH r/a q1 \"three\" id=1 retain\np< PUBACK id=1\n";
    let text = RETAINED.replacen(from, "", 1).replacen(end, "", 1);
    broken(&text, &format!("{two}s> PUBACK id=1\n"), "", Rule::Retained);
}

#[test]
fn the_retain_flag_says_stored_and_not_live() {
    broken(
        RETAINED,
        "retain \"two\" id=1\ns> PUBACK",
        "\"two\" id=1\ns> PUBACK",
        Rule::Phantom,
    );
    let live = "s< PUBLISH r/a q1 \"three\"";
    let as_published = RETAINED
        .replacen("SUBSCRIBE r/# q1", "SUBSCRIBE r/# q1 as_published", 1)
        .replacen(live, "s< PUBLISH r/a q1 retain \"three\"", 1);
    correct(&as_published);
    broken(
        &as_published,
        "q1 retain \"three\" id=1\ns>",
        "q1 \"three\" id=1\ns>",
        Rule::Altered,
    );
}

/// A persistent member and a transient one, which is lost before it acknowledges.
const SHARED: &str = r#"
a> CONNECT expiry=100s
a< CONNACK
a> SUBSCRIBE $share/g/t q2 id=1
a< SUBACK id=1 q2
b> CONNECT clean node=2
b< CONNACK
b> SUBSCRIBE $share/g/t q2 id=1
b< SUBACK id=1 q2
p> CONNECT clean node=3
p< CONNACK
p> PUBLISH t q1 "one" id=1
p< PUBACK id=1
p> PUBLISH t q1 "two" id=1
p< PUBACK id=1
a< PUBLISH t q1 "one" id=1
a> PUBACK id=1
b< PUBLISH t q1 "two" id=1
time! wait 60s
b! drop
a< PUBLISH t q1 "two" id=1
a> PUBACK id=1
time! wait 60s
p> PUBLISH t q2 "three" id=1
p< PUBREC id=1
p> PUBREL id=1
p< PUBCOMP id=1
time! wait 60s
c> CONNECT clean
c< CONNACK
c> SUBSCRIBE $share/g/t q2 id=1
c< SUBACK id=1 q2
p> PUBLISH t q2 "four" id=1
p< PUBREC id=1
p> PUBREL id=1
p< PUBCOMP id=1
a< PUBLISH t q2 "three" id=1
a> PUBREC id=1
a< PUBREL id=1
a> PUBCOMP id=1
c< PUBLISH t q2 "four" id=1
c> PUBREC id=1
c< PUBREL id=1
c> PUBCOMP id=1
"#;

#[test]
fn a_shared_message_goes_to_one_member() {
    let one = "a< PUBLISH t q1 \"one\" id=1\na> PUBACK id=1\n";
    broken(SHARED, one, "", Rule::Shared);
    let other = one
        .replace("a<", "b<")
        .replace("a>", "b>")
        .replace("id=1", "id=9");
    broken(SHARED, one, &format!("{one}{other}"), Rule::Shared);
    let four = "c< PUBLISH t q2 \"four\" id=1\nc> PUBREC id=1\nc< PUBREL id=1\nc> PUBCOMP id=1\n";
    let again = four.replace("c<", "a<").replace("c>", "a>");
    broken(SHARED, four, &format!("{four}{again}"), Rule::Shared);
    broken(SHARED, four, "", Rule::Shared);
    // QoS 2 is not sent to another member, whatever became of the first.
    broken(
        SHARED,
        four,
        &format!("c< PUBLISH t q2 \"four\" id=1\nc! drop\n{again}"),
        Rule::Shared,
    );
}

#[test]
fn what_a_transient_member_had_may_die_with_the_nodes() {
    let two = "a< PUBLISH t q1 \"two\" id=1\na> PUBACK id=1\n";
    let unread = "b< PUBLISH t q1 \"two\" id=1\n";
    let lost = SHARED.replacen(two, "", 1).replacen(unread, "", 1);
    let found = super::judge(&lost);
    assert!(found.violations.iter().any(|one| one.rule == Rule::Shared));
    correct(&lost.replacen("b! drop\n", "node1! kill node=1\nb! drop\n", 1));
}

#[test]
fn what_a_lost_member_leaves_may_go_to_one_that_came_later() {
    let later = "a< PUBLISH t q1 \"two\" id=1\na> PUBACK id=1\n";
    let new = "d> CONNECT clean\nd< CONNACK\nd> SUBSCRIBE $share/g/t q2 id=1\nd< SUBACK id=1 q2\n\
               d< PUBLISH t q1 \"two\" id=1\nd> PUBACK id=1\nd> DISCONNECT\nd! disconnected\n";
    correct(&SHARED.replacen(later, new, 1));
}

#[test]
fn who_acknowledged_long_before_the_loss_keeps_the_message() {
    let from = "b< PUBLISH t q1 \"two\" id=1\n";
    let to = "b< PUBLISH t q1 \"two\" id=1\nb> PUBACK id=1\n";
    broken(SHARED, from, to, Rule::Shared);
}
