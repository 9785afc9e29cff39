//! Reads what a stream begins with, an Open or a Renew message: bounded in size, and by its caller in time.

use quinn::ReadError;
use usher_proto::{
    Code, Fault,
    pb::wire::{Open, Renew},
    wire::{Decoder, Frame, Kind, WireError},
};
use usher_transport::RecvStream;

/// Why there is no such message.
pub(super) enum HeaderError {
    /// The client sent something else, and is told.
    Bad(Fault),
    /// There is no client any more.
    Gone,
}

/// What a stream begins with.
pub(super) enum First {
    /// A session. What came behind its message is in the decoder.
    Open(Box<Open>, Decoder),
    /// A session of another stream is to run on.
    Renew(Renew),
}

/// Reads the first frame.
pub(super) async fn read(receive: &mut RecvStream) -> Result<First, HeaderError> {
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
        // Other frames may be longer than these: what is not one is refused before it is kept.
        if std::mem::take(&mut first) && ![Kind::Open, Kind::Renew].iter().any(|kind| buffer[0] == *kind as u8) {
            return Err(bad(&WireError::Kind(buffer[0])));
        }
        decoder.push(&buffer[..read]);
        match decoder.next_frame() {
            Ok(None) => {}
            Ok(Some(Frame::Open(open))) => return Ok(First::Open(Box::new(open), decoder)),
            // Nothing follows it; what comes nevertheless is not read.
            Ok(Some(Frame::Renew(renew))) => return Ok(First::Renew(renew)),
            // The first byte is that of one of them.
            Ok(Some(_)) => return Err(bad(&WireError::Malformed(Kind::Open))),
            Err(error) => return Err(bad(&error)),
        }
    }
}

fn bad(error: &WireError) -> HeaderError {
    HeaderError::Bad(error.into())
}
