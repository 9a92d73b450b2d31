//! What an operator sees of the configuration: values, precedence, and every kind of mistake.

use std::path::PathBuf;
use std::time::Duration;

use super::*;

/// Reads a file's text, with variables and flags.
fn load(
    text: &str,
    environment: &[(&str, &str)],
    flags: &[(&str, &str)],
) -> Result<Loaded, ConfigError> {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("holdfast.toml");
    std::fs::write(&file, text).unwrap();
    Loaded::load(&Sources {
        file: Some(file),
        environment: environment
            .iter()
            .map(|(name, text)| (name.into(), text.into()))
            .collect(),
        overrides: flags
            .iter()
            .map(|(key, value)| Override {
                key: (*key).to_owned(),
                value: (*value).to_owned(),
                flag: format!("--set {key}={value}"),
            })
            .collect(),
    })
}

fn config(text: &str) -> Config {
    load(text, &[], &[]).unwrap().config
}

/// The problems of a file, one line each, with the folder's name taken off.
pub(super) fn problems(text: &str) -> Vec<String> {
    lines(&load(text, &[], &[]).unwrap_err())
}

fn lines(error: &ConfigError) -> Vec<String> {
    let line = |line: &str| {
        line.split_once("holdfast.toml:")
            .map_or_else(|| line.to_owned(), |(_, rest)| rest.to_owned())
    };
    error.to_string().lines().map(line).collect()
}

/// Checks that a file has exactly one problem, which begins and goes on as given.
#[track_caller]
fn refused(text: &str, start: &str, part: &str) {
    let lines = problems(text);
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert!(
        lines[0].starts_with(start),
        "{} does not start with {start}",
        lines[0]
    );
    assert!(lines[0].contains(part), "{} lacks {part}", lines[0]);
}

const MEMBER: &str =
    "[node]\nid = 1\n[cluster]\npeers = [\"1@a:7400\", \"2@b:7400\", \"3@c:7400\"]\n";

#[test]
fn without_a_file_it_is_one_durable_node_for_this_machine() {
    let config = Config::default();
    assert_eq!(config, Loaded::load(&Sources::default()).unwrap().config);
    assert_eq!(config.node.id, 1);
    assert_eq!(config.node.name, "node-1");
    assert_eq!(config.node.data_dir, PathBuf::from("./holdfast-data"));
    assert!(config.cluster.is_single_node());
    assert_eq!(config.listeners.len(), 1);
    assert_eq!(config.listeners[0].bind.to_string(), "127.0.0.1:1883");
    assert_eq!(config.admin.bind.to_string(), "127.0.0.1:8080");
    assert_eq!(config.auth.anonymous, AnonymousAccess::Loopback);
    assert_eq!(config.mqtt.max_packet_size, 1 << 20);
    assert_eq!(config.mqtt.session_expiry_max_s, 7 * 86_400);
    assert_eq!(config.mqtt.keep_alive_max_s, None);
    assert_eq!(config.limits.queue_max_bytes, 256 << 20);
    assert_eq!(config.limits.buffers_max_bytes, 256 << 20);
}

#[test]
fn a_member_knows_its_peers_and_its_own_address() {
    let config = config(MEMBER);
    assert_eq!(config.cluster.peers.len(), 3);
    assert_eq!(config.cluster.advertise.unwrap().to_string(), "a:7400");
    assert_eq!(config.cluster.listen.to_string(), "0.0.0.0:7400");
    assert_eq!(
        config.cluster.election_timeout,
        (Duration::from_millis(500), Duration::from_secs(1))
    );
    assert_eq!((config.cluster.shards, config.cluster.replicas), (4, 3));
}

/// Every key of the operator's reference, as it stands there, is known. Those of features that are
/// not built yet stand at their defaults.
#[test]
fn every_key_of_the_reference_is_known() {
    let reference = include_str!("reference.toml");
    let loaded = load(reference, &[], &[]).unwrap();
    let untouched: Vec<String> = loaded
        .entries
        .iter()
        .filter(|entry| entry.origin == Origin::Default)
        .map(Entry::full_key)
        .collect();
    assert_eq!(
        untouched,
        Vec::<String>::new(),
        "known here, but not in the reference"
    );
}

