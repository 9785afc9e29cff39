//! Further ranges, as the client asks for them on its side of a session's stream. Reads frames; refuses to know which
//! ranges are good.

use std::future::pending;

use quinn::ReadError;
use tokio::sync::mpsc;
use usher_proto::{
    Code, Fault,
    pb::v1::ByteRange,
    wire::{Decoder, Frame, MAX_WAITING, WireError},
};
use usher_transport::RecvStream;

/// What the client asks for next, or what is wrong with it; ends when it has no more.
pub(super) type Asks = mpsc::Receiver<Result<ByteRange, Fault>>;

/// Where asks come in, and where they come out.
pub(super) fn channel() -> (mpsc::Sender<Result<ByteRange, Fault>>, Asks) {
    // One more than may wait, so that it is seen.
    mpsc::channel(MAX_WAITING + 1)
}

/// The next ask of a client that may have some; `None` when it has no more.
pub(super) async fn next(asks: &mut Option<Asks>) -> Option<Result<ByteRange, Fault>> {
    asks.as_mut()?.recv().await
}

/// Reads until the client has no more; returns only when it left. What came behind its Open is in the `decoder`.
pub(super) async fn read(receive: &mut RecvStream, mut decoder: Decoder, asks: mpsc::Sender<Result<ByteRange, Fault>>) {
    let bad = |error: &WireError| Err(error.into());
    loop {
        let ask = match decoder.next_frame() {
            Ok(Some(Frame::Range(range))) => Ok(range),
            Ok(Some(_)) => Err(Fault::new(Code::BadRequest, "only ranges may follow the Open message")),
            Err(error) => bad(&error),
            Ok(None) => match receive.read_chunk(2048, true).await {
                Ok(Some(chunk)) => {
                    decoder.push_chunk(chunk.bytes);
                    continue;
                }
                Ok(None) => match decoder.finish() {
                    Ok(()) => break,
                    Err(error) => bad(&error),
                },
                Err(ReadError::Reset(_) | ReadError::ConnectionLost(_)) => return,
                Err(error) => Err(Fault::new(Code::BadRequest, error.to_string())),
            },
        };
        let good = ask.is_ok();
        if asks.send(ask).await.is_err() || !good {
            break;
        }
    }
    drop(asks);
    pending().await
}
