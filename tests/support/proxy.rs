//! A TCP proxy between a client and a server, or between two nodes, that does to a connection what
//! networks do: let bytes stand in one direction or both (a half-open connection), delay them, let
//! them through slowly, cut it, refuse it. Switched at any time, also for connections that are open.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::wait::{let_pass, let_pass_until};

/// Bytes that wait in one direction of one connection; beyond that nothing is read.
const QUEUE_BYTES_MAX: usize = 256 * 1024;
/// Read at once.
const CHUNK_BYTES_MAX: usize = 16 * 1024;
/// Connections that the system holds for the proxy.
const BACKLOG: u32 = 256;
/// Until an address that is ours can be used again.
const FREE_WITHIN: Duration = Duration::from_secs(10);

/// What happens to bytes in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// They go through.
    Pass,
    /// They wait, and so does the end of the connection: for the other side it is half open.
    Stall,
    /// They go through this much later.
    Delay(Duration),
    /// They go through at this many bytes per second.
    Rate(u32),
}

/// A direction, seen from who opened the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To the server.
    There,
    /// From the server.
    Back,
}

/// What happens to all connections of one kind, e.g. from one node to another. Clones are the same
/// link.
#[derive(Debug, Clone)]
pub struct Link(Arc<LinkState>);

#[derive(Debug)]
struct LinkState {
    there: watch::Sender<Mode>,
    back: watch::Sender<Mode>,
    /// Counts the cuts.
    cuts: watch::Sender<u64>,
    refuses: AtomicBool,
}

impl Default for Link {
    fn default() -> Self {
        Self(Arc::new(LinkState {
            there: watch::Sender::new(Mode::Pass),
            back: watch::Sender::new(Mode::Pass),
            cuts: watch::Sender::new(0),
            refuses: AtomicBool::new(false),
        }))
    }
}

impl Link {
    /// From now on.
    pub fn set(&self, way: Way, mode: Mode) {
        self.mode(way).send_replace(mode);
    }

    /// Resets all connections that are open. New ones are accepted unless [`refuse`](Self::refuse)
    /// was called.
    pub fn cut(&self) {
        self.0.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// From now on new connections are reset, or accepted again.
    pub fn refuse(&self, refuses: bool) {
        self.0.refuses.store(refuses, Ordering::SeqCst);
    }

    /// Everything passes again.
    pub fn heal(&self) {
        self.refuse(false);
        self.set(Way::There, Mode::Pass);
        self.set(Way::Back, Mode::Pass);
    }

    fn mode(&self, way: Way) -> &watch::Sender<Mode> {
        match way {
            Way::There => &self.0.there,
            Way::Back => &self.0.back,
        }
    }
}

/// Which link a connection belongs to, by the address that it comes from; `None` resets it.
type Choose = dyn Fn(SocketAddr) -> Option<Link> + Send + Sync;

/// A running proxy; ends when dropped.
pub struct Proxy {
    address: SocketAddr,
    listens: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({})", self.address)
    }
}

impl Proxy {
    /// Listens on a port of its own; all connections to `target` belong to `link`.
    ///
    /// # Panics
    /// When loopback can't be used.
    #[must_use]
    pub fn start(target: SocketAddr, link: &Link) -> Self {
        let link = link.clone();
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self::start_at(any, target, move |_| Some(link.clone()))
    }

    /// Listens at `address`; `choose` says which link a connection belongs to, by its origin.
    ///
    /// # Panics
    /// When it can't listen there.
    #[must_use]
    pub fn start_at(
        address: SocketAddr,
        target: SocketAddr,
        choose: impl Fn(SocketAddr) -> Option<Link> + Send + Sync + 'static,
    ) -> Self {
        let listener =
            listen(address).unwrap_or_else(|error| panic!("cannot listen at {address}: {error}"));
        let address = listener.local_addr().expect("it is bound");
        let (listens, watched) = watch::channel(true);
        let choose: Arc<Choose> = Arc::new(choose);
        let task = tokio::spawn(run(listener, watched, target, choose));
        Self {
            address,
            listens,
            task,
        }
    }