#[test]
fn a_flag_stands_above_the_environment_above_the_file_above_the_default() {
    let file = "[mqtt]\nreceive_maximum = 2\n";
    let environment = [("HOLDFAST_MQTT__RECEIVE_MAXIMUM", "3")];
    let flags = [("mqtt.receive_maximum", "4"), ("mqtt.receive_maximum", "5")];
    let receive_maximum = |loaded: Loaded| loaded.config.mqtt.receive_maximum;
    assert_eq!(receive_maximum(load("", &[], &[]).unwrap()), 100);
    assert_eq!(receive_maximum(load(file, &[], &[]).unwrap()), 2);
    assert_eq!(receive_maximum(load(file, &environment, &[]).unwrap()), 3);
    assert_eq!(
        receive_maximum(load(file, &environment, &flags).unwrap()),
        5
    );
}

#[test]
fn variables_reach_places_in_lists() {
    let environment = [
        ("HOLDFAST_LISTENER__0__BIND", "0.0.0.0:2883"),
        ("HOLDFAST_LISTENER__1__NAME", "second"),
        ("HOLDFAST_LISTENER__1__BIND", "[::1]:2884"),
        ("HOLDFAST_CLUSTER__PEERS", "1@a:1,2@b:1"),
        ("HOLDFAST_NODE__ID", "2"),
        ("HOLDFAST_CLUSTER__ELECTION_TIMEOUT__1", "2s"),
        ("HOLDFAST_URL", "for other commands"),
        ("PATH", "/bin"),
    ];
    let file = "[cluster]\nelection_timeout = [\"400ms\", \"1s\"]\n";
    let config = load(file, &environment, &[]).unwrap().config;
    assert_eq!(config.listeners[0].bind.to_string(), "0.0.0.0:2883");
    assert_eq!(config.listeners[0].name, "tcp");
    assert_eq!(config.listeners[1].name, "second");
    assert_eq!(config.cluster.peers.len(), 2);
    assert_eq!(
        config.cluster.election_timeout,
        (Duration::from_millis(400), Duration::from_secs(2))
    );
}

#[test]
fn the_log_variable_stands_above_the_key() {
    let environment = [
        ("HOLDFAST_LOG", "holdfast::raft=debug"),
        ("HOLDFAST_LOG__LEVEL", "warn"),
    ];
    assert_eq!(
        load("", &environment, &[]).unwrap().config.log.level,
        "holdfast::raft=debug"
    );
}

#[test]
fn a_file_variable_holds_the_value_of_a_key_unless_it_is_a_key_itself() {
    let scratch = tempfile::tempdir().unwrap();
    let secret = scratch.path().join("secret");
    std::fs::write(&secret, "from-file\n").unwrap();
    let path = secret.to_str().unwrap();
    let loaded = load("", &[("HOLDFAST_NODE__NAME_FILE", path)], &[]).unwrap();
    assert_eq!(loaded.config.node.name, "from-file");
    let loaded = load("", &[("HOLDFAST_CLUSTER__SECRET_FILE", path)], &[]).unwrap();
    assert_eq!(loaded.config.cluster.secret_file, Some(secret));
    let error = load("", &[("HOLDFAST_NODE__NAME_FILE", "/nowhere/at/all")], &[]).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("cannot read the secret from /nowhere/at/all"),
        "{error}"
    );
}

#[test]
fn an_unknown_key_is_answered_with_the_nearest_one() {
    refused(
        "\n[mqtt]\nreceive_maximun = 3\n",
        "3: mqtt.receive_maximun = 3: unknown key",
        "mqtt.receive_maximum?",
    );
    refused(
        "[mqtt]\ninflight_max = 3\n",
        "2: mqtt.inflight_max",
        "limits.inflight_max?",
    );
    refused("[clusters]\nname = \"x\"\n", "1: clusters", "cluster");
    refused(
        "[[listeners]]\nbind = \"1.1.1.1:1\"\n",
        "1: listeners",
        "listener?",
    );
    refused(
        "[cluster.tls]\ncrt = \"x\"\n",
        "2: cluster.tls.crt",
        "cluster.tls.cert?",
    );
    refused(
        "[[listener]]\nbnid = \"1.1.1.1:1\"\n",
        "2: listener.0.bnid",
        "listener.0.bind?",
    );
    refused("zzz = 1\n", "1: zzz = 1: unknown key", "config print");
}

