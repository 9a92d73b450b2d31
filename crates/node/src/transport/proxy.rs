//! The header of the PROXY protocol, version 1 or 2: whom a balancer speaks for.
//!
//! Exactly the header is read and not a byte more: what follows belongs to TLS or MQTT.

use std::io;
use std::net::{IpAddr, SocketAddr};

use ppp::{v1, v2};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::certificate::is_usable;

/// What both versions have at least: the signature of version 2, and less than the shortest line of
/// version 1.
const START_BYTES: usize = 12;
/// The signature of version 2 with its command, family and length.
const HEADER_BYTES: usize = 16;
/// The longest line of version 1.
const LINE_BYTES_MAX: usize = 107;
/// Addresses and further fields of version 2: far more than balancers send.
const FIELDS_BYTES_MAX: u16 = 4096;
/// Version 1 is a line that begins so.
const LINE_START: &[u8] = b"PROXY ";

/// `PP2_CLIENT_CERT_CONN`: the client showed a certificate on this connection.
const CERTIFICATE_SHOWN: u8 = 0x02;
/// The field of TLS: one byte of flags, and four that are 0 when the certificate was verified.
const TLS_FLAGS_BYTES: usize = 5;

/// What a header says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Announced {
    /// The client's address; `None`: the proxy speaks for itself, or does not know.
    pub(super) address: Option<SocketAddr>,
    /// The common name of the certificate that the client has shown to the proxy, which has verified it.
    pub(super) common_name: Option<String>,
}

