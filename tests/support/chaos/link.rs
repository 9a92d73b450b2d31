//! One connection, and how a client comes to one.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use codec::{Connect, Decoder, Disconnect, Packet, ProtocolVersion, ReasonCode, Utf8};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::{Phase, World};
use crate::connect::ConnectOptions;
use crate::wait::let_pass;
use crate::wire;

/// A paused container's port still accepts.
const OPENED_WITHIN: Duration = Duration::from_secs(2);
const CONNACK_WITHIN: Duration = Duration::from_secs(4);
/// Our writes are small: only a node that does not run lets them wait.
const WRITTEN_WITHIN: Duration = Duration::from_secs(4);
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// A client asks whether its node is there.
pub(super) const PING_EVERY: Duration = Duration::from_secs(1);
/// How long it waits for the answer.
pub(super) const PONG_WITHIN: Duration = Duration::from_secs(3);

/// An open connection.
#[derive(Debug)]
pub(super) struct Link {
    stream: TcpStream,
    decoder: Decoder,
    buffer: BytesMut,
    version: ProtocolVersion,
    pub(super) session_present: bool,
    /// Since when PINGRESP is awaited.
    pinged_at: Option<Instant>,
    pub(super) pings_at: Instant,
}

impl Link {
    async fn open(address: SocketAddr, connect: Connect) -> io::Result<Self> {
        let stream = timeout(OPENED_WITHIN, TcpStream::connect(address)).await??;
        stream.set_nodelay(true)?;
        let version = connect.version;
        let mut link = Self {
            stream,
            decoder: wire::decoder(version),
            buffer: BytesMut::new(),
            version,
            session_present: false,
            pinged_at: None,
            pings_at: Instant::now() + PING_EVERY,
        };
        link.send(&Packet::Connect(Box::new(connect))).await?;
        match timeout(CONNACK_WITHIN, link.recv()).await?? {
            Packet::Connack(connack) if connack.reason_code == ReasonCode::Success => {
                link.session_present = connack.session_present;
                Ok(link)
            }
            _ => Err(io::ErrorKind::ConnectionRefused.into()),
        }
    }

    pub(super) async fn send(&mut self, packet: &Packet) -> io::Result<()> {
        let bytes = wire::encode(packet, self.version);
        timeout(WRITTEN_WITHIN, self.stream.write_all(&bytes)).await?
    }

    /// The next packet that is no PINGRESP. Cancel-safe: what was read so far stays in the buffer.
    pub(super) async fn recv(&mut self) -> io::Result<Packet> {
        loop {
            match self.decoder.decode(&mut self.buffer) {
                Ok(Some(Packet::Pingresp)) => self.pinged_at = None,
                Ok(Some(packet)) => return Ok(packet),
                Ok(None) => {
                    if self.stream.read_buf(&mut self.buffer).await? == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        error.to_string(),
                    ));
                }
            }
        }
    }

    /// PINGREQ, unless the last one is not answered: then waits on, or gives up.
    pub(super) async fn ping(&mut self) -> io::Result<()> {
        self.pings_at = Instant::now() + PING_EVERY;
        match self.pinged_at {
            Some(at) if at.elapsed() > PONG_WITHIN => Err(io::ErrorKind::TimedOut.into()),
            Some(_) => Ok(()),
            None => {
                self.pinged_at = Some(Instant::now());
                self.send(&Packet::Pingreq).await
            }
        }
    }

    async fn disconnect(mut self) {
        let normal = Packet::Disconnect(Disconnect::new(ReasonCode::Success));
        // A connection that is gone meanwhile is as good.
        if self.send(&normal).await.is_ok() {
            drop(self.stream.shutdown().await);
        }
    }
}

/// Where a client is, and where it belongs.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) name: String,
    pub(super) version: ProtocolVersion,
    pub(super) home: usize,
    /// Index of the node of its newest connection.
    pub(super) node: usize,
    pub(super) homecoming: u32,
}

impl Place {
    pub(super) fn new(name: String, version: ProtocolVersion, home: usize) -> Self {
        Self {
            name,
            version,
            home,
            node: home,
            homecoming: 0,
        }
    }

    /// A connection to its own node if it is called home, to the next one that takes it otherwise;
    /// `None` when the run is over.
    pub(super) async fn connect(&mut self, world: &World) -> Option<Link> {
        loop {
            let control = *world.control.borrow();
            if control.phase == Phase::Stop {
                return None;
            }
            if control.homecoming != self.homecoming {
                self.homecoming = control.homecoming;
                self.node = self.home;
            }
            let connect = self.packet(world, false);
            match Link::open(world.addresses[self.node], connect).await {
                Ok(link) => return Some(link),
                Err(_) => self.node = (self.node + 1) % world.addresses.len(),
            }
            let_pass(RETRY_AFTER).await;
        }
    }

    /// Whether it is called to another node than the one it is at.
    pub(super) fn is_called_home(&self, world: &World) -> bool {
        world.control.borrow().homecoming != self.homecoming && self.node != self.home
    }

    fn packet(&self, world: &World, clean: bool) -> Connect {
        let options = if clean {
            ConnectOptions::transient(&*self.name, self.version)
        } else {
            ConnectOptions::persistent(&*self.name, self.version)
        };
        let mut connect = options.packet();
        if let Some((user, password)) = &world.credentials {
            connect.username = Utf8::try_from(user.as_str()).ok();
            connect.password = Some(password.clone().into());
        }
        connect
    }

    /// Ends the session, so that the cluster is left as it was.
    pub(super) async fn clear(&self, world: &World) {
        for address in world.addresses.iter() {
            if let Ok(link) = Link::open(*address, self.packet(world, true)).await {
                return link.disconnect().await;
            }
        }
    }
}