#[test]
fn a_wrong_value_for_nodes_is_answered_with_what_is_allowed() {
    refused(
        "[cluster]\nheartbeat = \"fast\"\n",
        "2: cluster.heartbeat = \"fast\": ",
        "\"100ms\"",
    );
    refused(
        "[cluster]\nheartbeat = 100\n",
        "2: cluster.heartbeat = 100: ",
        "a duration from 1ms to 1m",
    );
    refused(
        "[cluster]\nheartbeat = \"2h\"\n",
        "2: cluster.heartbeat",
        "from 1ms to 1m",
    );
    refused(
        "[cluster]\nshards = 0\n",
        "2: cluster.shards = 0: ",
        "from 1 to 256",
    );
    refused(
        "[cluster]\nshards = 257\n",
        "2: cluster.shards = 257: ",
        "from 1 to 256",
    );
    refused(
        "[cluster]\nshards = \"4\"\n",
        "2: cluster.shards = \"4\": ",
        "got a string",
    );
    refused(
        "[cluster]\nname = \"a b\"\n",
        "2: cluster.name",
        "letters, digits",
    );
    refused("[node]\nid = 0\n", "2: node.id = 0: ", "from 1 to 65535");
    refused(
        "[node]\nid = 65536\n",
        "2: node.id = 65536: ",
        "from 1 to 65535",
    );
}

#[test]
fn response_information_names_the_client_unless_that_makes_no_topic() {
    let mqtt = config("[mqtt]\nresponse_information = \"answers/%c\"\n").mqtt;
    let told = |client_id| mqtt.response_information_for(client_id);
    assert_eq!(told("a").unwrap().as_str(), "answers/a");
    assert_eq!(told("a/#"), None);
    assert_eq!(Config::default().mqtt.response_information_for("a"), None);
}

#[test]
fn memory_is_bounded_by_a_share_or_a_size_or_not_at_all() {
    let high = |text: &str| {
        config(&format!("[limits]\nmemory_high = {text}\n"))
            .limits
            .memory_high
    };
    assert_eq!(
        Config::default().limits.memory_high,
        MemoryHigh::Percent(80)
    );
    assert_eq!(high("\"7%\""), MemoryHigh::Percent(7));
    assert_eq!(high("\"2GiB\""), MemoryHigh::Bytes(2 << 30));
    assert_eq!(high("2048"), MemoryHigh::Bytes(2_048));
    assert_eq!(
        (high("0"), high("\"0\"")),
        (MemoryHigh::Off, MemoryHigh::Off)
    );
    for bad in [
        "\"0%\"", "\"101%\"", "\"%\"", "\"80 %\"", "true", "0.8", "-1",
    ] {
        let text = format!("[limits]\nmemory_high = {bad}\n");
        refused(&text, "2: limits.memory_high", "\"1%\" to \"100%\"");
    }
}

