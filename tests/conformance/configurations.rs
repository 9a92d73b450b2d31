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
pub(crate) const CONFIGURATIONS: [Configuration; 4] = [
    PLAIN,
    Configuration {
        name: "closed",
        auth: "anonymous = false",
        has_barrier: false,
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
