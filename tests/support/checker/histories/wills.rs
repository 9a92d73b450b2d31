//! Wills.

use super::{Rule, broken, correct};

/// A watcher; a client that dies; one that ends normally; one that comes back before its delay is
/// over; one that does not.
const WILLS: &str = r#"
w> CONNECT expiry=900s
w< CONNACK
w> SUBSCRIBE w/# q2 id=1
w< SUBACK id=1 q2
a> CONNECT v3 clean will=w/a "a dies" q2
a< CONNACK
b> CONNECT v3 clean will=w/b "b dies" q1
b< CONNACK
c> CONNECT expiry=99s will=w/c "c dies" q1 delay=30s
c< CONNACK
d> CONNECT expiry=99s will=w/d "d dies" q1 delay=3s
d< CONNACK
a! drop
b> DISCONNECT
b! disconnected
c! drop
d! drop
c> CONNECT expiry=99s
c< CONNACK present
w< PUBLISH w/a q2 "a dies" id=1
w> PUBREC id=1
w< PUBREL id=1
w> PUBCOMP id=1
time! wait 60s
w< PUBLISH w/d q1 "d dies" id=1
w> PUBACK id=1
d> CONNECT expiry=99s
d< CONNACK present
"#;

#[test]
fn who_dies_leaves_a_will() {
    let a = "w< PUBLISH w/a q2 \"a dies\" id=1\nw> PUBREC id=1\nw< PUBREL id=1\nw> PUBCOMP id=1\n";
    broken(WILLS, a, "", Rule::Will);
    let d = "w< PUBLISH w/d q1 \"d dies\" id=1\nw> PUBACK id=1\n";
    broken(WILLS, d, "", Rule::Will);
    broken(WILLS, a, &a.repeat(2), Rule::Repetition);
    broken(WILLS, d, &d.repeat(2), Rule::Repetition);
    broken(
        WILLS,
        "w< PUBLISH w/d q1",
        "w< PUBLISH w/d q0",
        Rule::Altered,
    );
}

#[test]
fn who_says_goodbye_or_comes_back_in_time_leaves_none() {
    let end = "time! wait 60s\n";
    let b = "time! wait 60s\nw< PUBLISH w/b q1 \"b dies\" id=2\nw> PUBACK id=2\n";
    broken(WILLS, end, b, Rule::Will);
    let c = "time! wait 60s\nw< PUBLISH w/c q1 \"c dies\" id=2\nw> PUBACK id=2\n";
    broken(WILLS, end, c, Rule::Will);
}

#[test]
fn a_goodbye_to_a_dying_node_may_be_lost() {
    let killed = WILLS.replacen(
        "b! disconnected\n",
        "node1! kill node=1\nb! disconnected\n",
        1,
    );
    correct(&killed);
    let b = "time! wait 60s\nw< PUBLISH w/b q1 \"b dies\" id=2\nw> PUBACK id=2\n";
    correct(&killed.replacen("time! wait 60s\n", b, 1));
}