#[test]
fn a_wrong_value_for_clients_is_answered_with_what_is_allowed() {
    refused(
        "[mqtt]\nmax_packet_size = \"1MB\"\n",
        "2: mqtt.max_packet_size",
        "\"1MiB\"",
    );
    refused(
        "[mqtt]\nmax_packet_size = -5\n",
        "2: mqtt.max_packet_size = -5",
        "from 1KiB to 256MiB",
    );
    refused(
        "[mqtt]\nmax_qos = 3\n",
        "2: mqtt.max_qos = 3: ",
        "from 0 to 2",
    );
    refused(
        "[mqtt]\nresponse_information = \"a/+\"\n",
        "2: mqtt.response_information",
        "without wildcards",
    );
    refused(
        "[mqtt]\nkeep_alive_max = \"1500ms\"\n",
        "2: mqtt.keep_alive_max",
        "whole seconds",
    );
    refused(
        "[limits]\nqueue_overflow = \"drop\"\n",
        "2: limits.queue_overflow",
        "\"drop_oldest\"",
    );
    refused(
        "[auth]\nanonymous = \"yes\"\n",
        "2: auth.anonymous",
        "\"loopback\", true or false",
    );
    refused(
        "[admin]\nbind = \"localhost:80\"\n",
        "2: admin.bind = \"localhost:80\": ",
        "IP:PORT",
    );
    refused(
        "[log]\nlevel = \"loud\"\n",
        "2: log.level = \"loud\": ",
        "debug",
    );
    refused(
        "[[listener]]\nkind = \"http\"\n",
        "2: listener.0.kind",
        "\"mqtt\"",
    );
    refused(
        "mqtt = 3\n",
        "1: mqtt = 3: ",
        "expected a table, written [mqtt]",
    );
    refused(
        "[listener]\nbind = \"1.1.1.1:1\"\n",
        "1: listener",
        "written [[listener]]",
    );
}

#[test]
fn a_feature_that_is_not_built_yet_is_refused_by_its_key() {
    let missing = "not available in this version";
    for (text, key) in [
        ("[auth]\nhttp = { url = \"http://x\" }\n", "auth.http.url"),
        ("[otlp]\nsample = 1.0\n", "otlp.sample"),
    ] {
        refused(text, &format!("2: {key} = "), missing);
    }
    refused("[[bridge]]\nhost = \"x\"\n", "1: bridge = ", missing);
}

#[test]
fn off_and_the_default_of_such_a_feature_are_fine_however_written() {
    config("[sys_topics]\nenabled = false\n[admin]\nui = false\n");
    config("[auth]\nhttp = { url = \"\", cache = \"1m\" }\n");
    let environment = [
        ("HOLDFAST_OTLP__SAMPLE", "0.01"),
        ("HOLDFAST_ADMIN__UI", "false"),
    ];
    load("", &environment, &[]).unwrap();
}

#[test]
fn timeouts_must_keep_the_order_that_the_lease_needs() {
    refused(
        "[cluster]\nlease = \"2s\"\n",
        "2: cluster.lease = \"2s\": lease + quorum_lost_after",
        "node_down_after = \"5s\" (default)",
    );
    refused(
        "[cluster]\nelection_timeout = [\"1s\", \"500ms\"]\n",
        "2: cluster.election_timeout",
        "the shorter first",
    );
    refused(
        "[cluster]\nelection_timeout = [\"1s\"]\n",
        "2: cluster.election_timeout",
        "two durations",
    );
    refused(
        "[cluster]\nheartbeat = \"500ms\"\n",
        "2: cluster.heartbeat",
        "less than the shorter election_timeout",
    );
    refused(
        "[cluster]\nlease = \"100ms\"\n",
        "2: cluster.lease",
        "longer than heartbeat",
    );
}

#[test]
fn peers_must_be_one_list_of_distinct_nodes_with_this_one_in_it() {
    refused(
        "[node]\nid = 1\n[cluster]\npeers = [\"1@a:1\", \"1@b:1\"]\n",
        "4: cluster.peers",
        "1@a:1 and 1@b:1",
    );
    refused(
        "[node]\nid = 1\n[cluster]\npeers = [\"1@a:1\", \"2@a:1\"]\n",
        "4: cluster.peers",
        "an id and an address",
    );
    refused(
        "[node]\nid = 1\n[cluster]\npeers = [\"a:1\"]\n",
        "4: cluster.peers",
        "ID@HOST:PORT",
    );
    refused(
        "[node]\nid = 4\n[cluster]\npeers = [\"1@a:1\"]\n",
        "2: node.id = 4",
        "one of the ids in cluster.peers",
    );
    refused(
        "[cluster]\npeers = [\"1@a:1\"]\n",
        "2: cluster.peers",
        "node.id is missing",
    );
    let four = "[node]\nid = 1\n[cluster]\npeers = [\"1@a:1\", \"2@b:1\", \"3@c:1\", \"4@d:1\"]\n";
    refused(
        four,
        "4: cluster.peers",
        "placement of shards on a subset of nodes is not available in this version",
    );
    refused(
        "[cluster]\nlisten = \"0.0.0.0:1\"\n",
        "2: cluster.listen",
        "cluster.peers",
    );
}

