//! What a certificate says: who it is for, and until when.

use std::io;

use tokio_rustls::rustls::pki_types::CertificateDer;
use yasna::models::ObjectIdentifier;
use yasna::tags::{TAG_GENERALIZEDTIME, TAG_IA5STRING, TAG_PRINTABLESTRING, TAG_UTF8STRING};
use yasna::{ASN1Error, ASN1ErrorKind, ASN1Result, BERReader, BERReaderSeq, Tag, parse_der};

use crate::config::IdentityFrom;

/// Longest identity, in bytes: as long as a user name can be told in a log.
const IDENTITY_BYTES_MAX: usize = 256;

/// `id-at-commonName`.
const COMMON_NAME: [u64; 4] = [2, 5, 4, 3];
/// `id-ce-subjectAltName`.
const ALTERNATIVE_NAMES: [u64; 4] = [2, 5, 29, 17];
/// Alternative names that are texts: mail, DNS, URI (RFC 5280, section 4.2.1.6).
const TEXT_NAMES: [u64; 3] = [1, 2, 6];

/// What is read of a certificate (RFC 5280, section 4.1).
#[derive(Debug)]
pub(super) struct Certificate {
    /// Who signed it, DER.
    pub(super) issuer: Vec<u8>,
    /// Since when and until when it is good, in seconds since 1970.
    pub(super) validity: (i64, i64),
    /// Whom it is for, DER.
    pub(super) subject: Vec<u8>,
    /// The common name of that.
    pub(super) common_name: Option<String>,
    /// The first alternative name that is a text.
    pub(super) alternative_name: Option<String>,
}

/// The name that a verified certificate gives its client.
///
/// # Errors
/// It has none of the wanted kind, or one with control characters.
pub(super) fn identity(certificate: &CertificateDer<'_>, from: IdentityFrom) -> io::Result<String> {
    let certificate = parse(certificate)?;
    let name = match from {
        IdentityFrom::Username => None,
        IdentityFrom::CertificateCn => certificate.common_name,
        IdentityFrom::CertificateSan => certificate.alternative_name,
    };
    name.filter(|name| is_usable(name))
        .ok_or_else(|| invalid("the client's certificate has no usable name of the wanted kind"))
}

/// A name that may stand for a user.
pub(super) fn is_usable(name: &str) -> bool {
    !name.is_empty() && name.len() <= IDENTITY_BYTES_MAX && !name.chars().any(char::is_control)
}

/// Since when and until when a certificate is good, in seconds since 1970.
///
/// # Errors
/// It is no certificate.
pub(super) fn validity(certificate: &CertificateDer<'_>) -> io::Result<(i64, i64)> {
    parse(certificate).map(|certificate| certificate.validity)
}

/// What a certificate says; whether it may say so is not looked at.
///
/// # Errors
/// It is no certificate.
pub(super) fn parse(certificate: &CertificateDer<'_>) -> io::Result<Certificate> {
    let parsed = parse_der(certificate, |reader| {
        reader.read_sequence(|reader| {
            let certificate = reader.next().read_sequence(body)?;
            // The signature, which rustls has verified where it matters.
            reader.next().read_der()?;
            reader.next().read_der()?;
            Ok(certificate)
        })
    });
    parsed.map_err(|error| invalid(&format!("not a certificate: {error}")))
}

fn body(reader: &mut BERReaderSeq<'_, '_>) -> ASN1Result<Certificate> {
    let context = Tag::context;
    reader.read_optional(|reader| reader.read_tagged(context(0), |reader| reader.read_der()))?;
    // Serial number, algorithm of the signature.
    for _ in 0..2 {
        reader.next().read_der()?;
    }
    let issuer = reader.next().read_der()?;
    let validity = reader
        .next()
        .read_sequence(|reader| Ok((time(reader.next())?, time(reader.next())?)))?;
    let subject = reader.next().read_der()?;
    let common_name = parse_der(&subject, common_name)?;
    // The public key, then two identifiers that nobody uses.
    reader.next().read_der()?;
    for number in [1, 2] {
        reader.read_optional(|reader| {
            reader.read_tagged_implicit(context(number), |reader| reader.read_bitvec_bytes())
        })?;
    }
    let alternative_name =
        reader.read_optional(|reader| reader.read_tagged(context(3), extensions))?;
    Ok(Certificate {
        issuer,
        validity,
        subject,
        common_name,
        alternative_name: alternative_name.flatten(),
    })
}