/// Reads a header.
///
/// # Errors
/// `InvalidData`: this is none. Any other: the connection broke.
pub(super) async fn read_header(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Announced> {
    let mut bytes = vec![0; START_BYTES];
    stream.read_exact(&mut bytes).await?;
    if bytes.starts_with(v2::PROTOCOL_PREFIX) {
        read_fields(stream, &mut bytes).await?;
        parse_fields(&bytes)
    } else if bytes.starts_with(LINE_START) {
        read_line(stream, &mut bytes).await?;
        parse_line(&bytes)
    } else {
        Err(invalid("no header of the PROXY protocol"))
    }
}

async fn read_fields(stream: &mut (impl AsyncRead + Unpin), bytes: &mut Vec<u8>) -> io::Result<()> {
    let mut rest = [0; HEADER_BYTES - START_BYTES];
    stream.read_exact(&mut rest).await?;
    let [_, _, high, low] = rest;
    let length = u16::from_be_bytes([high, low]);
    if length > FIELDS_BYTES_MAX {
        return Err(invalid("a header of the PROXY protocol that is too long"));
    }
    bytes.extend_from_slice(&rest);
    let mut fields = vec![0; usize::from(length)];
    stream.read_exact(&mut fields).await?;
    bytes.append(&mut fields);
    Ok(())
}

/// Byte by byte, since only the line's end says how long it is.
async fn read_line(stream: &mut (impl AsyncRead + Unpin), bytes: &mut Vec<u8>) -> io::Result<()> {
    while !bytes.ends_with(b"\r\n") {
        if bytes.len() == LINE_BYTES_MAX {
            return Err(invalid("a line of the PROXY protocol that does not end"));
        }
        bytes.push(stream.read_u8().await?);
    }
    Ok(())
}

fn parse_line(line: &[u8]) -> io::Result<Announced> {
    let header = v1::Header::try_from(line).map_err(|error| invalid(&error.to_string()))?;
    let address = match header.addresses {
        v1::Addresses::Tcp4(addresses) => Some(SocketAddr::new(
            IpAddr::V4(addresses.source_address),
            addresses.source_port,
        )),
        v1::Addresses::Tcp6(addresses) => Some(SocketAddr::new(
            IpAddr::V6(addresses.source_address),
            addresses.source_port,
        )),
        v1::Addresses::Unknown => None,
    };
    Ok(Announced {
        address,
        common_name: None,
    })
}

fn parse_fields(bytes: &[u8]) -> io::Result<Announced> {
    let header = v2::Header::try_from(bytes).map_err(|error| invalid(&error.to_string()))?;
    if header.command == v2::Command::Local {
        // A health check of the proxy itself: what else it says does not count.
        return Ok(Announced::default());
    }
    if header.protocol == v2::Protocol::Datagram {
        return Err(invalid("a header of the PROXY protocol for datagrams"));
    }
    let address = match header.addresses {
        v2::Addresses::IPv4(addresses) => Some(SocketAddr::new(
            IpAddr::V4(addresses.source_address),
            addresses.source_port,
        )),
        v2::Addresses::IPv6(addresses) => Some(SocketAddr::new(
            IpAddr::V6(addresses.source_address),
            addresses.source_port,
        )),
        v2::Addresses::Unspecified | v2::Addresses::Unix(_) => None,
    };
    let mut common_name = None;
    for field in header.tlvs() {
        let field = field.map_err(|error| invalid(&error.to_string()))?;
        if field.kind == v2::Type::SSL as u8 {
            common_name = verified_common_name(&field.value)?;
        }
    }
    Ok(Announced {
        address,
        common_name,
    })
}

/// The field of TLS holds flags, whether the certificate was verified, and fields of its own.
fn verified_common_name(field: &[u8]) -> io::Result<Option<String>> {
    let Some((flags, fields)) = field.split_at_checked(TLS_FLAGS_BYTES) else {
        return Err(invalid("a field of the PROXY protocol that is cut off"));
    };
    let [client, verified @ ..] = flags else {
        return Ok(None);
    };
    let is_verified = client & CERTIFICATE_SHOWN != 0 && verified.iter().all(|byte| *byte == 0);
    let mut common_name = None;
    for field in v2::TypeLengthValues::from(fields) {
        let field = field.map_err(|error| invalid(&error.to_string()))?;
        if field.kind == v2::Type::SSLCommonName as u8 {
            common_name = String::from_utf8(field.value.into_owned()).ok();
        }
    }
    Ok(common_name.filter(|name| is_verified && is_usable(name)))
}

fn invalid(problem: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a header that is followed by the start of a CONNECT.
    async fn read(header: &[u8]) -> io::Result<Announced> {
        let mut bytes = header.to_vec();
        bytes.extend_from_slice(b"\x10\x0C");
        let mut stream = bytes.as_slice();
        let announced = read_header(&mut stream).await;
        if announced.is_ok() {
            assert_eq!(stream, b"\x10\x0C", "what follows is left alone");
        }
        announced
    }

    fn version_2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut header = v2::PROTOCOL_PREFIX.to_vec();
        header.extend([command, family]);
        header.extend(u16::try_from(rest.len()).unwrap().to_be_bytes());
        header.extend(rest);
        header
    }

    fn field(kind: u8, value: &[u8]) -> Vec<u8> {
        let mut field = vec![kind];
        field.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
        field.extend(value);
        field
    }

    const ADDRESSES: [u8; 12] = [192, 0, 2, 7, 10, 0, 0, 1, 0x30, 0x39, 0x07, 0x5B];

    fn with_certificate(flags: u8, verified: u8, name: &[u8]) -> Vec<u8> {
        let mut tls = vec![flags, 0, 0, 0, verified];
        tls.extend(field(0x21, b"TLSv1.3"));
        tls.extend(field(0x22, name));
        let rest = [ADDRESSES.as_slice(), &field(0x20, &tls)].concat();
        version_2(0x21, 0x11, &rest)
    }

    fn address(text: &str) -> Announced {
        Announced {
            address: Some(text.parse().unwrap()),
            common_name: None,
        }
    }

    #[tokio::test]
    async fn both_versions_tell_the_address_of_the_client() {
        let line = b"PROXY TCP4 192.0.2.7 10.0.0.1 12345 1883\r\n";
        assert_eq!(read(line).await.unwrap(), address("192.0.2.7:12345"));
        let line = b"PROXY TCP6 2001:db8::7 2001:db8::1 12345 1883\r\n";
        assert_eq!(read(line).await.unwrap(), address("[2001:db8::7]:12345"));
        let header = version_2(0x21, 0x11, &ADDRESSES);
        assert_eq!(read(&header).await.unwrap(), address("192.0.2.7:12345"));
    }

    #[tokio::test]
    async fn a_proxy_may_speak_for_itself() {
        for header in [
            b"PROXY UNKNOWN\r\n".to_vec(),
            b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(),
            version_2(0x20, 0x00, &[]),
            version_2(0x20, 0x11, &ADDRESSES),
            version_2(0x21, 0x00, &[]),
        ] {
            assert_eq!(read(&header).await.unwrap(), Announced::default());
        }
    }

    #[tokio::test]
    async fn only_a_verified_certificate_gives_a_name() {
        let name = |header: Vec<u8>| async move { read(&header).await.unwrap().common_name };
        let shown = name(with_certificate(0x07, 0, b"alice")).await;
        assert_eq!(shown.as_deref(), Some("alice"));
        assert_eq!(name(with_certificate(0x07, 1, b"alice")).await, None);
        assert_eq!(name(with_certificate(0x01, 0, b"alice")).await, None);
        assert_eq!(name(with_certificate(0x07, 0, b"a\0b")).await, None);
        assert_eq!(name(with_certificate(0x07, 0, b"\xFF")).await, None);
    }

    #[tokio::test]
    async fn whatever_is_no_header_is_refused() {
        let endless = [b"PROXY TCP4 ".as_slice(), &[b'1'; 200]].concat();
        let cut_off = [ADDRESSES.as_slice(), &[0x20, 0, 9, 1]].concat();
        for header in [
            b"\x10\x0C\x00\x04MQTT\x05\x02\x00\x3C\x00\x00".to_vec(),
            b"PROXY TCP4 192.0.2.300 10.0.0.1 1 2\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.3\r\n".to_vec(),
            b"PROXY UDP4 192.0.2.3 10.0.0.1 1 2\r\n".to_vec(),
            endless,
            version_2(0x31, 0x11, &ADDRESSES),
            version_2(0x22, 0x11, &ADDRESSES),
            version_2(0x21, 0x12, &ADDRESSES),
            version_2(0x21, 0x21, &ADDRESSES),
            version_2(0x21, 0x11, &cut_off),
            version_2(0x21, 0x11, &[0; 5000]),
        ] {
            let error = read(&header).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{header:02X?}");
        }
    }
}
