//! Reads a session's Open message: bounded in size, and by its caller in time.

use quinn::{ReadError, RecvStream};
use usher_proto::{
    Code, Fault,
    pb::wire::Open,
    wire::{Decoder, Frame, Kind, WireError},
};

/// Why there is no Open message.
pub(super) enum HeaderError {
    /// The client sent something else, and is told.
    Bad(Fault),
    /// There is no client any more.
    Gone,
}

/// Reads the first frame, which must be Open. What came behind it is in the decoder.
pub(super) async fn read(receive: &mut RecvStream) -> Result<(Open, Decoder), HeaderError> {
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
        // Other frames may be longer than an Open: what is not one is refused before it is kept.
        if std::mem::take(&mut first) && buffer[0] != Kind::Open as u8 {
            return Err(bad(&WireError::Kind(buffer[0])));
        }
        decoder.push(&buffer[..read]);
        match decoder.next_frame() {
            Ok(None) => {}
            Ok(Some(Frame::Open(open))) => return Ok((open, decoder)),
            // The first byte is that of an Open.
            Ok(Some(_)) => return Err(bad(&WireError::Malformed(Kind::Open))),
            Err(error) => return Err(bad(&error)),
        }
    }
}

fn bad(error: &WireError) -> HeaderError {
    HeaderError::Bad(error.into())
}
