//! Session Present and takeover.

use super::{Rule, broken, correct};

const SESSIONS: &str = r#"
a> CONNECT expiry=100s
a< CONNACK
a! drop
a> CONNECT expiry=100s node=2
a! closed
a> CONNECT expiry=10s node=3
a< CONNACK present
a! drop
time! wait 60s
a> CONNECT expiry=100s
a< CONNACK
a! drop
a> CONNECT clean expiry=100s
a! closed
a> CONNECT clean expiry=100s
a< CONNACK
b> CONNECT v3 clean
b< CONNACK
b! drop
b> CONNECT v3 clean
b< CONNACK
"#;

#[test]
fn session_present_says_whether_the_session_was_there() {
    broken(
        SESSIONS,
        "a> CONNECT expiry=100s\na< CONNACK\n",
        "a> CONNECT expiry=100s\na< CONNACK present\n",
        Rule::SessionPresent,
    );
    broken(
        SESSIONS,
        "a< CONNACK present\n",
        "a< CONNACK\n",
        Rule::SessionPresent,
    );
    // Expired long ago.
    broken(
        SESSIONS,
        "time! wait 60s\na> CONNECT expiry=100s\na< CONNACK\n",
        "time! wait 60s\na> CONNECT expiry=100s\na< CONNACK present\n",
        Rule::SessionPresent,
    );
    broken(
        SESSIONS,
        "b! drop\nb> CONNECT v3 clean\nb< CONNACK\n",
        "b! drop\nb> CONNECT v3 clean\nb< CONNACK present\n",
        Rule::SessionPresent,
    );
}

#[test]
fn an_attempt_without_an_answer_may_have_made_a_session() {
    for answer in ["CONNACK", "CONNACK present"] {
        correct(&format!(
            "a> CONNECT expiry=9s\na! closed\na> CONNECT expiry=9s\na< {answer}\n"
        ));
    }
    // A little after its expiry a session may be there or not.
    for answer in ["CONNACK", "CONNACK present"] {
        correct(&format!(
            "a> CONNECT expiry=9s\na< CONNACK\na! drop\ntime! wait 10s\na> CONNECT expiry=9s\na< {answer}\n"
        ));
    }
}

#[test]
fn the_connection_that_was_taken_over_is_closed() {
    let text = r#"
a> CONNECT expiry=100s node=1
a< CONNACK
a! superseded
a> CONNECT expiry=100s node=2
a< CONNACK present
a! leftover_closed
time! wait 60s
b> CONNECT clean
b< CONNACK
"#;
    broken(text, "a! leftover_closed\n", "", Rule::Takeover);
    // A node that died closed nothing by itself.
    correct(&text.replacen("a! leftover_closed\n", "node1! kill node=1\n", 1));
}
