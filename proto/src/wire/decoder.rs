//! Decodes received bytes into frames. A body that arrived in one chunk is returned without a copy; any other is copied once
//! into a buffer of its size.

use std::collections::VecDeque;

use bytes::{Buf as _, Bytes};

use super::{Frame, HEADER, Kind, WireError, decode};
use crate::{
    buffers::{Buffer, Buffers},
    code::{Code, Fault},
    feed::GroupHead,
};

/// Decodes received bytes into frames. Holds the pushed bytes and at most one frame's body; checks a header before it
/// allocates.
#[derive(Debug, Default)]
pub struct Decoder {
    chunks: VecDeque<Bytes>,
    head: Head,
    body: Option<Body>,
    buffers: Option<Buffers>,
}

/// The received bytes of a header.
#[derive(Debug, Default)]
struct Head {
    bytes: [u8; HEADER],
    len: usize,
}

/// A body that is arriving.
#[derive(Debug)]
struct Body {
    kind: Kind,
    len: usize,
    /// Its received part and the number of bytes, once it arrives in several chunks.
    room: Option<(Buffer, usize)>,
}

impl Decoder {
    /// Creates a decoder that copies groups into these buffers.
    pub fn into_buffers(buffers: Buffers) -> Self {
        Self { buffers: Some(buffers), ..Self::default() }
    }

    /// Takes received bytes, in order.
    pub fn push(&mut self, data: &[u8]) {
        self.push_chunk(Bytes::copy_from_slice(data));
    }

    /// Takes received bytes, in order, without a copy.
    pub fn push_chunk(&mut self, data: Bytes) {
        if !data.is_empty() {
            self.chunks.push_back(data);
        }
    }

    /// The next whole frame; `None` until more is pushed. After an error the stream is unusable.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, WireError> {
        let body = match self.body.take() {
            Some(body) => body,
            None => match self.header()? {
                Some(body) => body,
                None => return Ok(None),
            },
        };
        let kind = body.kind;
        match self.gather(body) {
            Ok(bytes) => decode(kind, bytes).map(Some),
            Err(rest) => {
                self.body = Some(rest);
                Ok(None)
            }
        }
    }

    /// Decodes the start of a group's stream: its subscription and head. `None` until more is pushed.
    ///
    /// # Errors
    /// `BAD_REQUEST` for any other frame and for an invalid head.
    pub fn next_group_head(&mut self) -> Result<Option<(u64, GroupHead)>, Fault> {
        match self.next_frame() {
            Ok(Some(Frame::FeedGroup(group))) => Ok(Some((group.subscription, GroupHead::try_from(group)?))),
            Ok(None) => Ok(None),
            Ok(Some(_)) => Err(Fault::new(Code::BadRequest, "the stream of a group begins with its head")),
            Err(error) => Err((&error).into()),
        }
    }

    /// Checks at the end of the stream that no frame was truncated.
    pub fn finish(&self) -> Result<(), WireError> {
        let idle = self.chunks.is_empty() && self.head.len == 0 && self.body.is_none();
        if idle { Ok(()) } else { Err(WireError::Truncated) }
    }

    fn header(&mut self) -> Result<Option<Body>, WireError> {
        while let Some(room) = self.head.bytes.get_mut(self.head.len..).filter(|room| !room.is_empty()) {
            let Some(chunk) = self.chunks.front_mut() else { return Ok(None) };
            let count = chunk.len().min(room.len());
            chunk.copy_to_slice(&mut room[..count]);
            self.head.len += count;
            if chunk.is_empty() {
                self.chunks.pop_front();
            }
        }
        let [kind, len @ ..] = std::mem::take(&mut self.head).bytes;
        let kind = Kind::from_byte(kind).ok_or(WireError::Kind(kind))?;
        let len = u32::from_be_bytes(len) as usize;
        if len > kind.max_len() {
            return Err(WireError::TooLong { kind, len, max: kind.max_len() });
        }
        Ok(Some(Body { kind, len, room: None }))
    }

    /// The whole body, or what is there of it.
    fn gather(&mut self, mut body: Body) -> Result<Bytes, Body> {
        let (mut room, mut have) = match body.room.take() {
            Some(room) => room,
            None => match self.chunks.front_mut() {
                _ if body.len == 0 => return Ok(Bytes::new()),
                Some(chunk) if chunk.len() >= body.len => {
                    let bytes = chunk.split_to(body.len);
                    if chunk.is_empty() {
                        self.chunks.pop_front();
                    }
                    return Ok(bytes);
                }
                Some(_) => {
                    let pooled = self.buffers.as_ref().filter(|_| body.kind == Kind::Group);
                    (pooled.map_or_else(|| Buffers::default().take(body.len), |buffers| buffers.take(body.len)), 0)
                }
                None => return Err(body),
            },
        };
        while have < body.len {
            let Some(chunk) = self.chunks.front_mut() else { return Err(Body { room: Some((room, have)), ..body }) };
            let count = chunk.len().min(body.len - have);
            chunk.copy_to_slice(&mut room.bytes_mut()[have..have + count]);
            have += count;
            if chunk.is_empty() {
                self.chunks.pop_front();
            }
        }
        Ok(room.freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::super::*;
    use crate::buffers::Buffers;

    fn group(len: usize, seed: u8) -> Bytes {
        let mut frame = BytesMut::from(&header(Kind::Group, len)[..]);
        frame.extend((0..len).map(|at| at as u8 ^ seed));
        frame.freeze()
    }

    #[test]
    fn what_came_in_one_piece_is_not_copied() {
        let hashes = values(Kind::Hashes, &[[3; 32]; 4]);
        let all = [&group(1000, 1)[..], &hashes, &group(7, 2)].concat();
        let all = Bytes::from(all);
        let mut decoder = Decoder::into_buffers(Buffers::new(GROUP as usize, 1));
        decoder.push_chunk(all.clone());
        let Ok(Some(Frame::Group(first))) = decoder.next_frame() else { panic!("no group") };
        assert_eq!(first.as_ptr(), all[HEADER..].as_ptr());
        assert!(matches!(decoder.next_frame(), Ok(Some(Frame::Hashes(_)))));
        let Ok(Some(Frame::Group(last))) = decoder.next_frame() else { panic!("no group") };
        assert!(last == group(7, 2)[HEADER..] && decoder.next_frame() == Ok(None) && decoder.finish().is_ok());
    }

    #[test]
    fn buffers_are_used_again_and_never_while_held() {
        let mut decoder = Decoder::into_buffers(Buffers::new(GROUP as usize, 4));
        let mut take = |seed| {
            let frame = group(GROUP as usize, seed);
            for chunk in [frame.slice(..3), frame.slice(3..1400), frame.slice(1400..)] {
                decoder.push_chunk(chunk);
            }
            let Ok(Some(Frame::Group(data))) = decoder.next_frame() else { panic!("no group") };
            assert!(data == frame[HEADER..]);
            data
        };
        let (one, two) = (take(1), take(2));
        let place = one.as_ptr();
        assert_ne!(place, two.as_ptr());
        drop(one);
        let three = take(3);
        assert_eq!(three.as_ptr(), place);
        assert!(two == group(GROUP as usize, 2)[HEADER..], "another group did not touch it");
    }
}
