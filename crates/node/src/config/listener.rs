//! `[[listener]]`: where clients connect, and over what.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::error::Problem;
use super::reader::{Reader, Section, text};
use super::value::{Origin, Table};

/// One `[[listener]]`. Any of them replaces the built-in one, tcp on 127.0.0.1:1883.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerConfig {
    /// `name`: label in logs and metrics, unique. Default `tcp` for the first, then `listener-N`.
    pub name: String,
    /// `kind`: what MQTT is carried by. Default `mqtt`: TCP.
    pub kind: ListenerKind,
    /// `bind`: IP:PORT, port 0 takes any free one; of a `unix` listener the path of its socket.
    /// Required but for the first, whose default is 127.0.0.1:1883: a try-out is not open to the
    /// network.
    pub bind: Bind,
    /// `max_connections`: above, new ones are closed at once, 1..10000000. Default 100000: what a
    /// node of common size serves; bounds its memory.
    pub max_connections: u32,
    /// `proxy_protocol`: every connection begins with a header of the PROXY protocol, version 1 or 2.
    /// Default off: whoever may send one is believed.
    pub proxy_protocol: bool,
    /// `cert`, `key`, `client_ca`, `client_cert`: of `mqtts` and `wss`, which need the first two.
    pub tls: Option<ListenerTls>,
    /// `identity_from`: what is taken as the client's user name. Default: that of CONNECT.
    pub identity_from: IdentityFrom,
}

/// What MQTT is carried by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerKind {
    /// `"mqtt"`: TCP.
    Mqtt,
    /// `"mqtts"`: TLS.
    Mqtts,
    /// `"ws"`: WebSocket.
    Ws,
    /// `"wss"`: WebSocket over TLS.
    Wss,
    /// `"unix"`: a Unix domain socket.
    Unix,
}

impl ListenerKind {
    /// Connections are encrypted.
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Mqtts | Self::Wss)
    }

    fn name(self) -> &'static str {
        KINDS
            .iter()
            .find(|(_, kind)| *kind == self)
            .map_or("mqtt", |(name, _)| *name)
    }
}

const KINDS: [(&str, ListenerKind); 5] = [
    ("mqtt", ListenerKind::Mqtt),
    ("mqtts", ListenerKind::Mqtts),
    ("ws", ListenerKind::Ws),
    ("wss", ListenerKind::Wss),
    ("unix", ListenerKind::Unix),
];

/// Where a listener listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bind {
    /// An address of this host.
    Ip(SocketAddr),
    /// A file that this node makes.
    Path(PathBuf),
}

impl Bind {
    /// The address, if it is one.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(*address),
            Self::Path(_) => None,
        }
    }

    /// Only this host reaches it.
    pub fn is_loopback(&self) -> bool {
        self.address()
            .is_none_or(|address| address.ip().is_loopback())
    }

    /// Two of them cannot be had at once.
    fn is_exclusive(&self) -> bool {
        self.address().is_none_or(|address| address.port() != 0)
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Path(path) => path.display().fmt(f),
        }
    }
}

/// Files and rules of a listener's TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerTls {
    /// `cert`: the certificate and those between it and a root, PEM.
    pub cert: PathBuf,
    /// `key`: its private key, PEM.
    pub key: PathBuf,
    /// `client_ca`: who signs the certificates of clients, PEM. `None`: nobody.
    pub client_ca: Option<PathBuf>,
    /// `client_cert`: whether clients show one. Default `none`.
    pub client_cert: ClientCertificate,
}

/// Whether clients show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientCertificate {
    /// `"none"`: they are not asked for one.
    None,
    /// `"optional"`: one that is shown must be good.
    Optional,
    /// `"required"`: without a good one there is no connection.
    Required,
}

