//! Mistakes in a configuration file, and what the broker says of each: the table of
//! `docs/operations/configuration-mistakes.md`, which an operator finds by the words of a message.
//!
//! `UPDATE=1 cargo test --release -p node --lib mistakes` writes the page anew.

use std::fmt::Write as _;

use super::tests::problems;

const PAGE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../docs/operations/configuration-mistakes.md"
);

/// Files with one mistake each.
const MISTAKES: &[&str] = &[
    // Spelling.
    "[mqtt]\nrecieve_maximum = 10",
    "[mqtt]\nmax_packetsize = \"1MiB\"",
    "[mqt]\nmax_qos = 1",
    "[listener]\nbind = \"127.0.0.1:1883\"",
    "[[listeners]]\nbind = \"127.0.0.1:1883\"",
    "[[listener]]\nadress = \"127.0.0.1:1883\"",
    "[cluster]\nshard = 4",
    "[auth]\npasswd_file = \"/etc/holdfast/passwd\"",
    "[admin]\nlisten = \"127.0.0.1:8080\"",
    "[limits]\nqueue_max_mesages = 10",
    "[shutdown]\ngrace_period = \"5s\"",
    "max_qos = 1",
    // No TOML.
    "[mqtt\nmax_qos = 1",
    "[mqtt]\nmax_qos = ",
    "[mqtt]\nmax_qos = 1\nmax_qos = 2",
    // Types and units.
    "[mqtt]\nmax_qos = \"one\"",
    "[mqtt]\nmax_qos = 3",
    "[mqtt]\nmax_packet_size = \"1MB\"",
    "[mqtt]\nmax_packet_size = -1",
    "[mqtt]\nmax_packet_size = \"300MiB\"",
    "[mqtt]\nconnect_timeout = 10",
    "[mqtt]\nconnect_timeout = \"10 seconds\"",
    "[mqtt]\nconnect_timeout = \"0s\"",
    "[mqtt]\nreceive_maximum = 0",
    "[mqtt]\nreceive_maximum = 70000",
    "[mqtt]\nretain_available = \"yes\"",
    "[mqtt]\nsession_expiry_max = \"forever\"",
    "[mqtt]\nmax_topic_levels = 0",
    "[limits]\nmemory_high = \"101%\"",
    "[limits]\nqueue_overflow = \"drop\"",
    "[limits]\ninflight_max = 0",
    "[limits]\nqueue_max_bytes = \"1KiB\"",
    "[limits]\nconnect_rate = -5",
    "[limits]\nbyte_rate = \"1Mbit\"",
    "[storage]\nmin_free_disk = \"10%\"",
    "[storage]\nblock_cache = \"1KiB\"",
    "[storage]\nsnapshot_after = 1",
    "[shutdown]\ndrain_timeout = \"0s\"",
    "[shutdown]\nclose_rate = 0",
    "[sys_topics]\ninterval = \"100ms\"",
    "[log]\nlevel = \"verbose\"",
    "[log]\nformat = \"xml\"",
    "[log]\ntarget = \"/var/log/holdfast.log\"",
    // Nodes.
    "[node]\nid = 0",
    "[node]\nid = 70000",
    "[node]\nid = \"first\"",
    "[node]\ndata_dir = \"\"",
    "[cluster]\npeers = [\"a:7400\"]",
    "[node]\nid = 4\n[cluster]\npeers = [\"1@a:7400\", \"2@b:7400\", \"3@c:7400\"]",
    "[cluster]\npeers = [\"1@a:7400\", \"2@b:7400\", \"3@c:7400\"]",
    "[node]\nid = 1\n[cluster]\npeers = [\"1@a:7400\", \"1@b:7400\", \"3@c:7400\"]",
    "[node]\nid = 1\n[cluster]\npeers = [\"1@a\", \"2@b:7400\", \"3@c:7400\"]",
    "[cluster]\nshards = 0",
    "[cluster]\nreplicas = 0",
    "[cluster]\nelection_timeout = \"500ms\"",
    "[cluster]\nelection_timeout = [\"1000ms\", \"500ms\"]",
    "[cluster]\nheartbeat = \"600ms\"",
    "[cluster]\nlease = \"10s\"",
    "[node]\nid = 1\n[cluster]\nlisten = \"7400\"\npeers = [\"1@a:7400\", \"2@b:7400\", \"3@c:7400\"]",
    "[cluster]\nname = \"\"",
    "[cluster.tls]\ncert = \"/etc/holdfast/tls/node.crt\"",
    // Listeners.
    "[[listener]]\nbind = \"1883\"",
    "[[listener]]\nbind = \"localhost:1883\"",
    "[[listener]]\nkind = \"tcp\"\nbind = \"127.0.0.1:1883\"",
    "[[listener]]\nkind = \"mqtts\"\nbind = \"127.0.0.1:8883\"\ncert = \"/etc/holdfast/tls/tls.crt\"",
    "[[listener]]\nbind = \"127.0.0.1:1883\"\ncert = \"/etc/holdfast/tls/tls.crt\"",
    "[[listener]]\nbind = \"127.0.0.1:1883\"\nproxy_protocol = \"on\"",
    "[[listener]]\nbind = \"127.0.0.1:1883\"\nclient_cert = \"required\"",
    "[[listener]]\nbind = \"127.0.0.1:1883\"\nmax_connections = 0",
    "[[listener]]\nname = \"a\"\nbind = \"127.0.0.1:1883\"\n[[listener]]\nname = \"a\"\nbind = \"127.0.0.1:1884\"",
    "[[listener]]\nname = \"a\"\nbind = \"127.0.0.1:1883\"\n[[listener]]\nname = \"b\"\nbind = \"127.0.0.1:1883\"",
    "[[listener]]\nbind = \"127.0.0.1:8080\"",
    // Access.
    "[auth]\nanonymous = \"no\"",
    "[auth]\njwt = \"key.pem\"",
    "[auth]\njwt = { audience = \"mqtt\" }",
    "[[acl]]\nwho = \"alice\"\nallow = [\"publish\"]\ntopics = [\"a\"]",
    "[[acl]]\nwho = \"all\"\ntopics = [\"a\"]",
    "[[acl]]\nwho = \"all\"\nallow = [\"read\"]\ntopics = [\"a\"]",
    "[[acl]]\nwho = \"all\"\nallow = [\"publish\"]\ntopics = [\"a/#/b\"]",
    "[[acl]]\nwho = \"all\"\nallow = [\"publish\"]",
    // The admin port.
    "[admin]\nbind = \"0.0.0.0:8080\"",
    "[admin]\nmetrics_auth = \"true\"",
    // Not in this version.
    "[otlp]\nendpoint = \"http://127.0.0.1:4317\"",
    "[[bridge]]\naddress = \"mqtt.example.com:1883\"",
    "[auth]\nhttp = { url = \"http://127.0.0.1/\" }",
];

