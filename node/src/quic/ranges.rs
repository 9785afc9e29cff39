//! Further ranges that a client requests on its side of a session's stream. Decodes the frames; `core::session` checks
//! the ranges.

use std::future::pending;

use quinn::ReadError;
use tokio::sync::mpsc;
use usher_proto::{
    Code, Fault,
    pb::v1::ByteRange,
    wire::{Decoder, Frame, MAX_WAITING, WireError},
};
use usher_transport::RecvStream;

/// Requested ranges, or the fault of a bad request; ends when the client requests no more.
pub(super) type RangeRequests = mpsc::Receiver<Result<ByteRange, Fault>>;

/// A channel between [`read`] and the session.
pub(super) fn channel() -> (mpsc::Sender<Result<ByteRange, Fault>>, RangeRequests) {
    // One more than may wait, so that the session sees that there are too many.
    mpsc::channel(MAX_WAITING + 1)
}

/// Waits for the next request; `None` when no more come.
pub(super) async fn next(requests: &mut Option<RangeRequests>) -> Option<Result<ByteRange, Fault>> {
    requests.as_mut()?.recv().await
}

/// Reads requests, first those that the `decoder` holds from behind the Open message. Returns only when the client has
/// left; waits forever after its last request.
pub(super) async fn read(
    receive: &mut RecvStream,
    mut decoder: Decoder,
    requests: mpsc::Sender<Result<ByteRange, Fault>>,
) {
    let bad = |error: &WireError| Err(error.into());
    loop {
        let request = match decoder.next_frame() {
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
        let good = request.is_ok();
        if requests.send(request).await.is_err() || !good {
            break;
        }
    }
    drop(requests);
    pending().await
}
