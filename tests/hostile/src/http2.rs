//! As much HTTP/2 (RFC 9113) as it takes to keep a connection open without a call: the preface, settings, and answers to
//! pings.

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Preface, and an empty SETTINGS frame.
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Answer to SETTINGS.
const SETTINGS_ACK: &[u8] = b"\0\0\0\x04\x01\0\0\0\0";

const SETTINGS: u8 = 4;
const PING: u8 = 6;
const ACK: u8 = 1;

/// Opens HTTP/2.
pub(crate) async fn open(stream: &mut (impl AsyncWrite + Unpin)) -> std::io::Result<()> {
    stream.write_all(HELLO).await?;
    stream.flush().await
}

/// Answers pings until the server closes the connection.
pub(crate) async fn idle(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> std::io::Result<()> {
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload).await?;
        match (head[3], head[4] & ACK) {
            (SETTINGS, 0) => stream.write_all(SETTINGS_ACK).await?,
            (PING, 0) => {
                let frame = [&[0, 0, 8, PING, ACK, 0, 0, 0, 0][..], &payload].concat();
                stream.write_all(&frame).await?;
            }
            _ => continue,
        }
        stream.flush().await?;
    }
}

/// Begins `Tickets/Resolve` on stream 1, and sends the first byte of a message that never comes.
pub(crate) async fn begin_call(stream: &mut (impl AsyncWrite + Unpin)) -> std::io::Result<()> {
    // HPACK (RFC 7541): `:method: POST` and `:scheme: https` from the static table; the others are literals with an indexed
    // name.
    let mut block = vec![0x83, 0x87];
    for (name, value) in [(4, &b"/usher.v1.Tickets/Resolve"[..]), (1, b"localhost"), (31, b"application/grpc")] {
        // A literal without indexing has 4 bits for the name's index; more follow in the next byte.
        if name < 15 {
            block.push(name)
        } else {
            block.extend([15, name - 15])
        }
        block.push(value.len() as u8);
        block.extend_from_slice(value);
    }
    let frame = |kind: u8, flags: u8, payload: &[u8]| {
        let length = (payload.len() as u32).to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    };
    let (headers, end_headers, data) = (1, 4, 0);
    stream.write_all(&frame(headers, end_headers, &block)).await?;
    stream.write_all(&frame(data, 0, &[0])).await?;
    stream.flush().await
}