    /// Where to connect instead of to the target.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether there is anybody at this address: while there is not, the system refuses connections.
    pub fn listen(&self, listens: bool) {
        self.listens.send_replace(listens);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// A process that is just being started holds our sockets for a moment, also one that we closed.
async fn listen_again(address: SocketAddr) -> TcpListener {
    let deadline = Instant::now() + FREE_WITHIN;
    loop {
        match listen(address) {
            Ok(listener) => return listener,
            Err(error) => assert!(Instant::now() < deadline, "{address} is not free: {error}"),
        }
        let_pass(Duration::from_millis(5)).await;
    }
}

async fn run(
    listener: TcpListener,
    mut listens: watch::Receiver<bool>,
    target: SocketAddr,
    choose: Arc<Choose>,
) {
    let address = listener.local_addr().expect("it is bound");
    let mut listener = Some(listener);
    loop {
        let is_wanted = *listens.borrow_and_update();
        match (is_wanted, &listener) {
            (true, None) => listener = Some(listen_again(address).await),
            (false, Some(_)) => listener = None,
            (true, Some(_)) | (false, None) => {}
        }
        let accepted = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            accepted = accepted => if let Ok((client, origin)) = accepted {
                drop(tokio::spawn(serve(client, origin, target, Arc::clone(&choose))));
            },
            changed = listens.changed() => if changed.is_err() {
                return;
            },
        }
    }
}

async fn serve(client: TcpStream, origin: SocketAddr, target: SocketAddr, choose: Arc<Choose>) {
    let link = match choose(origin) {
        Some(link) if !link.0.refuses.load(Ordering::SeqCst) => link,
        Some(_) | None => return reset(client),
    };
    let mut cuts = link.0.cuts.subscribe();
    let mut there = link.0.there.subscribe();
    let connected = async {
        // While nothing goes there, no connection does.
        drop(there.wait_for(|mode| *mode != Mode::Stall).await);
        TcpStream::connect(target).await
    };
    let server = tokio::select! {
        connected = connected => match connected {
            Ok(server) => server,
            Err(_) => return reset(client),
        },
        _ = cuts.changed() => return reset(client),
    };
    for stream in [&client, &server] {
        // Only makes it faster.
        drop(stream.set_nodelay(true));
    }
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    let pumps = async {
        tokio::join!(
            pump(client_read, server_write, link.0.there.subscribe()),
            pump(server_read, client_write, link.0.back.subscribe()),
        )
    };
    tokio::select! {
        ((), ()) = pumps => {}
        // What is dropped with bytes unread is reset by the system; both sides see an end.
        _ = cuts.changed() => {}
    }
}

/// Closes with RST.
fn reset(stream: TcpStream) {
    // If it fails, the peer sees FIN.
    drop(stream.set_zero_linger());
}

/// Carries bytes from one side to the other, then the end.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut mode: watch::Receiver<Mode>) {
    let mut queue = Queue::default();
    let mut buffer = BytesMut::with_capacity(CHUNK_BYTES_MAX);
    loop {
        let now = *mode.borrow_and_update();
        let moves = now != Mode::Stall;
        if queue.is_over() && moves {
            // The peer may be gone already.
            drop(to.shutdown().await);
            return;
        }
        let due = queue.due().filter(|_| moves);
        tokio::select! {
            read = from.read_buf(&mut buffer), if moves && queue.has_room() => match read {
                Ok(0) | Err(_) => queue.ended = true,
                Ok(_) => queue.push(buffer.split().freeze(), now),
            },
            () = let_pass_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                if let Some(chunk) = queue.pop()
                    && to.write_all(&chunk).await.is_err()
                {
                    return;
                }
            }
            changed = mode.changed() => if changed.is_err() {
                return;
            },
        }
    }
}

/// Bytes under way.
#[derive(Debug, Default)]
struct Queue {
    chunks: VecDeque<(Instant, Bytes)>,
    bytes: usize,
    ended: bool,
    last: Option<Instant>,
}

impl Queue {
    fn has_room(&self) -> bool {
        !self.ended && self.bytes < QUEUE_BYTES_MAX
    }

    fn is_over(&self) -> bool {
        self.ended && self.chunks.is_empty()
    }

    fn due(&self) -> Option<Instant> {
        self.chunks.front().map(|(due, _)| *due)
    }

    fn push(&mut self, chunk: Bytes, mode: Mode) {
        let now = Instant::now();
        // Never before what came before it.
        let free = self.last.unwrap_or(now).max(now);
        let due = match mode {
            Mode::Pass | Mode::Stall => now,
            Mode::Delay(delay) => now + delay,
            Mode::Rate(bytes_per_s) => {
                let length = u32::try_from(chunk.len()).unwrap_or(u32::MAX);
                free + Duration::from_secs(1) * length / bytes_per_s.max(1)
            }
        };
        let due = due.max(self.last.unwrap_or(due));
        self.last = Some(due);
        self.bytes += chunk.len();
        self.chunks.push_back((due, chunk));
    }

