//! A shared secret, shown by both sides of a connection without being sent.
//!
//! ```text
//! client                             server
//! HOLDFAST-PEER/1\n, nonce A   --->
//!                              <---  nonce B
//! HMAC("client", A, B)         --->
//!                              <---  HMAC("server", A, B)
//! ```
//!
//! HMAC-SHA-256 with the secret as its key. Nonces are random and used once, so that a recorded
//! handshake opens nothing; the two roles differ, so that an answer cannot be sent back as a proof.
//! The server proves itself last: a stranger learns nothing to try secrets against.

use std::fmt;
use std::io;
use std::sync::Arc;

use hmac::{Hmac, Mac};
use rand::RngCore as _;
use sha2::Sha256;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// What a connection starts with.
const GREETING: &[u8; 16] = b"HOLDFAST-PEER/1\n";
const NONCE_BYTES: usize = 32;
const PROOF_BYTES: usize = 32;
/// Fewer can be tried out by who has watched a handshake.
const SECRET_BYTES_MIN: usize = 16;

type Nonce = [u8; NONCE_BYTES];

/// What all nodes of a cluster know, and nobody else.
#[derive(Clone)]
pub struct PeerSecret(Arc<[u8]>);

impl fmt::Debug for PeerSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PeerSecret(..)")
    }
}

#[derive(Clone, Copy)]
enum Role {
    Client,
    Server,
}

impl PeerSecret {
    /// A secret of at least 16 bytes; `None` for a shorter one.
    #[must_use]
    pub fn new(secret: &[u8]) -> Option<Self> {
        (secret.len() >= SECRET_BYTES_MIN).then(|| Self(secret.into()))
    }

    /// The side that opened the connection.
    ///
    /// # Errors
    /// `InvalidData`: the server does not know the secret. Any other: the connection broke, which is
    /// also what happens to a client that does not know it.
    pub(super) async fn connect<S>(&self, mut stream: S) -> io::Result<S>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let own = nonce();
        let greeting: Vec<u8> = GREETING.iter().chain(&own).copied().collect();
        stream.write_all(&greeting).await?;
        let mut other = [0; NONCE_BYTES];
        stream.read_exact(&mut other).await?;
        let proof = self.mac(Role::Client, &own, &other)?.finalize();
        stream.write_all(&proof.into_bytes()).await?;
        let mut proof = [0; PROOF_BYTES];
        stream.read_exact(&mut proof).await?;
        self.check(Role::Server, (&own, &other), &proof)?;
        Ok(stream)
    }

    /// The side that accepted it.
    ///
    /// # Errors
    /// `InvalidData`: the client does not know the secret, or does not try to show it. Any other:
    /// the connection broke.
    pub(super) async fn accept<S>(&self, mut stream: S) -> io::Result<S>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut greeting = [0; GREETING.len()];
        stream.read_exact(&mut greeting).await?;
        if greeting != *GREETING {
            return Err(refused("it does not show a secret"));
        }
        let mut other = [0; NONCE_BYTES];
        stream.read_exact(&mut other).await?;
        let own = nonce();
        stream.write_all(&own).await?;
        let mut proof = [0; PROOF_BYTES];
        stream.read_exact(&mut proof).await?;
        self.check(Role::Client, (&other, &own), &proof)?;
        let proof = self.mac(Role::Server, &other, &own)?.finalize();
        stream.write_all(&proof.into_bytes()).await?;
        Ok(stream)
    }

    /// Compares in constant time.
    fn check(
        &self,
        role: Role,
        (client, server): (&Nonce, &Nonce),
        proof: &[u8],
    ) -> io::Result<()> {
        self.mac(role, client, server)?
            .verify_slice(proof)
            .map_err(|_wrong| refused("its secret is another one"))
    }

    fn mac(&self, role: Role, client: &Nonce, server: &Nonce) -> io::Result<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).map_err(io::Error::other)?;
        mac.update(match role {
            Role::Client => b"client",
            Role::Server => b"server",
        });
        mac.update(client);
        mac.update(server);
        Ok(mac)
    }
}

fn nonce() -> Nonce {
    let mut nonce = [0; NONCE_BYTES];
    rand::rng().fill_bytes(&mut nonce);
    nonce
}

fn refused(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    const SECRET: &[u8] = b"correct horse battery";

    async fn meet(client: &[u8], server: &[u8]) -> (io::Result<()>, io::Result<()>) {
        let (near, far) = duplex(256);
        let (client, server) = (
            PeerSecret::new(client).unwrap(),
            PeerSecret::new(server).unwrap(),
        );
        let (connected, accepted) = tokio::join!(client.connect(near), server.accept(far));
        (connected.map(drop), accepted.map(drop))
    }

    #[tokio::test]
    async fn who_knows_the_secret_is_let_in() {
        let (connected, accepted) = meet(SECRET, SECRET).await;
        assert!(connected.is_ok() && accepted.is_ok());
    }

    #[tokio::test]
    async fn another_secret_is_refused() {
        let (connected, accepted) = meet(b"another secret, as long", SECRET).await;
        assert_eq!(accepted.unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(connected.is_err());
    }

    /// A server that sends the client's proof back to it knows nothing.
    #[tokio::test]
    async fn a_proof_sent_back_proves_nothing() {
        let (near, mut far) = duplex(256);
        let echo = async {
            let mut hello = [0; GREETING.len() + NONCE_BYTES];
            far.read_exact(&mut hello).await.unwrap();
            far.write_all(&hello[GREETING.len()..]).await.unwrap();
            let mut proof = [0; PROOF_BYTES];
            far.read_exact(&mut proof).await.unwrap();
            far.write_all(&proof).await.unwrap();
        };
        let secret = PeerSecret::new(SECRET).unwrap();
        let (connected, ()) = tokio::join!(secret.connect(near), echo);
        assert_eq!(connected.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[tokio::test]
    async fn who_speaks_http_is_refused() {
        let (mut near, far) = duplex(256);
        near.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .await
            .unwrap();
        let accepted = PeerSecret::new(SECRET).unwrap().accept(far).await;
        assert_eq!(accepted.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_short_secret_is_none_and_no_secret_is_shown() {
        assert!(PeerSecret::new(b"fifteen bytes!!").is_none());
        let shown = format!("{:?}", PeerSecret::new(SECRET));
        assert_eq!(shown, "Some(PeerSecret(..))");
    }
}
