//! `usher/1`, the frames on a session's QUIC stream: type, length, body. Encodes and decodes; reads no socket.
//! `usher/wire/v1/wire.proto` documents the sequence of frames.

mod decoder;

use bytes::{Bytes, BytesMut};
use prost::Message;
use thiserror::Error;

pub use self::decoder::Decoder;
use crate::{
    code::{Code, Fault},
    feed::{Flags, MAX_HEAD, MAX_PIECE, Piece, SIGNATURE},
    pb,
    tree::{GROUP, MAX_SIZE, PAGE, PAGE_GROUPS, Value},
};

/// Bytes before each body: the type and the body's length, big endian.
pub const HEADER: usize = 5;

/// The largest `Open`, `Moved` or `Renew` body: a ticket of 4096 bytes and room for the rest.
pub const MAX_OPEN: usize = 8 * 1024;

/// The largest `Setup` body: the longest title and several hundred tracks.
pub const MAX_SETUP: usize = 64 * 1024;

/// The largest `Refused` or `Finish` body.
pub const MAX_SHORT: usize = 4 * 1024;

/// The largest `Range` body: two numbers of at most ten bytes, their tags, and room.
pub const MAX_RANGE: usize = 64;

/// The largest `Renewed` body: a number of at most ten bytes, its tag, and room.
pub const MAX_RENEWED: usize = 64;

/// The largest `FeedGroup` body: a head, and room for the rest.
pub const MAX_FEED_GROUP: usize = MAX_HEAD + 1024;

/// Bytes of a `Piece` body before the media.
pub const PIECE_HEAD: usize = 1 + SIGNATURE;

/// The largest `Skipped` body: two numbers of at most ten bytes, their tags, and room.
pub const MAX_SKIPPED: usize = 64;

/// `Range` frames of one session that may wait for their answer.
pub const MAX_WAITING: usize = 4;

/// Sessions that a node serves on one connection at a time.
pub const MAX_STREAMS: u32 = 100;

/// Type of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The client's ticket and range.
    Open = 1,
    /// Description of the coming frames.
    Setup = 2,
    /// The node's refusal.
    Refused = 3,
    /// Values of all pages.
    Pages = 4,
    /// Values of one page's groups.
    Hashes = 5,
    /// One group of media.
    Group = 6,
    /// The end of the session.
    Finish = 7,
    /// Another seat for the rest of the session.
    Moved = 8,
    /// A further range.
    Range = 9,
    /// A new ticket of a session.
    Renew = 10,
    /// The session's lifetime is extended.
    Renewed = 11,
    /// The head of a feed's group.
    FeedGroup = 12,
    /// A part of a feed's group.
    Piece = 13,
    /// Groups of a feed that are not sent.
    Skipped = 14,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        use Kind::{
            FeedGroup, Finish, Group, Hashes, Moved, Open, Pages, Piece, Range, Refused, Renew, Renewed, Setup, Skipped,
        };
        let files = [Open, Setup, Refused, Pages, Hashes, Group, Finish, Moved, Range, Renew, Renewed];
        let feeds = [FeedGroup, Piece, Skipped];
        files.into_iter().chain(feeds).find(|kind| *kind as u8 == byte)
    }

    /// The largest body, in bytes.
    pub fn max_len(self) -> usize {
        match self {
            Self::Open | Self::Moved | Self::Renew => MAX_OPEN,
            Self::Setup => MAX_SETUP,
            Self::Refused | Self::Finish => MAX_SHORT,
            Self::Pages => (MAX_SIZE / PAGE) as usize * size_of::<Value>(),
            Self::Hashes => PAGE_GROUPS as usize * size_of::<Value>(),
            Self::Group => GROUP as usize,
            Self::Range => MAX_RANGE,
            Self::Renewed => MAX_RENEWED,
            Self::FeedGroup => MAX_FEED_GROUP,
            Self::Piece => PIECE_HEAD + MAX_PIECE,
            Self::Skipped => MAX_SKIPPED,
        }
    }
}

