//! TLS: who is let in and as whom, and certificates that change.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use codec::ReasonCode;
use testkit::certificates::{Authority, CertificateFiles, Subject};
use testkit::connect::ConnectError;
use testkit::ports::Port;
use testkit::{Client, Cluster, wait_until};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion, version};

use super::{IN_TIME, exchange, expect_rejected, listener, node, node_with, transient};

/// An authority, and a certificate of the server that it has signed.
pub(crate) struct Files {
    folder: PathBuf,
    pub(crate) authority: Authority,
    pub(crate) ca: PathBuf,
    server: CertificateFiles,
}

impl Files {
    pub(crate) fn new(folder: &Path) -> Self {
        let authority = Authority::new("test authority");
        Self {
            ca: authority.write(folder, "ca"),
            server: authority.issue_files(folder, "server", &Subject::new("server")),
            folder: folder.to_owned(),
            authority,
        }
    }

    /// The lines of a listener.
    pub(crate) fn server(&self) -> String {
        let CertificateFiles { cert, key } = &self.server;
        format!(
            "cert = \"{}\"\nkey = \"{}\"\n",
            cert.display(),
            key.display()
        )
    }

    /// The lines of a listener that wants certificates of clients.
    pub(crate) fn mutual(&self, client_cert: &str, identity_from: &str) -> String {
        format!(
            "{}client_ca = \"{}\"\nclient_cert = \"{client_cert}\"\nidentity_from = \"{identity_from}\"\n",
            self.server(),
            self.ca.display()
        )
    }
}

/// A client that trusts `authority`, and shows what `identity` has signed for it.
pub(crate) fn connector(
    authority: &Authority,
    identity: Option<(String, String)>,
    versions: &[&'static SupportedProtocolVersion],
) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap();
    roots.add(ca).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    let config = match identity {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let chain = CertificateDer::pem_slice_iter(cert.as_bytes());
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            let chain = chain.collect::<Result<_, _>>().unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    TlsConnector::from(Arc::new(config))
}

pub(crate) const BOTH: [&SupportedProtocolVersion; 2] = [&version::TLS12, &version::TLS13];

pub(crate) async fn encrypt(
    connector: &TlsConnector,
    stream: TcpStream,
    host: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(host.to_owned()).unwrap();
    connector.connect(name, stream).await
}

async fn connect(
    cluster: &Cluster,
    port: &Port,
    connector: &TlsConnector,
    client_id: &str,
) -> Result<Client, ConnectError> {
    let broken = |error: std::io::Error| ConnectError::Closed(error.to_string());
    let stream = TcpStream::connect(port.address()).await.map_err(broken)?;
    let stream = encrypt(connector, stream, "localhost")
        .await
        .map_err(broken)?;
    let options = transient(client_id);
    let named = (client_id, options.version);
    let client = Client::over(stream, port.address(), named, cluster.history());
    client.introduce(&options).await
}

#[tokio::test]
async fn a_client_over_tls_is_a_client_like_any_other() {
    let folder = tempfile::tempdir().unwrap();
    let (files, port) = (Files::new(folder.path()), Port::reserve());
    let name = "a_client_over_tls_is_a_client_like_any_other";
    let cluster = node(name, listener("mqtts", &port, &files.server())).await;
    for versions in [&BOTH[..1], &BOTH[1..]] {
        let connector = connector(&files.authority, None, versions);
        let mut over_tls = connect(&cluster, &port, &connector, "tls").await.unwrap();
        let mut over_tcp = Client::connect(cluster.mqtt(1), &transient("tcp"), cluster.history())
            .await
            .unwrap();
        exchange(&mut over_tls, &mut over_tcp).await;
        exchange(&mut over_tcp, &mut over_tls).await;
        over_tls.disconnect().await;
    }
}

/// What the server shows is what a client checks: its authority, its name.
#[tokio::test]
async fn a_client_finds_out_that_a_server_is_not_the_one() {
    let folder = tempfile::tempdir().unwrap();
    let (files, port) = (Files::new(folder.path()), Port::reserve());
    let name = "a_client_finds_out_that_a_server_is_not_the_one";
    let cluster = node(name, listener("mqtts", &port, &files.server())).await;
    let stranger = connector(&Authority::new("stranger"), None, &BOTH);
    let refused = connect(&cluster, &port, &stranger, "a").await.unwrap_err();
    assert!(
        format!("{refused:?}").contains("UnknownIssuer"),
        "{refused:?}"
    );
    expect_rejected(&cluster, "mqtts", "tls", 1).await;
    let stream = TcpStream::connect(port.address()).await.unwrap();
    let connector = connector(&files.authority, None, &BOTH);
    let refused = encrypt(&connector, stream, "example.com")
        .await
        .unwrap_err();
    assert!(
        format!("{refused:?}").contains("NotValidForName"),
        "{refused:?}"
    );
    expect_rejected(&cluster, "mqtts", "tls", 2).await;
}

#[tokio::test]
async fn who_is_not_let_in_by_certificate_is_refused_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let (files, port) = (Files::new(folder.path()), Port::reserve());
    let name = "who_is_not_let_in_by_certificate_is_refused_and_counted";
    let lines = files.mutual("required", "cert_cn");
    let cluster = node_with(name, listener("mqtts", &port, &lines), "anonymous = false").await;
    let good = Some(files.authority.issue(&Subject::new("sensor-1")));
    let good = connector(&files.authority, good, &BOTH);
    // The certificate says who it is: nothing else is asked for.
    let mut client = connect(&cluster, &port, &good, "good").await.unwrap();
    let other = Authority::new("test authority");
    let expired = Subject {
        expired: true,
        ..Subject::new("sensor-1")
    };
    let bad = [
        ("no certificate", None),
        (
            "another authority of the same name",
            Some(other.issue(&Subject::new("sensor-1"))),
        ),
        ("expired", Some(files.authority.issue(&expired))),
        ("no name", Some(files.authority.issue(&Subject::new("")))),
    ];
    for ((what, identity), times) in bad.into_iter().zip(1..) {
        let connector = connector(&files.authority, identity, &BOTH);
        let refused = connect(&cluster, &port, &connector, "bad").await;
        assert!(matches!(refused, Err(ConnectError::Closed(_))), "{what}");
        expect_rejected(&cluster, "mqtts", "tls", times).await;
    }
    client.ping_barrier().await;
}

