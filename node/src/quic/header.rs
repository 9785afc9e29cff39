//! Reads the first message of a stream, Open or Renew. Bounds its size; the caller bounds its time.

use quinn::ReadError;
use usher_proto::{
    Code, Fault,
    pb::wire::{Open, Renew},
    wire::{Decoder, Frame, Kind, WireError},
};
use usher_transport::RecvStream;

/// The reason why there is no first message.
pub(super) enum HeaderError {
    /// The client sent something else, and receives the fault.
    Bad(Fault),
    /// The client is gone.
    Gone,
}

/// The first message of a stream.
pub(super) enum FirstMessage {
    /// Opens a session. The decoder holds the bytes behind the message.
    Open(Box<Open>, Decoder),
    /// Renews the session of another stream.
    Renew(Renew),
}

/// Reads the first message.
pub(super) async fn read(receive: &mut RecvStream) -> Result<FirstMessage, HeaderError> {
    let mut decoder = Decoder::default();
    let mut buffer = [0; 2048];
    let mut first = true;
    loop {
        let read = match receive.read(&mut buffer).await {
            Ok(Some(read)) => read,
            Ok(None) => return Err(bad(&WireError::Truncated)),
            Err(ReadError::Reset(_) | ReadError::ConnectionLost(_)) => return Err(HeaderError::Gone),
            Err(error) => return Err(HeaderError::Bad(Fault::new(Code::BadRequest, error.to_string()))),
        };
        // Other frames may be longer than these two, so they are refused before they are buffered.
        if std::mem::take(&mut first) && ![Kind::Open, Kind::Renew].iter().any(|kind| buffer[0] == *kind as u8) {
            return Err(bad(&WireError::Kind(buffer[0])));
        }
        decoder.push(&buffer[..read]);
        match decoder.next_frame() {
            Ok(None) => {}
            Ok(Some(Frame::Open(open))) => return Ok(FirstMessage::Open(Box::new(open), decoder)),
            // Nothing may follow it; further bytes are not read.
            Ok(Some(Frame::Renew(renew))) => return Ok(FirstMessage::Renew(renew)),
            // Unreachable: the first byte is the kind of one of them.
            Ok(Some(_)) => return Err(bad(&WireError::Malformed(Kind::Open))),
            Err(error) => return Err(bad(&error)),
        }
    }
}

fn bad(error: &WireError) -> HeaderError {
    HeaderError::Bad(error.into())
}
