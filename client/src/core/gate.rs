//! The check before media reaches a player: its first bytes must be of a container that Usher offers, so that a hostile node
//! or publisher cannot make a player open something else, such as a playlist with the URLs of its choice.

use bytes::Bytes;
use usher_media::probe::Container;
use usher_proto::{Code, Fault};

/// Holds media back until its container is known.
#[derive(Debug, Default)]
pub struct Gate {
    container: Option<Container>,
    held: Vec<Bytes>,
    /// The held bytes, as far as they matter.
    head: Vec<u8>,
}

impl Gate {
    /// The container, once it is known.
    pub fn container(&self) -> Option<Container> {
        self.container
    }

    /// The next media arrived: returns what may pass now.
    ///
    /// # Errors
    /// [`Code::VerificationFailed`] for any other kind of bytes; nothing passes then.
    pub fn handle_media(&mut self, media: Vec<Bytes>) -> Result<Vec<Bytes>, Fault> {
        if self.container.is_some() {
            return Ok(media);
        }
        for bytes in &media {
            let missing = Container::HEAD - self.head.len();
            self.head.extend_from_slice(bytes.get(..missing).unwrap_or(bytes));
        }
        self.held.extend(media);
        self.container = Container::of(&self.head);
        match self.container {
            Some(_) => Ok(std::mem::take(&mut self.held)),
            None if self.head.len() < Container::HEAD => Ok(Vec::new()),
            None => Err(no_media()),
        }
    }

    /// The media has ended.
    ///
    /// # Errors
    /// As [`Gate::handle_media`], when the media is too short to recognise its container.
    pub fn handle_end(&self) -> Result<(), Fault> {
        if self.container.is_some() { Ok(()) } else { Err(no_media()) }
    }
}

/// The fault of bytes that are given to no player.
pub fn no_media() -> Fault {
    let text = "the received bytes are not MP4, Matroska, WebM or MPEG-TS, so no player gets them; \
                `usher fetch` saves them as a file";
    Fault::new(Code::VerificationFailed, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(bytes: &[u8], len: usize) -> Vec<Bytes> {
        bytes.chunks(len).map(Bytes::copy_from_slice).collect()
    }

    #[test]
    fn media_passes_whole_whatever_its_pieces_are() {
        let mut ts = vec![0; 5000];
        ts.iter_mut().step_by(188).for_each(|byte| *byte = 0x47);
        for len in [1, 7, 188, 1024, 5000] {
            let mut gate = Gate::default();
            let passed: Vec<Bytes> =
                parts(&ts, len).into_iter().flat_map(|part| gate.handle_media(vec![part]).expect("media")).collect();
            assert_eq!(passed.concat(), ts, "in parts of {len}");
            assert_eq!((gate.container(), gate.handle_end()), (Some(Container::MpegTs), Ok(())));
        }
    }

    #[test]
    fn nothing_else_passes() {
        let list = b"#EXTM3U\nhttp://127.0.0.1/secret\n".repeat(100);
        for len in [1, 500, 9999] {
            let mut gate = Gate::default();
            let taken: Result<Vec<_>, Fault> =
                parts(&list, len).into_iter().map(|part| gate.handle_media(vec![part])).collect();
            assert_eq!(taken.map_err(|fault| fault.code), Err(Code::VerificationFailed));
        }
        let mut short = Gate::default();
        assert_eq!(short.handle_media(parts(&list[..60], 60)), Ok(Vec::new()));
        assert!(short.handle_end().is_err());
    }
}