/// Where a client's user name comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdentityFrom {
    /// `"username"`: CONNECT.
    Username,
    /// `"cert_cn"`: the common name of its certificate's subject.
    CertificateCn,
    /// `"cert_san"`: its certificate's first subject alternative name (DNS, mail or URI).
    CertificateSan,
}

const BUILT_IN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 1883);
const SOCKET_PATH: &str = "the absolute path of a socket such as \"/run/holdfast/mqtt.sock\"";

pub(super) fn read(reader: &mut Reader, root: &mut Table) -> Vec<ListenerConfig> {
    let mut tables = reader.list(root, "listener");
    if tables.is_empty() {
        tables.push((Origin::Default, Table::new()));
    }
    let listeners: Vec<ListenerConfig> = tables
        .into_iter()
        .enumerate()
        .filter_map(|(place, (origin, table))| listener(reader, place, origin, table))
        .collect();
    for (place, listener) in listeners.iter().enumerate() {
        if listeners
            .iter()
            .take(place)
            .any(|earlier| earlier.name == listener.name)
        {
            reader.conflict(
                &[&format!("listener.{place}.name")],
                "each listener has a name of its own",
            );
        }
        let taken = |earlier: &ListenerConfig| {
            earlier.bind == listener.bind && listener.bind.is_exclusive()
        };
        if listeners.iter().take(place).any(taken) {
            reader.conflict(
                &[&format!("listener.{place}.bind")],
                "another listener has the same address",
            );
        }
    }
    listeners
}

/// Reads one listener; `None` when it lacks what only the first may lack.
fn listener(
    reader: &mut Reader,
    place: usize,
    origin: Origin,
    table: Table,
) -> Option<ListenerConfig> {
    let mut section = reader.open(format!("listener.{place}"), table);
    let name = name(&mut section, place);
    let kind = section.choice("kind", "mqtt", &KINDS, ListenerKind::Mqtt);
    let bind_is_missing = (place > 0 || kind == ListenerKind::Unix) && !section.is_written("bind");
    let bind = bind(&mut section, kind);
    let max_connections = section.integer("max_connections", 100_000, 1..=10_000_000);
    let switch = [("off", false), ("v1v2", true)];
    let proxy_protocol = section.choice("proxy_protocol", "off", &switch, false);
    let tls = TlsAsWritten::read(&mut section);
    section.finish();
    let identity_from = tls.identity_from;
    let tls = tls.check(reader, place, kind, proxy_protocol);
    if bind_is_missing {
        let key = format!("listener.{place}.bind");
        let message = format!("missing: expected {}", expected_bind(kind));
        reader.problems.push(Problem {
            origin,
            key,
            value: None,
            message,
        });
        return None;
    }
    Some(ListenerConfig {
        name,
        kind,
        bind,
        max_connections,
        proxy_protocol,
        tls,
        identity_from,
    })
}

fn name(section: &mut Section<'_>, place: usize) -> String {
    let default = if place == 0 {
        "tcp".to_owned()
    } else {
        format!("listener-{place}")
    };
    section.parsed(
        "name",
        (default.clone(), &default),
        "1 to 32 letters, digits, '_' or '-'",
        |name| {
            let ok = (1..=32).contains(&name.len())
                && name
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
            ok.then(|| name.to_owned())
        },
    )
}

fn bind(section: &mut Section<'_>, kind: ListenerKind) -> Bind {
    let default = (Bind::Ip(BUILT_IN), "127.0.0.1:1883");
    section.parsed("bind", default, expected_bind(kind), |text| match kind {
        ListenerKind::Unix => text
            .starts_with('/')
            .then(|| Bind::Path(PathBuf::from(text))),
        ListenerKind::Mqtt | ListenerKind::Mqtts | ListenerKind::Ws | ListenerKind::Wss => {
            text.parse().ok().map(Bind::Ip)
        }
    })
}

fn expected_bind(kind: ListenerKind) -> &'static str {
    match kind {
        ListenerKind::Unix => SOCKET_PATH,
        ListenerKind::Mqtt | ListenerKind::Mqtts | ListenerKind::Ws | ListenerKind::Wss => {
            super::ADDRESS
        }
    }
}