/// Error of the framing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WireError {
    /// An unknown type.
    #[error("frame of unknown type {0:#04x}; the peer does not use usher/1")]
    Kind(u8),
    /// A body longer than its type allows.
    #[error("{kind:?} frame of {len} bytes is longer than the {max} allowed")]
    TooLong {
        /// The frame's type.
        kind: Kind,
        /// Bytes, as in the header.
        len: usize,
        /// Allowed bytes.
        max: usize,
    },
    /// A body that does not decode.
    #[error("{0:?} frame does not decode")]
    Malformed(Kind),
    /// The stream ended inside a frame.
    #[error("the stream ended inside a frame")]
    Truncated,
}

impl From<&WireError> for Fault {
    fn from(error: &WireError) -> Self {
        Self::new(Code::BadRequest, error.to_string())
    }
}

/// One whole frame.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame {
    /// See [`Kind::Open`].
    Open(pb::wire::Open),
    /// See [`Kind::Setup`].
    Setup(pb::v1::Setup),
    /// See [`Kind::Refused`].
    Refused(pb::wire::Refused),
    /// See [`Kind::Pages`].
    Pages(Vec<Value>),
    /// See [`Kind::Hashes`].
    Hashes(Vec<Value>),
    /// See [`Kind::Group`].
    Group(Bytes),
    /// See [`Kind::Finish`].
    Finish(pb::wire::Finish),
    /// See [`Kind::Moved`].
    Moved(pb::wire::Moved),
    /// See [`Kind::Range`].
    Range(pb::v1::ByteRange),
    /// See [`Kind::Renew`].
    Renew(pb::wire::Renew),
    /// See [`Kind::Renewed`].
    Renewed(pb::wire::Renewed),
    /// See [`Kind::FeedGroup`].
    FeedGroup(pb::wire::FeedGroup),
    /// See [`Kind::Piece`].
    Piece(Piece),
    /// See [`Kind::Skipped`].
    Skipped(pb::wire::Skipped),
}

/// A frame's header for a body of `len` bytes.
///
/// # Panics
/// When `len` is above the type's limit, which the sender of a frame keeps.
pub fn header(kind: Kind, len: usize) -> [u8; HEADER] {
    assert!(len <= kind.max_len(), "{kind:?} of {len} bytes");
    let [a, b, c, d] = u32::try_from(len).expect("the limits are below 4 GiB").to_be_bytes();
    [kind as u8, a, b, c, d]
}

/// Encodes a control message with its header; `None` when it is longer than its type allows.
pub fn message(kind: Kind, message: &impl Message) -> Option<Bytes> {
    let len = message.encoded_len();
    if len > kind.max_len() {
        return None;
    }
    let mut frame = BytesMut::with_capacity(HEADER + len);
    frame.extend_from_slice(&header(kind, len));
    message.encode(&mut frame).ok()?;
    Some(frame.freeze())
}

/// Encodes a list of hashes, which must be within the type's limit.
pub fn values(kind: Kind, values: &[Value]) -> Bytes {
    let mut frame = BytesMut::with_capacity(HEADER + size_of_val(values));
    frame.extend_from_slice(&header(kind, size_of_val(values)));
    values.iter().for_each(|value| frame.extend_from_slice(value));
    frame.freeze()
}

/// Encodes a piece of a feed, whose media is within its limit.
pub fn piece(piece: &Piece) -> Bytes {
    let len = PIECE_HEAD + piece.media.len();
    let mut frame = BytesMut::with_capacity(HEADER + len);
    frame.extend_from_slice(&header(Kind::Piece, len));
    frame.extend_from_slice(&[piece.flags.to_byte()]);
    frame.extend_from_slice(&piece.signature);
    frame.extend_from_slice(&piece.media);
    frame.freeze()
}

/// Encodes a refusal; the text is cut to what the frame allows.
pub fn refused(fault: &Fault) -> Bytes {
    let body = pb::wire::Refused {
        reason: fault.code.reason().to_owned(),
        message: fault.message.chars().take(500).collect(),
        retry_after_ms: fault.retry_after_ms(),
    };
    message(Kind::Refused, &body).unwrap_or_default()
}