#[test]
fn listeners_must_have_distinct_names_and_addresses() {
    refused(
        "[[listener]]\n[[listener]]\nname = \"second\"\n",
        "2: listener.1.bind: ",
        "missing",
    );
    refused(
        "[[listener]]\nbind=\"1.1.1.1:1\"\n[[listener]]\nbind=\"1.1.1.1:2\"\nname=\"tcp\"\n",
        "5: listener.1.name",
        "of its own",
    );
    refused(
        "[[listener]]\nbind=\"1.1.1.1:1\"\n[[listener]]\nbind=\"1.1.1.1:1\"\n",
        "4: listener.1.bind",
        "same address",
    );
    refused(
        "[[listener]]\nbind=\"127.0.0.1:8080\"\n",
        "2: listener.0.bind",
        "same address",
    );
    config(
        "[[listener]]\nbind=\"127.0.0.1:0\"\n[[listener]]\nbind=\"127.0.0.1:0\"\n[admin]\nbind=\"127.0.0.1:0\"\n",
    );
}

const TLS: &str = "[[listener]]\nkind = \"mqtts\"\ncert = \"/c\"\nkey = \"/k\"\n";

#[test]
fn a_listener_has_the_certificates_that_its_kind_needs() {
    let listener = &config(&format!(
        "{TLS}client_ca = \"/a\"\nclient_cert = \"optional\"\n"
    ))
    .listeners[0];
    assert_eq!(listener.kind, ListenerKind::Mqtts);
    let tls = listener.tls.as_ref().unwrap();
    assert_eq!(tls.client_cert, ClientCertificate::Optional);
    assert_eq!(tls.client_ca, Some(PathBuf::from("/a")));
    for kind in ["mqtts", "wss"] {
        refused(
            &format!("[[listener]]\nkind = \"{kind}\"\ncert = \"/c\"\n"),
            "2: listener.0.kind",
            "key is missing",
        );
        refused(
            &format!("[[listener]]\nkind = \"{kind}\"\nkey = \"/c\"\n"),
            "2: listener.0.kind",
            "cert is missing",
        );
    }
    for kind in ["mqtt", "ws"] {
        for (key, value) in [
            ("cert", "/c"),
            ("key", "/k"),
            ("client_ca", "/a"),
            ("client_cert", "required"),
        ] {
            refused(
                &format!("[[listener]]\nkind = \"{kind}\"\n{key} = \"{value}\"\n"),
                &format!("3: listener.0.{key}"),
                "only kinds mqtts and wss",
            );
        }
    }
    refused(
        &format!("{TLS}client_cert = \"required\"\n"),
        "5: listener.0.client_cert",
        "client_ca",
    );
    refused(
        &format!("{TLS}client_ca = \"/a\"\n"),
        "5: listener.0.client_ca",
        "client_cert = \"optional\" or \"required\"",
    );
}

#[test]
fn an_identity_needs_certificates_of_clients() {
    for from in ["cert_cn", "cert_san"] {
        refused(
            &format!("{TLS}identity_from = \"{from}\"\n"),
            "5: listener.0.identity_from",
            "client_cert = \"optional\" or \"required\"",
        );
        config(&format!(
            "{TLS}client_ca = \"/a\"\nclient_cert = \"required\"\nidentity_from = \"{from}\"\n"
        ));
    }
    // A proxy tells of the common name alone.
    let proxied = "[[listener]]\nproxy_protocol = \"v1v2\"\n";
    config(&format!("{proxied}identity_from = \"cert_cn\"\n"));
    refused(
        &format!("{proxied}identity_from = \"cert_san\"\n"),
        "3: listener.0.identity_from",
        "client_cert",
    );
    refused(
        "[[listener]]\nproxy_protocol = \"v3\"\n",
        "2: listener.0.proxy_protocol",
        "\"v1v2\"",
    );
}

