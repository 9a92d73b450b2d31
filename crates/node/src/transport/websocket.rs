//! MQTT over WebSocket: the upgrade of HTTP, then a stream of bytes in binary frames.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tungstenite::handshake::machine::TryParse as _;
use tungstenite::handshake::server::{Request, create_response, write_response};
use tungstenite::http::{HeaderValue, Uri};
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

use super::frames::{Event, Frames, append};

/// The only subprotocol [MQTT-6.0.0-4].
const SUBPROTOCOL: &str = "mqtt";
const SUBPROTOCOL_HEADER: &str = "Sec-WebSocket-Protocol";
/// Where MQTT is found; other servers use either.
const PATHS: [&str; 2] = ["/mqtt", "/"];
/// Hosts of pages that come from this host.
const OWN_HOSTS: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];
/// The longest request: browsers send cookies along.
const REQUEST_BYTES_MAX: usize = 16 * 1024;
/// What one call takes from the socket at most.
const READ_BYTES_MAX: usize = 16 * 1024;
/// Frames that wait for the socket before no more is taken.
const OUT_BYTES_MAX: usize = 32 * 1024;
/// Beyond so much waiting pings are not answered: only the last one needs an answer.
const PONG_BYTES_MAX: usize = 4 * 1024;

thread_local! {
    /// Where sockets are read into: a connection that is silent has no buffer.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES_MAX]);
}

/// A stream of bytes in binary frames [MQTT-6.0.0-1].
#[derive(Debug)]
pub(crate) struct WebSocket<S> {
    stream: S,
    frames: Frames,
    /// Bytes from the client whose frames are not taken apart yet.
    raw: BytesMut,
    /// Frames that wait for the socket.
    out: BytesMut,
    /// A close frame was sent; nothing may follow it.
    closed: bool,
    /// A browser asks on behalf of a page that is not from this host.
    is_of_foreign_page: bool,
}

/// Answers the request that every WebSocket begins with.
///
/// # Errors
/// `InvalidData`: it asks for something else, and was told so. Any other: the connection broke.
pub(super) async fn accept<S>(mut stream: S) -> io::Result<WebSocket<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut raw = BytesMut::new();
    let request = read_request(&mut stream, &mut raw).await;
    let answered = request.and_then(|request| Ok((answer(&request)?, of_foreign_page(&request))));
    let (answer, is_of_foreign_page) = match answered {
        Ok(answered) => answered,
        Err(Refused::Broken(error)) => return Err(error),
        Err(Refused::Told(status, why)) => {
            stream.write_all(&told(status)).await?;
            stream.shutdown().await?;
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
    };
    stream.write_all(&answer).await?;
    stream.flush().await?;
    Ok(WebSocket {
        stream,
        frames: Frames::default(),
        raw,
        out: BytesMut::new(),
        closed: false,
        is_of_foreign_page,
    })
}

/// Browsers say which page asks (RFC 6454); other clients say nothing, or what they like.
fn of_foreign_page(request: &Request) -> bool {
    let Some(origin) = request.headers().get("Origin") else {
        return false;
    };
    let uri = origin
        .to_str()
        .ok()
        .and_then(|origin| origin.parse::<Uri>().ok());
    let host = uri.as_ref().and_then(Uri::host);
    !host.is_some_and(|host| OWN_HOSTS.contains(&host))
}

