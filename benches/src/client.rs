//! One client: connects, plays its role, and connects elsewhere when the connection is lost.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use codec::{Connack, Connect, Disconnect, Packet, ProtocolVersion, ReasonCode};
use tokio::time::sleep;

use crate::connection::{Connection, Output};
use crate::shared::Shared;

/// Between two attempts to connect.
const RETRY: Duration = Duration::from_millis(20);

/// What a client does on its connection.
pub trait Role {
    /// The connection stands; what was under way on the one before goes on.
    fn on_connected(&mut self, connack: &Connack, output: &mut Output);

    /// # Errors
    /// The server must not send this.
    fn on_packet(&mut self, packet: Packet, now_ns: u64, output: &mut Output) -> io::Result<()>;

    /// Called after each batch of packets and each wake-up: appends what may be sent now.
    fn fill(&mut self, now_ns: u64, output: &mut Output);

    /// Whether it is to be without a connection for a while. Its session stays.
    fn is_away(&self) -> bool;
}

/// A client and where it may connect.
#[derive(Debug)]
pub struct Client<R> {
    /// Index for wake-ups.
    pub index: usize,
    /// Tried in turn, beginning at `next_endpoint`.
    pub endpoints: Vec<SocketAddr>,
    /// Index of the next one.
    pub next_endpoint: usize,
    /// Sent first on each connection.
    pub connect: Connect,
    /// What it does.
    pub role: R,
    /// The run.
    pub shared: Rc<Shared>,
}

impl<R: Role> Client<R> {
    /// Plays until the run is finishing; returns what the role remembers.
    pub async fn run(mut self) -> R {
        while !self.shared.finishing.get() {
            if self.role.is_away() {
                sleep(RETRY).await;
                continue;
            }
            let (mut connection, connack) = match self.open().await {
                Ok(opened) => opened,
                Err(error) => {
                    self.shared.note_error(&error);
                    sleep(RETRY).await;
                    continue;
                }
            };
            self.shared.connected.set(self.shared.connected.get() + 1);
            self.role.on_connected(&connack, &mut connection.output);
            let ended = poll_fn(|cx| self.poll(&mut connection, cx)).await;
            self.shared.connected.set(self.shared.connected.get() - 1);
            match ended {
                Ok(()) => self.close(connection).await,
                Err(error) => self.shared.note_loss(&error),
            }
        }
        self.role
    }

    async fn open(&mut self) -> io::Result<(Connection, Connack)> {
        Connection::open(self.endpoint(), &self.connect).await
    }

    fn is_persistent(&self) -> bool {
        !self.connect.clean_start
    }

    fn endpoint(&mut self) -> SocketAddr {
        let count = self.endpoints.len().max(1);
        let endpoint = self.endpoints.get(self.next_endpoint % count);
        self.next_endpoint += 1;
        endpoint
            .copied()
            .unwrap_or_else(|| ([127, 0, 0, 1], 1_883).into())
    }

    /// Ready when the client is to leave, or with the error that ended the connection.
    fn poll(&mut self, connection: &mut Connection, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared.register(self.index, cx.waker());
        loop {
            match connection.poll_read(cx) {
                Poll::Ready(Ok(())) => self.on_bytes(connection)?,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => break,
            }
        }
        self.role.fill(self.shared.now_ns(), &mut connection.output);
        match connection.poll_flush(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) if self.shared.finishing.get() || self.role.is_away() => {
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        }
    }

    fn on_bytes(&mut self, connection: &mut Connection) -> io::Result<()> {
        let now_ns = self.shared.now_ns();
        while let Some(packet) = connection.next_packet()? {
            self.role
                .on_packet(packet, now_ns, &mut connection.output)?;
        }
        Ok(())
    }

    /// Says good-bye; at the end of the run no session stays behind.
    async fn close(&mut self, mut connection: Connection) {
        let is_over = self.shared.finishing.get();
        let is_v5 = self.connect.version == ProtocolVersion::V5;
        let disconnect = Disconnect {
            session_expiry_interval: (is_v5 && is_over && self.is_persistent()).then_some(0),
            ..Disconnect::new(ReasonCode::Success)
        };
        connection.output.push(&Packet::Disconnect(disconnect));
        // A connection that is lost meanwhile is closed as well.
        let _closed = connection.flush().await;
        if is_over && !is_v5 && self.is_persistent() {
            let clean = Connect {
                clean_start: true,
                ..self.connect.clone()
            };
            let _cleaned = Connection::open(self.endpoint(), &clean).await;
        }
    }
}
