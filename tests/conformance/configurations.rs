//! The named configurations: brokers that a script needs to be configured otherwise.

/// A broker's configuration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Configuration {
    /// As scripts name it.
    pub(crate) name: &'static str,
    /// Lines of `[limits]`, and whole sections after it.
    pub(crate) limits: &'static str,
    /// Lines of `[auth]`.
    pub(crate) auth: &'static str,
    /// Whether plain clients stay connected, as the barrier's must.
    pub(crate) has_barrier: bool,
}

const PLAIN: Configuration = Configuration {
    name: "",
    limits: "",
    auth: "anonymous = \"loopback\"",
    has_barrier: true,
};

/// All of them; the first is the default.
pub(crate) const CONFIGURATIONS: [Configuration; 7] = [
    PLAIN,
    // The same, but nothing that other scripts retained is there.
    Configuration {
        name: "fresh",
        ..PLAIN
    },
    Configuration {
        name: "closed",
        auth: "anonymous = false",
        has_barrier: false,
        ..PLAIN
    },
    // The user is "user", the password "pencil".
    Configuration {
        name: "scram",
        auth: "anonymous = \"loopback\"\nscram_file = \"{conformance}/scram_file\"",
        ..PLAIN
    },
    Configuration {
        name: "small",
        limits: "\
queue_max_messages = 2
retained_max_bytes = \"1KiB\"

[mqtt]
receive_maximum = 2
subscriptions_max = 2
",
        ..PLAIN
    },
    Configuration {
        name: "tight",
        limits: "\
[mqtt]
max_packet_size = \"1KiB\"
keep_alive_max = \"2s\"
session_expiry_max = \"2s\"
topic_alias_maximum = 0
receive_maximum = 2
connect_timeout = \"2s\"
",
        has_barrier: false,
        ..PLAIN
    },
    Configuration {
        name: "features_off",
        limits: "\
[mqtt]
retain_available = false
shared_subscriptions = false
wildcard_subscriptions = false
max_qos = 1
",
        ..PLAIN
    },
];

/// The configuration of a name; none: the default.
pub(crate) fn named(name: Option<&str>) -> Option<Configuration> {
    let name = name.unwrap_or("");
    CONFIGURATIONS
        .into_iter()
        .find(|configuration| configuration.name == name)
}
