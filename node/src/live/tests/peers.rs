//! A publisher and viewers that speak the protocol by hand.

use bytes::Bytes;
use quinn::{RecvStream, SendStream};
use usher_proto::{
    Code, PublisherId, Title,
    feed::{Chain, FeedSigner, Flags, GroupHead, Link, Piece},
    pb::{
        v1::Setup,
        wire::{FeedOffer, FeedStart, Finish, Open},
    },
    ticket::{Claims, FeedGrant, Purpose, Right},
    wire::{self, Decoder, Frame, Kind},
};

use crate::test_node::{TestNode, Viewer, claims};

pub(super) const NAME: &str = "live/a";
pub(super) const WHOLE: Flags = Flags { whole: true, last: false };
pub(super) const LAST: Flags = Flags { whole: true, last: true };

pub(super) fn signer() -> FeedSigner {
    FeedSigner::from_seed(&[9; 32])
}

pub(super) fn feed_ticket(node: &TestNode, right: Right, change: impl FnOnce(&mut FeedGrant)) -> String {
    let mut grant = FeedGrant {
        right,
        key: signer().key(),
        publisher: PublisherId(1),
        first: 100,
        take_over: false,
        record: false,
    };
    change(&mut grant);
    node.sign(&Claims { feed: Some(grant.to_claims()), purpose: Purpose::Play, ..claims(NAME, None) })
}

/// Reads the frames of one stream.
pub(super) struct Frames {
    pub(super) stream: RecvStream,
    pub(super) decoder: Decoder,
}

impl Frames {
    pub(super) fn new(stream: RecvStream) -> Self {
        Self { stream, decoder: Decoder::default() }
    }

    /// The next frame; `None` when the stream ends or fails.
    pub(super) async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.next_frame().expect("a good frame") {
                return Some(frame);
            }
            self.decoder.push_chunk(self.stream.read_chunk(65536, true).await.ok()??.bytes);
        }
    }
}

pub(super) async fn setup(frames: &mut Frames) -> Result<Setup, Code> {
    match frames.next().await {
        Some(Frame::Setup(setup)) => Ok(setup),
        Some(Frame::Refused(refused)) => Err(Code::from_reason(&refused.reason)),
        other => panic!("{other:?} instead of a Setup"),
    }
}

/// A publisher of a feed.
pub(super) struct Publisher {
    pub(super) viewer: Viewer,
    pub(super) send: SendStream,
    pub(super) control: Frames,
    pub(super) subscription: u64,
    pub(super) first: u64,
    pub(super) previous: Link,
}

impl Publisher {
    pub(super) async fn open(node: &TestNode, change: impl FnOnce(&mut FeedGrant)) -> Result<Self, Code> {
        let ticket = feed_ticket(node, Right::Publish, change);
        let publish = Some(FeedOffer { media_type: "video/mp2t".into(), ..FeedOffer::default() });
        let open = wire::message(Kind::Open, &Open { ticket, publish, ..Open::default() }).expect("short enough");
        let viewer = node.viewer().await;
        let (send, receive) = viewer.send(&open).await;
        let mut control = Frames::new(receive);
        let feed = setup(&mut control).await?.feed.expect("a feed's");
        let (subscription, first) = (feed.subscription, feed.first_group);
        Ok(Self { viewer, send, control, subscription, first, previous: [0; 32] })
    }

    /// The frames of a group with these pieces.
    pub(super) fn group(&mut self, sequence: u64, pieces: &[(Flags, &str)]) -> Vec<Bytes> {
        let head =
            GroupHead { sequence, at_ms: sequence * 1000, previous: self.previous, head: Bytes::from_static(b"head") };
        let mut chain = Chain::begin(&Title::parse(NAME).expect("a title"), &head);
        let mut frames = vec![wire::message(Kind::FeedGroup, &head.to_pb(self.subscription)).expect("short enough")];
        for (flags, media) in pieces {
            chain.take(*flags, media.as_bytes()).expect("a good piece");
            let (signature, media) = (chain.sign(&signer()), Bytes::copy_from_slice(media.as_bytes()));
            frames.push(wire::piece(&Piece { flags: *flags, signature, media }));
        }
        self.previous = chain.link();
        frames
    }

    /// Opens a stream, writes these frames and leaves it open.
    pub(super) async fn begin(&self, frames: &[Bytes]) -> SendStream {
        let mut stream = self.viewer.connection.open_uni().await.expect("a stream");
        for frame in frames {
            stream.write_all(frame).await.expect("written");
        }
        stream
    }

    pub(super) async fn send(&mut self, sequence: u64, pieces: &[(Flags, &str)]) {
        let frames = self.group(sequence, pieces);
        let mut stream = self.begin(&frames).await;
        stream.finish().expect("finished");
        assert_eq!(stream.stopped().await, Ok(None), "all of it is taken");
    }

    pub(super) async fn send_complete(&mut self, sequence: u64) {
        let text = sequence.to_string();
        self.send(sequence, &[(WHOLE, &text), (LAST, "!")]).await;
    }

    pub(super) async fn refused(&mut self) -> Code {
        match self.control.next().await {
            Some(Frame::Refused(refused)) => Code::from_reason(&refused.reason),
            other => panic!("{other:?} instead of a refusal"),
        }
    }

    pub(super) async fn finish(mut self, end_group: u64) {
        let finish = wire::message(Kind::Finish, &Finish { end_group, ..Finish::default() }).expect("short enough");
        self.send.write_all(&finish).await.expect("written");
        // The node confirms by ending its side.
        assert!(self.control.next().await.is_none());
    }
}

/// A viewer of a feed.
pub(super) struct Watcher {
    pub(super) viewer: Viewer,
    pub(super) _send: SendStream,
    pub(super) control: Frames,
    pub(super) first: u64,
}

impl Watcher {
    pub(super) async fn open(node: &TestNode, start: FeedStart) -> Result<Self, Code> {
        let ticket = feed_ticket(node, Right::Watch, |_| {});
        let open = wire::message(Kind::Open, &Open { ticket, watch: Some(start), ..Open::default() });
        let viewer = node.viewer().await;
        // A client allows streams when it watches.
        viewer.connection.set_max_concurrent_uni_streams(32_u32.into());
        let (send, receive) = viewer.send(&open.expect("short enough")).await;
        let mut control = Frames::new(receive);
        let first = setup(&mut control).await?.feed.expect("a feed's").first_group;
        Ok(Self { viewer, _send: send, control, first })
    }

    /// The next group: its number, its media, and whether it is complete.
    pub(super) async fn group(&self) -> (u64, String, bool) {
        let mut frames = Frames::new(self.viewer.connection.accept_uni().await.expect("a group"));
        let Some(Frame::FeedGroup(head)) = frames.next().await else { panic!("a group begins with its head") };
        let head = GroupHead::try_from(head).expect("a good head");
        let mut chain = Chain::begin(&Title::parse(NAME).expect("a title"), &head);
        let mut text = String::new();
        while let Some(Frame::Piece(piece)) = frames.next().await {
            chain.take(piece.flags, &piece.media).expect("a good piece");
            assert!(chain.is_signed(&signer().key(), &piece.signature), "an edge alters nothing");
            text += std::str::from_utf8(&piece.media).expect("text");
        }
        (head.sequence, text, chain.is_ended())
    }
}
