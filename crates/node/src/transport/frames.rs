//! Frames of a WebSocket as a server reads and writes them (RFC 6455, section 5).
//!
//! Payload is handed on as it arrives: however long a frame or a message is, it is never collected,
//! and MQTT packets need not align with it [MQTT-6.0.0-2].

use std::io::{self, Cursor};

use bytes::{Buf as _, BufMut, BytesMut};
use tokio::io::ReadBuf;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

/// The longest payload of a control frame.
const CONTROL_BYTES_MAX: u64 = 125;

/// What a client's bytes mean.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Payload was written to the buffer.
    Payload,
    /// To be answered by a pong with the same payload.
    Ping(BytesMut),
    /// The client closes.
    Close,
    /// There is no more yet.
    Incomplete,
}

/// Why a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Violation {
    /// A text frame [MQTT-6.0.0-1].
    Text,
    /// It is no frame, or comes where it must not.
    Protocol(&'static str),
}

impl Violation {
    pub(super) fn code(self) -> CloseCode {
        match self {
            Self::Text => CloseCode::Unsupported,
            Self::Protocol(_) => CloseCode::Protocol,
        }
    }
}

impl From<Violation> for io::Error {
    fn from(violation: Violation) -> Self {
        let problem = match violation {
            Violation::Text => "a text frame [MQTT-6.0.0-1]",
            Violation::Protocol(problem) => problem,
        };
        Self::new(io::ErrorKind::InvalidData, problem)
    }
}

/// The payload of a data frame under way.
#[derive(Debug)]
struct Payload {
    left: u64,
    mask: [u8; 4],
    offset: usize,
}

/// Reads a client's frames.
#[derive(Debug, Default)]
pub(super) struct Frames {
    payload: Option<Payload>,
    /// The message goes on in the next data frame.
    is_fragmented: bool,
}

impl Frames {
    /// Takes from `raw` what comes next; payload goes to `into`, which has room.
    ///
    /// # Errors
    /// [`Violation`]: nothing after it means anything.
    pub(super) fn next(
        &mut self,
        raw: &mut BytesMut,
        into: &mut ReadBuf<'_>,
    ) -> Result<Event, Violation> {
        loop {
            if let Some(payload) = self.payload.as_mut().filter(|payload| payload.left > 0) {
                if raw.is_empty() {
                    return Ok(Event::Incomplete);
                }
                payload.take(raw, into);
                return Ok(Event::Payload);
            }
            self.payload = None;
            let mut cursor = Cursor::new(&**raw);
            let parsed = FrameHeader::parse(&mut cursor)
                .map_err(|_bad| Violation::Protocol("an opcode that does not exist"))?;
            let Some((header, length)) = parsed else {
                return Ok(Event::Incomplete);
            };
            let header_bytes = usize::try_from(cursor.position()).unwrap_or(usize::MAX);
            if header.rsv1 || header.rsv2 || header.rsv3 {
                return Err(Violation::Protocol("a reserved bit"));
            }
            let Some(mask) = header.mask else {
                return Err(Violation::Protocol("a frame without a mask"));
            };
            match header.opcode {
                OpCode::Data(kind) => {
                    self.begin(kind, header.is_final)?;
                    raw.advance(header_bytes);
                    self.payload = Some(Payload {
                        left: length,
                        mask,
                        offset: 0,
                    });
                }
                OpCode::Control(kind) => {
                    if length > CONTROL_BYTES_MAX || !header.is_final {
                        return Err(Violation::Protocol("a control frame that is too long"));
                    }
                    let length = usize::try_from(length).unwrap_or(usize::MAX);
                    if raw.len() < header_bytes.saturating_add(length) {
                        return Ok(Event::Incomplete);
                    }
                    raw.advance(header_bytes);
                    let mut payload = raw.split_to(length);
                    unmask(&mut payload, mask, 0);
                    match kind {
                        Control::Ping => return Ok(Event::Ping(payload)),
                        Control::Close => return Ok(Event::Close),
                        Control::Pong | Control::Reserved(_) => {}
                    }
                }
            }
        }
    }

    /// Checks that a data frame may come here.
    fn begin(&mut self, kind: Data, is_final: bool) -> Result<(), Violation> {
        match (kind, self.is_fragmented) {
            (Data::Binary, false) | (Data::Continue, true) => {}
            (Data::Text, _) => return Err(Violation::Text),
            (Data::Binary, true) => {
                return Err(Violation::Protocol("a message within another"));
            }
            (Data::Continue, false) => {
                return Err(Violation::Protocol("a continuation of nothing"));
            }
            (Data::Reserved(_), _) => {
                return Err(Violation::Protocol("an opcode that does not exist"));
            }
        }
        self.is_fragmented = !is_final;
        Ok(())
    }
}