/// Why there is no WebSocket.
enum Refused {
    /// The client is told a status.
    Told(&'static str, String),
    /// There is nobody to tell.
    Broken(io::Error),
}

async fn read_request<S>(stream: &mut S, raw: &mut BytesMut) -> Result<Request, Refused>
where
    S: AsyncRead + Unpin,
{
    let bad = |why: String| Refused::Told("400 Bad Request", why);
    loop {
        match Request::try_parse(raw) {
            Ok(Some((length, request))) => {
                raw.advance(length);
                return Ok(request);
            }
            Ok(None) if raw.len() < REQUEST_BYTES_MAX => {}
            Ok(None) => return Err(bad("a request that is too long".to_owned())),
            Err(error) => return Err(bad(error.to_string())),
        }
        match stream.read_buf(raw).await {
            Ok(0) => return Err(Refused::Broken(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => {}
            Err(error) => return Err(Refused::Broken(error)),
        }
    }
}

/// What is answered to a request for MQTT over WebSocket.
fn answer(request: &Request) -> Result<Vec<u8>, Refused> {
    let path = request.uri().path();
    if !PATHS.contains(&path) {
        let why = format!("path {path:?} instead of /mqtt or /");
        return Err(Refused::Told("404 Not Found", why));
    }
    let bad = |why: String| Refused::Told("400 Bad Request", why);
    let mut response = create_response(request).map_err(|error| bad(error.to_string()))?;
    let offered = request.headers().get_all(SUBPROTOCOL_HEADER).iter();
    let mut offered = offered
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    if !offered.any(|offer| offer.trim() == SUBPROTOCOL) {
        return Err(bad("without the subprotocol mqtt [MQTT-6.0.0-3]".to_owned()));
    }
    response
        .headers_mut()
        .insert(SUBPROTOCOL_HEADER, HeaderValue::from_static(SUBPROTOCOL));
    let mut answer = Vec::new();
    write_response(&mut answer, &response).map_err(|error| bad(error.to_string()))?;
    Ok(answer)
}

fn told(status: &str) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n");
    format!("{head}Sec-WebSocket-Version: 13\r\n{SUBPROTOCOL_HEADER}: {SUBPROTOCOL}\r\n\r\n").into()
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// A browser asks on behalf of a page that is not from this host: whoever made that page is no
    /// client on loopback.
    pub(super) fn is_of_foreign_page(&self) -> bool {
        self.is_of_foreign_page
    }

    fn close(&mut self, code: CloseCode) {
        if !self.closed {
            self.closed = true;
            let code = u16::from(code).to_be_bytes();
            append(&mut self.out, OpCode::Control(Control::Close), &code);
        }
    }

    /// Writes what waits.
    fn poll_drain(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(context, &self.out))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out.advance(written);
        }
        // It may have been large, and nothing may follow for long.
        self.out = BytesMut::new();
        Pin::new(&mut self.stream).poll_flush(context)
    }

    /// Writes what can be written now; an error shows when the client is next read from.
    fn drain_now(&mut self, context: &mut Context<'_>) {
        if let Poll::Ready(Err(error)) = self.poll_drain(context) {
            tracing::debug!(%error, "a WebSocket's client is gone");
        }
    }

    /// Reads once from the socket. 0 bytes: it is closed.
    fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut scratch = ReadBuf::new(scratch);
            ready!(Pin::new(&mut self.stream).poll_read(context, &mut scratch))?;
            self.raw.extend_from_slice(scratch.filled());
            Poll::Ready(Ok(scratch.filled().len()))
        })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocket<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.out.is_empty() {
            // An answer to a ping that found the socket full.
            this.drain_now(context);
        }
        loop {
            let event = this.frames.next(&mut this.raw, buffer);
            if this.raw.is_empty() {
                this.raw = BytesMut::new();
            }
            match event {
                Ok(Event::Payload) => return Poll::Ready(Ok(())),
                Ok(Event::Ping(payload)) => {
                    if !this.closed && this.out.len() < PONG_BYTES_MAX {
                        append(&mut this.out, OpCode::Control(Control::Pong), &payload);
                    }
                    this.drain_now(context);
                }
                Ok(Event::Close) => {
                    this.close(CloseCode::Normal);
                    this.drain_now(context);
                    return Poll::Ready(Ok(()));
                }
                Ok(Event::Incomplete) => {
                    if ready!(this.poll_fill(context))? == 0 {
                        return Poll::Ready(Ok(()));
                    }
                }
                Err(violation) => {
                    this.close(violation.code());
                    this.drain_now(context);
                    return Poll::Ready(Err(violation.into()));
                }
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocket<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if this.out.len() >= OUT_BYTES_MAX {
            ready!(this.poll_drain(context))?;
        }
        let taken = bytes.len().min(OUT_BYTES_MAX);
        let frame = bytes.get(..taken).unwrap_or(bytes);
        append(&mut this.out, OpCode::Data(Data::Binary), frame);
        if let Poll::Ready(Err(error)) = this.poll_drain(context) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_drain(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.close(CloseCode::Normal);
        ready!(this.poll_drain(context))?;
        Pin::new(&mut this.stream).poll_shutdown(context)
    }
}