#[test]
fn a_unix_listener_has_the_path_of_its_socket() {
    let unix = "[[listener]]\nkind = \"unix\"\n";
    let listener = &config(&format!("{unix}bind = \"/run/mqtt.sock\"\n")).listeners[0];
    assert_eq!(listener.bind, Bind::Path(PathBuf::from("/run/mqtt.sock")));
    assert!(listener.bind.is_loopback());
    refused(
        unix,
        "1: listener.0.bind: ",
        "missing: expected the absolute path",
    );
    for wrong in ["127.0.0.1:1883", "mqtt.sock", ""] {
        refused(
            &format!("{unix}bind = \"{wrong}\"\n"),
            "3: listener.0.bind",
            "the absolute path of a socket",
        );
    }
    refused(
        "[[listener]]\nbind = \"/run/mqtt.sock\"\n",
        "2: listener.0.bind",
        "IP:PORT",
    );
    refused(
        &format!("{unix}bind = \"/a\"\n{unix}bind = \"/a\"\n"),
        "6: listener.1.bind",
        "same address",
    );
}

#[test]
fn the_files_of_cluster_tls_belong_together() {
    let all = "[cluster.tls]\ncert = \"/c\"\nkey = \"/k\"\nca = \"/a\"\n";
    let tls = config(all).cluster.tls.unwrap();
    assert_eq!(tls.ca, PathBuf::from("/a"));
    for missing in ["cert = \"/c\"\n", "key = \"/k\"\n", "ca = \"/a\"\n"] {
        refused(
            &all.replace(missing, ""),
            "3: cluster.tls.",
            "all three or none",
        );
    }
}

#[test]
fn all_mistakes_are_reported_at_once() {
    let lines =
        problems("[mqtt]\nreceive_maximum = 0\nmax_qos = 7\nqos = 1\n[log]\nformat = \"xml\"\n");
    assert_eq!(lines.len(), 4, "{lines:#?}");
}

#[test]
fn what_is_no_toml_is_reported_by_line() {
    refused("[mqtt]\nreceive_maximum = \n", "2: not valid TOML", "");
    refused("[mqtt]\na = 1\na = 2\n", "3: not valid TOML", "duplicate");
}

#[test]
fn mistakes_in_variables_and_flags_name_them() {
    let error = load("", &[("HOLDFAST_MQTT__RECEIVE_MAXIMUM", "many")], &[])
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with(
            "environment variable HOLDFAST_MQTT__RECEIVE_MAXIMUM: mqtt.receive_maximum = \"many\""
        ),
        "{error}"
    );
    let error = load("", &[("HOLDFAST_LISTENER__1__BIND", "1.1.1.1:1")], &[])
        .unwrap_err()
        .to_string();
    assert!(error.contains("the next is listener.0"), "{error}");
    let error = load("", &[], &[("mqtt.qos", "1")]).unwrap_err().to_string();
    assert!(
        error.starts_with("command line --set mqtt.qos=1: mqtt.qos"),
        "{error}"
    );
    for key in [
        "",
        ".",
        "mqtt",
        "mqtt.receive_maximum.x",
        "listener",
        "listener.x.bind",
        "listener.0",
    ] {
        let error = load(
            "[mqtt]\nreceive_maximum = 7\n[[listener]]\n",
            &[],
            &[(key, "1")],
        )
        .unwrap_err();
        assert_eq!(lines(&error).len(), 1, "{key}: {error}");
    }
}

#[test]
fn what_is_printed_reads_back_as_the_same_configuration() {
    let environment = [
        ("HOLDFAST_NODE__ID", "2"),
        ("HOLDFAST_NODE__NAME", "true"),
        ("HOLDFAST_AUTH__ANONYMOUS", "true"),
        ("HOLDFAST_CLUSTER__ELECTION_TIMEOUT", "600ms,900ms"),
        ("HOLDFAST_LISTENER__0__BIND", "127.0.0.1:1900"),
        ("HOLDFAST_LISTENER__1__BIND", "127.0.0.1:1901"),
        ("HOLDFAST_MQTT__MAX_PACKET_SIZE", "2048"),
    ];
    let loaded = load(MEMBER, &environment, &[]).unwrap();
    for printed in [Printed::Written, Printed::Effective] {
        let text = print(&loaded.entries, printed);
        let again = load(&text, &[], &[]).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(again.config, loaded.config, "{text}");
    }
    assert!(!print(&loaded.entries, Printed::Written).contains("[storage]"));
    let single = load("", &[], &[]).unwrap();
    let text = print(&single.entries, Printed::Effective);
    assert_eq!(config(&text), single.config, "{text}");
}