impl Payload {
    fn take(&mut self, raw: &mut BytesMut, into: &mut ReadBuf<'_>) {
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        let mut taken = raw.split_to(raw.len().min(into.remaining()).min(left));
        unmask(&mut taken, self.mask, self.offset);
        into.put_slice(&taken);
        self.offset = self.offset.wrapping_add(taken.len()) % self.mask.len();
        self.left = self
            .left
            .saturating_sub(u64::try_from(taken.len()).unwrap_or(u64::MAX));
    }
}

fn unmask(bytes: &mut [u8], mask: [u8; 4], offset: usize) {
    let key = mask.iter().cycle().skip(offset);
    for (byte, key) in bytes.iter_mut().zip(key) {
        *byte ^= key;
    }
}

/// Appends a whole frame.
pub(super) fn append(out: &mut BytesMut, opcode: OpCode, payload: &[u8]) {
    let header = FrameHeader {
        opcode,
        ..FrameHeader::default()
    };
    let length = u64::try_from(payload.len()).unwrap_or(u64::MAX);
    // A buffer in memory takes everything.
    drop(header.format(length, &mut BufMut::writer(&mut *out)));
    out.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first];
        match u16::try_from(payload.len()) {
            Ok(length) if length < 126 => frame.push(0x80 | u8::try_from(length).unwrap()),
            Ok(length) => {
                frame.push(0x80 | 126);
                frame.extend(length.to_be_bytes());
            }
            Err(_) => {
                frame.push(0x80 | 127);
                frame.extend((payload.len() as u64).to_be_bytes());
            }
        }
        let mask = [0x12, 0x34, 0x56, 0x78];
        frame.extend(mask);
        let mut payload = payload.to_vec();
        unmask(&mut payload, mask, 0);
        frame.extend(payload);
        frame
    }

    /// Feeds `bytes` in pieces, and collects what comes out.
    fn read(bytes: &[u8], piece: usize) -> Result<(Vec<u8>, Vec<Event>), Violation> {
        let mut frames = Frames::default();
        let (mut raw, mut payload, mut events) = (BytesMut::new(), Vec::new(), Vec::new());
        for piece in bytes.chunks(piece) {
            raw.extend_from_slice(piece);
            loop {
                let mut scratch = [0; 7];
                let mut into = ReadBuf::new(&mut scratch);
                match frames.next(&mut raw, &mut into)? {
                    Event::Payload => payload.extend_from_slice(into.filled()),
                    Event::Incomplete => break,
                    event @ (Event::Ping(_) | Event::Close) => events.push(event),
                }
            }
        }
        Ok((payload, events))
    }

    #[test]
    fn payload_comes_out_whole_however_it_is_framed_and_arrives() {
        let long: Vec<u8> = (0..70_000_u32)
            .map(|i| u8::try_from(i % 251).unwrap())
            .collect();
        let bytes = [
            masked(0x02, b"abc"),
            masked(0x89, b"ping"),
            masked(0x00, b""),
            masked(0x80, b"de"),
            masked(0x8A, b"pong"),
            masked(0x82, &long[..300]),
            masked(0x82, &long),
            masked(0x88, &[0x03, 0xE8]),
        ]
        .concat();
        let expected = [b"abcde".as_slice(), &long[..300], &long].concat();
        for piece in [1, 3, 1000, usize::MAX] {
            let (payload, events) = read(&bytes, piece).unwrap();
            assert!(payload == expected, "pieces of {piece}");
            let ping = Event::Ping(BytesMut::from(b"ping".as_slice()));
            assert_eq!(events, [ping, Event::Close]);
        }
    }

    #[test]
    fn text_and_whatever_is_no_frame_is_refused() {
        assert_eq!(read(&masked(0x81, b"hello"), 9), Err(Violation::Text));
        for bytes in [
            vec![0x82, 0x01, 0x00],
            masked(0xC2, b"x"),
            masked(0x83, b"x"),
            masked(0x80, b"x"),
            [masked(0x02, b"x"), masked(0x82, b"y")].concat(),
            masked(0x09, b"x"),
            masked(0x89, &[0; 126]),
        ] {
            let read = read(&bytes, 1);
            assert!(matches!(read, Err(Violation::Protocol(_))), "{bytes:02X?}");
        }
    }
}