/// Reads the path of a file; the empty one is none.
pub(super) fn file(section: &mut Section<'_>, key: &'static str) -> Option<PathBuf> {
    section.read(key, (None, "\"\"".to_owned()), |value| {
        let path = text(value, "a path")?;
        Ok((!path.is_empty()).then(|| PathBuf::from(path)))
    })
}

/// The keys of TLS before they are compared with each other.
struct TlsAsWritten {
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    client_ca: Option<PathBuf>,
    client_cert: ClientCertificate,
    identity_from: IdentityFrom,
}

impl TlsAsWritten {
    fn read(section: &mut Section<'_>) -> Self {
        let client_cert = [
            ("none", ClientCertificate::None),
            ("optional", ClientCertificate::Optional),
            ("required", ClientCertificate::Required),
        ];
        let identity_from = [
            ("username", IdentityFrom::Username),
            ("cert_cn", IdentityFrom::CertificateCn),
            ("cert_san", IdentityFrom::CertificateSan),
        ];
        Self {
            cert: file(section, "cert"),
            key: file(section, "key"),
            client_ca: file(section, "client_ca"),
            client_cert: section.choice(
                "client_cert",
                "none",
                &client_cert,
                ClientCertificate::None,
            ),
            identity_from: section.choice(
                "identity_from",
                "username",
                &identity_from,
                IdentityFrom::Username,
            ),
        }
    }

    /// What a listener of this kind has of it; complains about what does not fit together.
    fn check(
        self,
        reader: &mut Reader,
        place: usize,
        kind: ListenerKind,
        proxied: bool,
    ) -> Option<ListenerTls> {
        let asks = self.client_cert != ClientCertificate::None;
        let mut complain = |keys: &[&str], message: &str| {
            let keys: Vec<String> = keys
                .iter()
                .map(|k| format!("listener.{place}.{k}"))
                .collect();
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            reader.conflict(&keys, message);
        };
        match self.identity_from {
            IdentityFrom::Username => {}
            IdentityFrom::CertificateCn if asks || proxied => {}
            IdentityFrom::CertificateCn => complain(
                &["client_cert", "proxy_protocol", "identity_from"],
                "cert_cn needs certificates: client_cert = \"optional\" or \"required\", or a proxy that tells of them",
            ),
            IdentityFrom::CertificateSan if asks => {}
            IdentityFrom::CertificateSan => complain(
                &["client_cert", "identity_from"],
                "cert_san needs client_cert = \"optional\" or \"required\"",
            ),
        }
        if !kind.is_tls() {
            let written = [
                ("cert", self.cert.is_some()),
                ("key", self.key.is_some()),
                ("client_ca", self.client_ca.is_some()),
                ("client_cert", asks),
            ];
            for (key, is_written) in written {
                if is_written {
                    complain(&["kind", key], "only kinds mqtts and wss have it");
                }
            }
            return None;
        }
        match (asks, &self.client_ca) {
            (true, None) => complain(
                &["client_ca", "client_cert"],
                "certificates of clients need client_ca, the file of who signs them",
            ),
            (false, Some(_)) => complain(
                &["client_cert", "client_ca"],
                "with client_ca say whether clients need a certificate: client_cert = \"optional\" or \"required\"",
            ),
            (true, Some(_)) | (false, None) => {}
        }
        for (key, is_missing) in [("cert", self.cert.is_none()), ("key", self.key.is_none())] {
            if is_missing {
                let message = format!("{} needs both cert and key: {key} is missing", kind.name());
                complain(&["kind", key], &message);
            }
        }
        Some(ListenerTls {
            cert: self.cert?,
            key: self.key?,
            client_ca: self.client_ca,
            client_cert: self.client_cert,
        })
    }
}
