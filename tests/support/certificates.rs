//! Certificates for tests: authorities, and what they sign.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};

/// Who signs certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// What a certificate says.
#[derive(Debug, Clone)]
pub struct Subject {
    /// Its common name.
    pub common_name: String,
    /// The host that it is for, as a subject alternative name, if any.
    pub host: Option<String>,
    /// The address that it is for, if any.
    pub address: Option<IpAddr>,
    /// It was good once.
    pub expired: bool,
}

impl Subject {
    /// A certificate for 127.0.0.1 and `localhost`, of this name.
    #[must_use]
    pub fn new(common_name: &str) -> Self {
        Self {
            common_name: common_name.to_owned(),
            host: Some("localhost".to_owned()),
            address: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            expired: false,
        }
    }
}

/// A certificate and its private key, as files.
#[derive(Debug, Clone)]
pub struct CertificateFiles {
    /// PEM.
    pub cert: PathBuf,
    /// PEM.
    pub key: PathBuf,
}

impl Authority {
    /// A new one.
    ///
    /// # Panics
    /// Never: the parameters are sound.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("ring makes keys");
        Self(CertifiedIssuer::self_signed(params, key).expect("the parameters are sound"))
    }

    /// Its own certificate, PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Writes its own certificate into a folder.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, folder: &Path, name: &str) -> PathBuf {
        let path = folder.join(format!("{name}.crt"));
        std::fs::write(&path, self.pem()).expect("the folder is writable");
        path
    }

    /// Signs a certificate for both sides of a connection: it, and its private key, as PEM.
    ///
    /// # Panics
    /// When the subject cannot be one.
    #[must_use]
    pub fn issue(&self, subject: &Subject) -> (String, String) {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let name = subject.common_name.as_str();
        params.distinguished_name.push(DnType::CommonName, name);
        let host = subject.host.iter().map(|host| {
            let host = host.as_str().try_into().expect("it is ASCII");
            SanType::DnsName(host)
        });
        let address = subject.address.into_iter().map(SanType::IpAddress);
        params.subject_alt_names = host.chain(address).collect();
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        if subject.expired {
            params.not_before = date_time_ymd(2001, 1, 1);
            params.not_after = date_time_ymd(2002, 1, 1);
        }
        let key = KeyPair::generate().expect("ring makes keys");
        let signed = params.signed_by(&key, &self.0).expect("it is sound");
        (signed.pem(), key.serialize_pem())
    }

    /// Signs a certificate and writes it and its key as `NAME.crt` and `NAME.key`, over what is there.
    ///
    /// # Panics
    /// When they cannot be written.
    pub fn issue_files(&self, folder: &Path, name: &str, subject: &Subject) -> CertificateFiles {
        let files = CertificateFiles {
            cert: folder.join(format!("{name}.crt")),
            key: folder.join(format!("{name}.key")),
        };
        let (cert, key) = self.issue(subject);
        std::fs::write(&files.cert, cert).expect("the folder is writable");
        std::fs::write(&files.key, key).expect("the folder is writable");
        files
    }
}