fn time(reader: BERReader<'_, '_>) -> ASN1Result<i64> {
    if reader.lookahead_tag()? == TAG_GENERALIZEDTIME {
        let time = reader.read_generalized_time()?;
        return Ok(time.datetime().unix_timestamp());
    }
    let time = reader.read_utctime()?;
    Ok(time.datetime().unix_timestamp())
}

/// The first common name of a subject.
fn common_name(reader: BERReader<'_, '_>) -> ASN1Result<Option<String>> {
    let mut common_name = None;
    reader.read_sequence_of(|reader| {
        reader.read_set_of(|reader| {
            reader.read_sequence(|reader| {
                let kind = reader.next().read_oid()?;
                let value = reader.next().read_tagged_der()?;
                let tags = [TAG_UTF8STRING, TAG_PRINTABLESTRING, TAG_IA5STRING];
                if common_name.is_none()
                    && kind == ObjectIdentifier::from_slice(&COMMON_NAME)
                    && tags.contains(&value.tag())
                {
                    common_name = Some(utf8(value.value())?);
                }
                Ok(())
            })
        })
    })?;
    Ok(common_name)
}

/// The first alternative name that is a text.
fn extensions(reader: BERReader<'_, '_>) -> ASN1Result<Option<String>> {
    let mut name = None;
    reader.read_sequence_of(|reader| {
        reader.read_sequence(|reader| {
            let kind = reader.next().read_oid()?;
            reader.read_default(false, |reader| reader.read_bool())?;
            let value = reader.next().read_bytes()?;
            if kind == ObjectIdentifier::from_slice(&ALTERNATIVE_NAMES) {
                name = parse_der(&value, alternative_name)?;
            }
            Ok(())
        })
    })?;
    Ok(name)
}

fn alternative_name(reader: BERReader<'_, '_>) -> ASN1Result<Option<String>> {
    let mut name = None;
    reader.read_sequence_of(|reader| {
        let value = reader.read_tagged_der()?;
        let is_text = TEXT_NAMES
            .iter()
            .any(|tag| Tag::context(*tag) == value.tag());
        if name.is_none() && is_text {
            name = Some(utf8(value.value())?);
        }
        Ok(())
    })?;
    Ok(name)
}

fn utf8(bytes: &[u8]) -> ASN1Result<String> {
    String::from_utf8(bytes.to_vec()).map_err(|_bytes| ASN1Error::new(ASN1ErrorKind::Invalid))
}

fn invalid(problem: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem.to_owned())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn certificate(common_name: Option<&str>, names: &[SanType]) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        if let Some(name) = common_name {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        params.subject_alt_names = names.to_vec();
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().clone()
    }

    #[test]
    fn the_name_is_the_subjects_common_name_or_the_first_alternative_name_that_is_a_text() {
        let names = [
            SanType::IpAddress([127, 0, 0, 1].into()),
            SanType::Rfc822Name("a@example.com".try_into().unwrap()),
            SanType::DnsName("b.example.com".try_into().unwrap()),
        ];
        let shown = certificate(Some("Käthe"), &names);
        let of = |from| identity(&shown, from).unwrap();
        assert_eq!(of(IdentityFrom::CertificateCn), "Käthe");
        assert_eq!(of(IdentityFrom::CertificateSan), "a@example.com");
    }

    #[test]
    fn a_certificate_without_such_a_name_names_nobody() {
        for (common_name, from) in [
            (None, IdentityFrom::CertificateCn),
            (Some(""), IdentityFrom::CertificateCn),
            (Some("a\nb"), IdentityFrom::CertificateCn),
            (Some("c"), IdentityFrom::CertificateSan),
        ] {
            let shown = certificate(common_name, &[]);
            assert!(identity(&shown, from).is_err(), "{common_name:?} {from:?}");
        }
    }
}