mod no_input_panics {
    use proptest::prelude::*;

    use super::*;

    /// Pieces that are nearly right, so that the readers behind the parser are reached.
    fn value() -> impl Strategy<Value = String> {
        prop_oneof![
            any::<i64>().prop_map(|number| number.to_string()),
            any::<f64>().prop_map(|number| format!("{number:?}")),
            "[0-9]{0,20}(ms|s|m|h|d|B|KiB|MiB|GiB|%)?".prop_map(|text| format!("{text:?}")),
            "[0-9]{0,6}@[a-z\\[\\]:]{0,6}:[0-9]{0,6}".prop_map(|text| format!("[{text:?}]")),
            "(true|false|from-hostname|\\[|\\]|\\{\\}|off|mqtt|\"|,|=)",
            ".{0,12}",
        ]
    }

    fn key() -> impl Strategy<Value = String> {
        let known: Vec<String> = known_keys().into_iter().collect();
        prop_oneof![prop::sample::select(known), "[a-z_.0-9]{0,12}", ".{0,8}"]
    }

    proptest! {
        #[test]
        fn in_a_file(lines in prop::collection::vec((key(), value()), 0..6), noise in ".{0,20}") {
            let text: String = lines.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
            load(&text, &[], &[]).ok();
            load(&format!("{text}{noise}"), &[], &[]).ok();
            load(&text.replace(".0.", "."), &[], &[]).ok();
        }

        #[test]
        fn in_variables_and_flags(pairs in prop::collection::vec((key(), value()), 0..6)) {
            let names: Vec<(String, String)> = pairs
                .iter()
                .map(|(key, value)| (format!("HOLDFAST_{}", key.to_uppercase().replace('.', "__")), value.clone()))
                .collect();
            let environment: Vec<(&str, &str)> = names.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
            load(MEMBER, &environment, &[]).ok();
            let flags: Vec<(&str, &str)> = pairs.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
            load(MEMBER, &[], &flags).ok();
        }
    }
}

#[test]
fn an_admin_port_that_others_reach_needs_tokens() {
    refused(
        "[admin]\nbind = \"0.0.0.0:8080\"\n",
        "2: admin.bind = \"0.0.0.0:8080\": ",
        "admin.token_file is needed",
    );
    refused(
        "[admin]\nmetrics_auth = true\n",
        "2: admin.metrics_auth = true: ",
        "set admin.token_file",
    );
    let text = "[admin]\nbind = \"0.0.0.0:8080\"\ntoken_file = \"/t\"\nmetrics_auth = true\n";
    let admin = config(text).admin;
    assert_eq!(admin.token_file, Some(PathBuf::from("/t")));
    assert!(admin.metrics_auth);
    assert_eq!(
        config("[admin]\nbind = \"[::1]:8080\"\n").admin.token_file,
        None
    );
}

fn rule(text: &str) -> AclRule {
    config(&format!("[[acl]]\n{text}")).acl.remove(0)
}

