//! A scripted source of copies: a QUIC server that hands its sessions to the test.

use quinn::{Connection, Endpoint, RecvStream, SendStream, ServerConfig, crypto::rustls::QuicServerConfig};
use tokio::sync::mpsc;
use usher_certs::{media::MAX_MEDIA_LIFETIME, tls};
use usher_proto::{
    pb::wire::Open,
    wire::{self, Decoder, Frame, Kind},
};

use super::*;
use crate::presence::Presence;

/// A session at the source.
pub(super) struct ScriptedSession {
    pub(super) open: Open,
    send: SendStream,
    _receive: RecvStream,
    _connection: Connection,
}

pub(super) struct ScriptedSource {
    endpoint: Endpoint,
    pins: Vec<[u8; 32]>,
    sessions: mpsc::Receiver<ScriptedSession>,
}

impl ScriptedSource {
    pub(super) fn start() -> Self {
        let presence = Presence::new(NODE, MAX_MEDIA_LIFETIME, Vec::new()).expect("a certificate");
        let pins = presence.subscribe().borrow().certificates.clone();
        let tls = tls::media_server_config(presence.resolver()).expect("TLS");
        let tls = QuicServerConfig::try_from(tls).expect("TLS for QUIC");
        let address = ([127, 0, 0, 1], 0).into();
        let endpoint = Endpoint::server(ServerConfig::with_crypto(Arc::new(tls)), address).expect("a socket");
        let (hand, sessions) = mpsc::channel(16);
        let door = endpoint.clone();
        tokio::spawn(async move {
            while let Some(incoming) = door.accept().await {
                let hand = hand.clone();
                tokio::spawn(async move {
                    let connection = incoming.await.expect("a connection");
                    let (send, mut receive) = connection.accept_bi().await.expect("a stream");
                    let bytes = receive.read_to_end(100_000).await.expect("an Open message");
                    let mut decoder = Decoder::default();
                    decoder.push(&bytes);
                    let Ok(Some(Frame::Open(open))) = decoder.next_frame() else { panic!("no Open message") };
                    drop(hand.send(ScriptedSession { open, send, _receive: receive, _connection: connection }).await);
                });
            }
        });
        Self { endpoint, pins, sessions }
    }

    pub(super) fn order(&self, title: &str, data: &[u8]) -> Replicate {
        order(title, data, self.endpoint.local_addr().expect("an address"), &self.pins, "ticket".into())
    }

    /// The next session.
    pub(super) async fn session(&mut self) -> ScriptedSession {
        self.sessions.recv().await.expect("a session")
    }
}

impl ScriptedSession {
    /// Sends frames.
    pub(super) async fn send(&mut self, frames: &[Frame]) {
        for frame in frames {
            self.send.write_all(&encode(frame)).await.expect("sent");
        }
    }

    /// Sends arbitrary bytes.
    pub(super) async fn write(&mut self, bytes: &[u8]) {
        self.send.write_all(bytes).await.expect("sent");
    }

    /// Ends the stream; the bytes sent arrive.
    pub(super) fn finish(&mut self) {
        self.send.finish().expect("finished");
    }

    /// Waits until the node stops reading.
    pub(super) async fn left(&mut self) {
        drop(self.send.stopped().await);
    }
}

/// The bytes of a frame.
pub(super) fn encode(frame: &Frame) -> Vec<u8> {
    match frame {
        Frame::Setup(setup) => wire::message(Kind::Setup, setup).expect("short enough").to_vec(),
        Frame::Finish(finish) => wire::message(Kind::Finish, finish).expect("short enough").to_vec(),
        Frame::Pages(values) => wire::values(Kind::Pages, values).to_vec(),
        Frame::Hashes(values) => wire::values(Kind::Hashes, values).to_vec(),
        Frame::Group(data) => [&wire::header(Kind::Group, data.len())[..], data].concat(),
        other => panic!("a source does not send {other:?}"),
    }
}
