//! Packet ids, DUP, what is sent again, the order of PUBREL, the window, acknowledgements.

use super::{Rule, broken, correct, without};

/// QoS 1 and 2 across two lost connections, with a window of 3.
const RESUMED: &str = r#"
s> CONNECT expiry=100s receive_maximum=3
s< CONNACK
s> SUBSCRIBE # q2 id=1
s< SUBACK id=1 q2
p> CONNECT v3
p< CONNACK
p> PUBLISH t q1 "one" id=1
p< PUBACK id=1
p> PUBLISH t q2 "two" id=2
p< PUBREC id=2
p> PUBREL id=2
p< PUBCOMP id=2
p> PUBLISH t q2 "three" id=3
p< PUBREC id=3
p> PUBREL id=3
p< PUBCOMP id=3
s< PUBLISH t q1 "one" id=1
s< PUBLISH t q2 "two" id=2
s< PUBLISH t q2 "three" id=3
s> PUBREC id=2
s> PUBREC id=3
s< PUBREL id=2
s! drop
s> CONNECT expiry=100s receive_maximum=3
s< CONNACK present
s< PUBREL id=2
s< PUBREL id=3
s< PUBLISH t q1 "one" id=1 dup
s> PUBCOMP id=2
s> PUBCOMP id=3
p> PUBLISH t q1 "four" id=4
p< PUBACK id=4
s< PUBLISH t q1 "four" id=2
s> PUBACK id=1
s> PUBACK id=2
s! closed
s> CONNECT expiry=100s receive_maximum=3
s< CONNACK present
s< PUBLISH t q1 "one" id=1 dup
s< PUBLISH t q1 "four" id=2 dup
s> PUBACK id=1
s> PUBACK id=2
p> PUBLISH t q1 "five" id=4
p< PUBACK id=4
s< PUBLISH t q1 "five" id=1
s> PUBACK id=1
"#;