    fn pop(&mut self) -> Option<Bytes> {
        let (_, chunk) = self.chunks.pop_front()?;
        self.bytes -= chunk.len();
        Some(chunk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait::wait_until;
    use std::io::ErrorKind;
    use tokio::time::timeout;

    const PATIENCE: Duration = Duration::from_secs(10);
    /// Long enough to see that nothing comes.
    const MOMENT: Duration = Duration::from_millis(100);

    /// A server that sends back what it gets.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let address = listener.local_addr().expect("bound");
        drop(tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                drop(tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    drop(tokio::io::copy(&mut read, &mut write).await);
                }));
            }
        }));
        address
    }

    async fn proxied() -> (Proxy, Link, TcpStream) {
        let link = Link::default();
        let proxy = Proxy::start(echo().await, &link);
        let mut stream = TcpStream::connect(proxy.address()).await.expect("accepted");
        ask(&mut stream, b"hello").await;
        (proxy, link, stream)
    }

    async fn ask(stream: &mut TcpStream, text: &[u8]) {
        stream.write_all(text).await.expect("open");
        expect(stream, text).await;
    }

    async fn expect(stream: &mut TcpStream, text: &[u8]) {
        let mut answer = vec![0; text.len()];
        timeout(PATIENCE, stream.read_exact(&mut answer))
            .await
            .expect("in time")
            .expect("open");
        assert_eq!(answer, text);
    }

    async fn is_silent(stream: &mut TcpStream) -> bool {
        timeout(MOMENT, stream.read_u8()).await.is_err()
    }

    #[tokio::test]
    async fn a_stalled_direction_keeps_bytes_and_lets_them_go_later() {
        let (_proxy, link, mut stream) = proxied().await;
        for way in [Way::There, Way::Back] {
            link.set(way, Mode::Stall);
            stream.write_all(b"later").await.expect("half open");
            assert!(is_silent(&mut stream).await);
            link.heal();
            expect(&mut stream, b"later").await;
        }
    }

    #[tokio::test]
    async fn delays_and_rates_take_their_time_and_keep_the_order() {
        let (_proxy, link, mut stream) = proxied().await;
        for mode in [Mode::Delay(3 * MOMENT), Mode::Rate(50)] {
            link.set(Way::There, mode);
            let started = Instant::now();
            ask(&mut stream, b"fifteen bytes !").await;
            assert!(
                started.elapsed() >= 2 * MOMENT,
                "{mode:?}: {:?}",
                started.elapsed()
            );
            link.heal();
            ask(&mut stream, b"at once").await;
        }
    }

    #[tokio::test]
    async fn a_cut_ends_what_is_open_and_a_refusal_what_is_new() {
        let (proxy, link, mut stream) = proxied().await;
        link.refuse(true);
        ask(&mut stream, b"still open").await;
        link.cut();
        let end = timeout(PATIENCE, stream.read_u8()).await.expect("in time");
        assert!(end.is_err(), "{end:?}");
        if let Ok(mut new) = TcpStream::connect(proxy.address()).await {
            let end = timeout(PATIENCE, new.read_u8()).await.expect("in time");
            assert!(end.is_err(), "{end:?}");
        }
        link.heal();
        let mut new = TcpStream::connect(proxy.address()).await.expect("accepted");
        ask(&mut new, b"healed").await;
    }

    #[tokio::test]
    async fn nobody_listens_while_the_proxy_does_not() {
        let (proxy, _link, mut stream) = proxied().await;
        proxy.listen(false);
        let refused = async || match TcpStream::connect(proxy.address()).await {
            Err(error) => error.kind() == ErrorKind::ConnectionRefused,
            Ok(_) => false,
        };
        wait_until("it is refused", PATIENCE, refused).await;
        ask(&mut stream, b"what is open stays open").await;
        proxy.listen(true);
        let accepted = async || TcpStream::connect(proxy.address()).await.is_ok();
        wait_until("it is accepted", PATIENCE, accepted).await;
    }

    #[tokio::test]
    async fn memory_is_bounded_when_nobody_reads() {
        let (_proxy, link, stream) = proxied().await;
        link.set(Way::Back, Mode::Stall);
        let (_read, mut write) = stream.into_split();
        let flood = async {
            let chunk = vec![0; 64 * 1024];
            let mut written: usize = 0;
            while timeout(2 * MOMENT, write.write_all(&chunk)).await.is_ok() {
                written += chunk.len();
                assert!(written < 64 << 20, "somebody keeps it all");
            }
        };
        timeout(PATIENCE, flood)
            .await
            .expect("it stands still soon");
    }
}