/// Without a certificate a client of such a listener has no name, and is nobody.
#[tokio::test]
async fn a_certificate_that_may_be_left_out_must_be_good_if_it_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let (files, port) = (Files::new(folder.path()), Port::reserve());
    let name = "a_certificate_that_may_be_left_out_must_be_good_if_it_is_there";
    let lines = files.mutual("optional", "cert_san");
    let cluster = node_with(name, listener("mqtts", &port, &lines), "anonymous = false").await;
    let identity = |authority: &Authority| Some(authority.issue(&Subject::new("sensor-1")));
    let good = connector(&files.authority, identity(&files.authority), &BOTH);
    connect(&cluster, &port, &good, "good").await.unwrap();
    let none = connector(&files.authority, None, &BOTH);
    match connect(&cluster, &port, &none, "none").await {
        Err(ConnectError::Refused(connack)) => {
            assert_eq!(connack.reason_code, ReasonCode::NotAuthorized);
        }
        other => panic!("{other:?}"),
    }
    let bad = connector(&files.authority, identity(&Authority::new("b")), &BOTH);
    let refused = connect(&cluster, &port, &bad, "bad").await;
    assert!(matches!(refused, Err(ConnectError::Closed(_))));
    expect_rejected(&cluster, "mqtts", "tls", 1).await;
}

/// The certificate that new connections are shown.
async fn shown(port: &Port, connector: &TlsConnector) -> Vec<u8> {
    let stream = TcpStream::connect(port.address()).await.unwrap();
    let stream = encrypt(connector, stream, "localhost").await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

async fn sample(cluster: &Cluster, name: &str, label: (&str, &str)) -> f64 {
    let samples = cluster.metrics(1).await;
    let mut wanted = samples
        .iter()
        .filter(|sample| sample.name == name && sample.labels[label.0] == label.1);
    wanted.next().map_or(0.0, |sample| sample.value)
}

#[tokio::test]
async fn a_new_certificate_is_shown_to_new_connections_and_open_ones_stay() {
    let folder = tempfile::tempdir().unwrap();
    let (files, port) = (Files::new(folder.path()), Port::reserve());
    let name = "a_new_certificate_is_shown_to_new_connections_and_open_ones_stay";
    let cluster = node(name, listener("mqtts", &port, &files.server())).await;
    let connector = connector(&files.authority, None, &BOTH);
    let mut open = connect(&cluster, &port, &connector, "open").await.unwrap();
    let first = shown(&port, &connector).await;
    let expires = ("listener", "mqtts");
    let expires = async || {
        sample(
            &cluster,
            "holdfast_tls_certificate_expiry_timestamp_seconds",
            expires,
        )
        .await
    };
    let first_expires = expires().await;
    assert!(first_expires > 1.7e9, "{first_expires}");

    // Not a pair: what is there before the second file is written.
    std::fs::write(&files.server.cert, "this is no certificate").unwrap();
    let reloads = async |result: &'static str| {
        sample(&cluster, "holdfast_tls_reloads_total", ("result", result)).await
    };
    wait_until("the broken file is seen", IN_TIME, async || {
        reloads("failed").await >= 1.0
    })
    .await;
    assert_eq!(shown(&port, &connector).await, first);
    assert!(cluster.node_log(1).contains("the old one stays in use"));

    let subject = Subject::new("the second one");
    files
        .authority
        .issue_files(&files.folder, "server", &subject);
    wait_until("the new certificate is shown", IN_TIME, async || {
        shown(&port, &connector).await != first
    })
    .await;
    assert!(reloads("reloaded").await >= 1.0);
    open.ping_barrier().await;
}

#[tokio::test]
async fn a_node_does_not_start_with_a_certificate_that_is_of_no_use() {
    let folder = tempfile::tempdir().unwrap();
    let (files, port) = (Files::new(folder.path()), Port::reserve());
    std::fs::copy(&files.ca, &files.server.cert).unwrap();
    let CertificateFiles { cert, key } = &files.server;
    let run = |settings: [String; 4]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command.current_dir(folder.path());
        command.args(["run", "--set", "admin.bind=127.0.0.1:0"]);
        for setting in settings {
            command.arg("--set").arg(setting);
        }
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8(output.stderr).unwrap()
    };
    let settings = |cert: &Path| {
        [
            format!("listener.0.bind={}", port.address()),
            "listener.0.kind=mqtts".to_owned(),
            format!("listener.0.cert={}", cert.display()),
            format!("listener.0.key={}", key.display()),
        ]
    };
    let said = run(settings(cert));
    assert!(said.contains("listener.0.cert = "), "{said}");
    let said = run(settings(Path::new("/nowhere/tls.crt")));
    assert!(said.contains("/nowhere/tls.crt"), "{said}");
    assert!(said.contains("No such file"), "{said}");
}