#[test]
fn rules_are_read_in_order_also_from_variables() {
    let text = "[[acl]]\nwho = \"user:a-*\"\ndeny = [\"publish\"]\ntopics = [\"x/%u/#\", \"%c\"]\n[[acl]]\nwho = \"all\"\nallow = [\"subscribe\", \"publish\"]\ntopics = [\"#\"]\n";
    let rules = config(text).acl;
    assert_eq!(rules.len(), 2);
    assert_eq!(rules[0].who, Who::User("a-*".to_owned()));
    assert_eq!(rules[0].permission, Permission::Deny);
    assert!(rules[0].actions.publish && !rules[0].actions.subscribe);
    assert_eq!(rules[0].topics.len(), 2);
    assert_eq!(
        (&rules[1].who, rules[1].permission),
        (&Who::All, Permission::Allow)
    );
    assert!(rules[1].actions.publish && rules[1].actions.subscribe);
    let environment = [
        ("HOLDFAST_ACL__0__WHO", "client:x"),
        ("HOLDFAST_ACL__0__ALLOW", "publish,subscribe"),
        ("HOLDFAST_ACL__0__TOPICS", "a/#,b"),
    ];
    let loaded = load("", &environment, &[]).unwrap();
    assert_eq!(loaded.config.acl[0].who, Who::Client("x".to_owned()));
    assert_eq!(loaded.config.acl[0].topics.len(), 2);
    // What is printed reads back as the same.
    let printed = print(&load(text, &[], &[]).unwrap().entries, Printed::Effective);
    assert_eq!(config(&printed).acl, rules);
    assert_eq!(
        rule("who = \"client:c\"\nallow = [\"publish\"]\ndeny = []\ntopics = [\"a\"]").permission,
        Permission::Allow
    );
}

const RULE: &str = "who = \"all\"\nallow = [\"publish\"]\ntopics = [\"a\"]\n";

#[test]
fn a_rule_with_a_mistake_is_named() {
    let good = RULE;
    assert_eq!(rule(good).who, Who::All);
    for (text, key, problem) in [
        (
            "allow = [\"publish\"]\ntopics = [\"a\"]\n",
            "1: acl.0.who: ",
            "missing",
        ),
        (
            "who = \"all\"\nallow = [\"publish\"]\n",
            "1: acl.0.topics: ",
            "missing",
        ),
        (
            "who = \"all\"\ntopics = [\"a\"]\n",
            "1: acl.0.allow: ",
            "one of allow",
        ),
        (
            &format!("{good}deny = [\"publish\"]\n"),
            "1: acl.0.allow: ",
            "one of allow",
        ),
        (
            &good.replace("all\"", "everybody\""),
            "2: acl.0.who = ",
            "\"all\"",
        ),
        (
            &good.replace("all\"", "user:\""),
            "2: acl.0.who = ",
            "user:PATTERN",
        ),
        (
            &good.replace("all\"", "group:x\""),
            "2: acl.0.who = ",
            "auth.jwt",
        ),
    ] {
        refused(&format!("[[acl]]\n{text}"), key, problem);
    }
}

#[test]
fn a_rule_with_an_illegal_value_is_named() {
    let good = RULE;
    for (text, key, problem) in [
        (
            &good.replace("\"publish\"", "\"read\""),
            "3: acl.0.allow = ",
            "\"subscribe\"",
        ),
        (
            &good.replace("\"publish\"", "\"\""),
            "3: acl.0.allow = ",
            "\"subscribe\"",
        ),
        (
            &good.replace("\"a\"", "\"a/#/b\""),
            "4: acl.0.topics = ",
            "no Topic Filter",
        ),
        (
            &good.replace("\"a\"", "\"a+\""),
            "4: acl.0.topics = ",
            "no Topic Filter",
        ),
        (
            &good.replace("\"a\"", "\"\""),
            "4: acl.0.topics = ",
            "no Topic Filter",
        ),
        (
            &good.replace("\"a\"", "\"$share/g/a\""),
            "4: acl.0.topics = ",
            "shared",
        ),
        (
            &format!("{good}topic = \"x\"\n"),
            "5: acl.0.topic = ",
            "acl.0.topics",
        ),
    ] {
        refused(&format!("[[acl]]\n{text}"), key, problem);
    }
}

#[test]
fn groups_need_tokens() {
    let text = "[auth]\njwt = { key_file = \"/k\" }\n[[acl]]\nwho = \"group:x\"\nallow = [\"publish\"]\ntopics = [\"a\"]\n";
    let config = config(text);
    assert_eq!(config.acl[0].who, Who::Group("x".to_owned()));
    assert!(config.auth.jwt.is_configured());
}