#[test]
fn dup_is_0_the_first_time_and_1_again() {
    broken(RESUMED, r#""one" id=1 dup"#, r#""one" id=1"#, Rule::Dup);
    broken(RESUMED, r#""five" id=1"#, r#""five" id=1 dup"#, Rule::Dup);
    broken(
        RESUMED,
        "s< PUBLISH t q1 \"one\" id=1\n",
        "s< PUBLISH t q1 \"one\" id=1 dup\n",
        Rule::Dup,
    );
}

#[test]
fn an_id_names_one_message_until_it_is_acknowledged() {
    let two = "s< PUBLISH t q2 \"two\" id=";
    broken(
        RESUMED,
        &format!("{two}2"),
        &format!("{two}1"),
        Rule::PacketId,
    );
    let four = "s< PUBLISH t q1 \"four\" id=";
    broken(
        RESUMED,
        &format!("{four}2"),
        &format!("{four}1"),
        Rule::PacketId,
    );
    broken(
        RESUMED,
        "\"one\" id=1 dup",
        "\"four\" id=1 dup",
        Rule::PacketId,
    );
}

#[test]
fn what_is_not_acknowledged_is_sent_again_in_order_and_once() {
    let again = "s< PUBLISH t q1 \"one\" id=1 dup\n";
    broken(RESUMED, again, "", Rule::Resend);
    broken(RESUMED, again, &again.repeat(2), Rule::Resend);
    let two = "s< PUBLISH t q1 \"one\" id=1 dup\ns< PUBLISH t q1 \"four\" id=2 dup\n";
    let swapped = "s< PUBLISH t q1 \"four\" id=2 dup\ns< PUBLISH t q1 \"one\" id=1 dup\n";
    broken(RESUMED, two, swapped, Rule::Resend);
}

#[test]
fn pubrel_follows_pubrec_in_order_and_ends_the_publish() {
    let two = "s< PUBREL id=2\ns< PUBREL id=3\n";
    broken(
        RESUMED,
        two,
        "s< PUBREL id=3\ns< PUBREL id=2\n",
        Rule::Release,
    );
    broken(
        RESUMED,
        two,
        "s< PUBREL id=2\ns< PUBREL id=3\ns< PUBREL id=3\n",
        Rule::Release,
    );
    let early = "s< PUBREL id=2\ns> PUBREC id=2\n";
    broken(RESUMED, "s> PUBREC id=2\n", early, Rule::Release);
    let publish = "s< PUBLISH t q2 \"two\" id=2 dup\ns< PUBREL id=3\n";
    broken(RESUMED, two, publish, Rule::Release);
    let after = "s> PUBCOMP id=3\ns! closed\ns> CONNECT expiry=100s receive_maximum=3\n\
                 s< CONNACK present\ns< PUBLISH t q1 \"one\" id=1 dup\n\
                 s< PUBLISH t q2 \"three\" id=3 dup\ns> PUBREC id=3\ns< PUBREL id=3\n\
                 s> PUBCOMP id=3\n";
    broken(RESUMED, "s> PUBCOMP id=3\n", after, Rule::Release);
}

#[test]
fn a_lost_acknowledgement_leaves_both_outcomes_open() {
    // The PUBREC of "two" was lost: PUBLISH comes again, instead of PUBREL.
    let text = without(RESUMED, &["s< PUBREL id=2\n"]);
    let again = "s< PUBLISH t q1 \"one\" id=1 dup\ns< PUBLISH t q2 \"two\" id=2 dup\ns> PUBREC id=2\ns< PUBREL id=2\n";
    let text = text.replacen("s< PUBREL id=2\n", "", 1);
    let text = text.replacen("s< PUBLISH t q1 \"one\" id=1 dup\n", again, 1);
    correct(&text);
    // The PUBACKs of "one" and "four" were not lost: their ids are used again.
    let text = without(
        RESUMED,
        &["s< PUBLISH t q1 \"four\" id=2 dup\ns> PUBACK id=1\ns> PUBACK id=2\n"],
    );
    let again = "s< PUBLISH t q1 \"one\" id=1 dup\n";
    let text = text.replace(again, "").replacen(
        "s> PUBCOMP id=2\n",
        &format!("{again}s> PUBCOMP id=2\n"),
        1,
    );
    correct(&text);
}

#[test]
fn the_window_is_not_exceeded() {
    let from = "receive_maximum=3\ns< CONNACK\n";
    let to = "receive_maximum=2\ns< CONNACK\n";
    broken(RESUMED, from, to, Rule::Window);
}

#[test]
fn acknowledgements_answer_something_on_this_connection() {
    broken(
        RESUMED,
        "p< PUBACK id=1",
        "p< PUBACK id=9",
        Rule::Acknowledgement,
    );
    broken(
        RESUMED,
        "p< PUBACK id=1",
        "p< PUBREC id=1",
        Rule::Acknowledgement,
    );
    let twice = "p< PUBCOMP id=2\np< PUBCOMP id=2";
    broken(RESUMED, "p< PUBCOMP id=2", twice, Rule::Acknowledgement);
}

#[test]
fn every_handshake_is_finished_in_the_end() {
    broken(RESUMED, "p< PUBCOMP id=3\n", "", Rule::Drain);
    broken(RESUMED, "p< PUBACK id=1\n", "", Rule::Drain);
    let last = "s< PUBLISH t q1 \"five\" id=1\ns> PUBACK id=1\n";
    let more = "s< PUBLISH t q1 \"five\" id=1\ns> PUBACK id=1\n\
                p> PUBLISH t q2 \"six\" id=5\np< PUBREC id=5\np> PUBREL id=5\np< PUBCOMP id=5\n\
                s< PUBLISH t q2 \"six\" id=5\ns> PUBREC id=5\ns< PUBREL id=5\n";
    let text = RESUMED.replacen(last, more, 1);
    broken(
        &text,
        "s> PUBREC id=5\ns< PUBREL id=5\n",
        "s> PUBREC id=5\n",
        Rule::Drain,
    );
}

#[test]
fn packets_that_no_server_sends_are_found() {
    broken(
        RESUMED,
        "p< PUBACK id=1\n",
        "p< PUBACK id=1\np< CONNACK\n",
        Rule::Malformed,
    );
    broken(RESUMED, "s! drop\n", "s! malformed\n", Rule::Malformed);
}