fn decode(kind: Kind, body: Bytes) -> Result<Frame, WireError> {
    let bad = || WireError::Malformed(kind);
    Ok(match kind {
        Kind::Open => Frame::Open(Message::decode(body).map_err(|_| bad())?),
        Kind::Setup => Frame::Setup(Message::decode(body).map_err(|_| bad())?),
        Kind::Refused => Frame::Refused(Message::decode(body).map_err(|_| bad())?),
        Kind::Finish => Frame::Finish(Message::decode(body).map_err(|_| bad())?),
        Kind::Moved => Frame::Moved(Message::decode(body).map_err(|_| bad())?),
        Kind::Range => Frame::Range(Message::decode(body).map_err(|_| bad())?),
        Kind::Renew => Frame::Renew(Message::decode(body).map_err(|_| bad())?),
        Kind::Renewed => Frame::Renewed(Message::decode(body).map_err(|_| bad())?),
        Kind::FeedGroup => Frame::FeedGroup(Message::decode(body).map_err(|_| bad())?),
        Kind::Skipped => Frame::Skipped(Message::decode(body).map_err(|_| bad())?),
        Kind::Piece => Frame::Piece(unwrap(body).ok_or_else(bad)?),
        Kind::Pages => Frame::Pages(split(&body).ok_or_else(bad)?),
        Kind::Hashes => Frame::Hashes(split(&body).ok_or_else(bad)?),
        Kind::Group if body.is_empty() => return Err(bad()),
        Kind::Group => Frame::Group(body),
    })
}

fn unwrap(mut body: Bytes) -> Option<Piece> {
    let media = body.split_off(PIECE_HEAD.min(body.len()));
    let (flags, signature) = body.split_first()?;
    Some(Piece { flags: Flags::from_byte(*flags)?, signature: signature.try_into().ok()?, media })
}