#[test]
fn each_mistake_gets_a_message_that_names_place_key_and_fix() {
    let mut page = String::from(
        "# Mistakes in the configuration\n\n\
         What `holdfast run` and `holdfast config check` say of a file with one mistake: place in the file, key, value, and what is expected.\n\
         All mistakes of a file are reported at once, with exit code 2.\n\
         Written by `UPDATE=1 cargo test --release -p node --lib mistakes`, and compared by the tests.\n",
    );
    let mut wrong = Vec::new();
    for text in MISTAKES {
        let said = problems(text);
        let [line] = said.as_slice() else {
            wrong.push(format!("{text}\n{said:#?}"));
            continue;
        };
        if !line.starts_with(|first: char| first.is_ascii_digit()) {
            wrong.push(format!("{text}\nno line of the file in: {line}"));
        }
        let line = without_folder(line).replace('<', "&lt;");
        write!(page, "\n```toml\n{text}\n```\n\n> {line}\n").unwrap();
    }
    assert_eq!(wrong, [""; 0]);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(PAGE, &page).unwrap();
    }
    let written = std::fs::read_to_string(PAGE).unwrap_or_default();
    assert!(
        written == page,
        "{PAGE} is out of date: UPDATE=1 cargo test --release -p node --lib mistakes"
    );
}

/// Places in the file without the folder that the test keeps it in.
fn without_folder(line: &str) -> String {
    let word = |word: &str| match word.split_once("holdfast.toml:") {
        Some((_, place)) if word.starts_with('(') => format!("(holdfast.toml:{place}"),
        Some(_) | None => word.to_owned(),
    };
    let words: Vec<String> = line.split(' ').map(word).collect();
    words.join(" ")
}