fn split(body: &[u8]) -> Option<Vec<Value>> {
    let (values, rest) = body.as_chunks::<32>();
    (rest.is_empty() && !values.is_empty()).then(|| values.to_vec())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::buffers::Buffers;

    fn frames() -> Vec<(Bytes, Frame)> {
        let open = pb::wire::Open { ticket: "t".into(), priority: -3, more: true, ..Default::default() };
        let setup = pb::v1::Setup { title: "a.mp4".into(), size: 9, ..Default::default() };
        let finish = pb::wire::Finish { content_id: vec![1; 32], ..Default::default() };
        let seat = pb::v1::Seat { node: "node-1".into(), ..Default::default() };
        let moved = pb::wire::Moved { seat: Some(seat), until: 65536 };
        let renew = pb::wire::Renew { ticket: "t".into() };
        let renewed = pb::wire::Renewed { lifetime_s: u64::MAX };
        let range = pb::v1::ByteRange { start: u64::MAX, end: u64::MAX };
        let feed_group = pb::wire::FeedGroup { subscription: 1, sequence: 2, ..Default::default() };
        let flags = Flags { whole: true, last: false };
        let part = Piece { flags, signature: [7; SIGNATURE], media: Bytes::from_static(b"media") };
        let end = Piece { flags: Flags { last: true, ..flags }, media: Bytes::new(), ..part.clone() };
        let skipped = pb::wire::Skipped { first: 1, end: u64::MAX };
        let mut group = BytesMut::from(&header(Kind::Group, 3)[..]);
        group.extend_from_slice(b"abc");
        vec![
            (message(Kind::Open, &open).expect("small"), Frame::Open(open)),
            (message(Kind::Setup, &setup).expect("small"), Frame::Setup(setup)),
            (values(Kind::Pages, &[[1; 32], [2; 32]]), Frame::Pages(vec![[1; 32], [2; 32]])),
            (values(Kind::Hashes, &[[3; 32]]), Frame::Hashes(vec![[3; 32]])),
            (group.freeze(), Frame::Group(Bytes::from_static(b"abc"))),
            (message(Kind::Finish, &finish).expect("small"), Frame::Finish(finish)),
            (message(Kind::Moved, &moved).expect("small"), Frame::Moved(moved)),
            (message(Kind::Renew, &renew).expect("small"), Frame::Renew(renew)),
            (message(Kind::Renewed, &renewed).expect("small"), Frame::Renewed(renewed)),
            (message(Kind::FeedGroup, &feed_group).expect("small"), Frame::FeedGroup(feed_group)),
            (piece(&part), Frame::Piece(part)),
            (piece(&end), Frame::Piece(end)),
            (message(Kind::Skipped, &skipped).expect("small"), Frame::Skipped(skipped)),
            (message(Kind::Range, &range).expect("small"), Frame::Range(range)),
            (message(Kind::Range, &pb::v1::ByteRange::default()).expect("small"), Frame::Range(Default::default())),
        ]
    }

    #[test]
    fn frames_survive_any_cut() {
        let all: Vec<u8> = frames().iter().flat_map(|(bytes, _)| bytes.to_vec()).collect();
        for (step, pooled) in [1, 2, 5, 7, all.len()].into_iter().flat_map(|step| [(step, false), (step, true)]) {
            let decoder =
                if pooled { Decoder::into_buffers(Buffers::new(GROUP as usize, 2)) } else { Decoder::default() };
            let (mut decoder, mut seen) = (decoder, Vec::new());
            for part in all.chunks(step) {
                decoder.push(part);
                while let Some(frame) = decoder.next_frame().expect("good bytes") {
                    seen.push(frame);
                }
            }
            assert_eq!(decoder.finish(), Ok(()));
            assert!(seen.iter().eq(frames().iter().map(|(_, frame)| frame)), "in steps of {step}");
        }
    }

    #[test]
    fn wrong_bytes_are_told_apart() {
        let decode = |bytes: &[u8]| {
            let mut decoder = Decoder::default();
            decoder.push(bytes);
            decoder.next_frame()
        };
        assert_eq!(decode(b"GET / HTTP"), Err(WireError::Kind(b'G')));
        let long = WireError::TooLong { kind: Kind::Open, len: 0xffff_ffff, max: MAX_OPEN };
        assert_eq!(decode(&[1, 0xff, 0xff, 0xff, 0xff]), Err(long));
        assert_eq!(decode(&[1, 0, 0, 0, 1, 0xff]), Err(WireError::Malformed(Kind::Open)));
        assert_eq!(decode(&[5, 0, 0, 0, 1, 0xff]), Err(WireError::Malformed(Kind::Hashes)));
        let long = WireError::TooLong { kind: Kind::Range, len: 65, max: MAX_RANGE };
        assert_eq!(decode(&[9, 0, 0, 0, 65]), Err(long));
        assert_eq!(decode(&[9, 0, 0, 0, 1, 0xff]), Err(WireError::Malformed(Kind::Range)));
        assert_eq!(decode(&[15, 0, 0, 0, 0]), Err(WireError::Kind(15)));
        assert_eq!(decode(&[13, 0, 0, 0, 1, 0]), Err(WireError::Malformed(Kind::Piece)));
        let wrong_flags = [&[13, 0, 0, 0, 65, 4][..], &[0; 64]].concat();
        assert_eq!(decode(&wrong_flags), Err(WireError::Malformed(Kind::Piece)));
        assert_eq!(decode(&[6, 0, 0, 0, 0]), Err(WireError::Malformed(Kind::Group)));
        assert_eq!(decode(&[6, 0, 0, 0]), Ok(None));
        let mut cut = Decoder::default();
        cut.push(&[6, 0, 0, 0, 9, 1]);
        assert_eq!((cut.next_frame(), cut.finish()), (Ok(None), Err(WireError::Truncated)));
    }

    #[test]
    fn a_refusal_always_fits() {
        let fault = Fault::new(Code::Draining, "x".repeat(100_000));
        let mut decoder = Decoder::default();
        decoder.push(&refused(&fault));
        let Ok(Some(Frame::Refused(refused))) = decoder.next_frame() else { panic!("no refusal") };
        assert_eq!((refused.reason.as_str(), refused.message.len()), ("DRAINING", 500));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_or_hoard(data in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let mut decoder = Decoder::default();
            decoder.push(&data);
            while let Ok(Some(_)) = decoder.next_frame() {}
        }
    }
}
