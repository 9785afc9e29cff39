//! The container of media that is still arriving, by its first bytes.

use std::io::Cursor;

use super::{Source, matroska, mpegts};

/// A container in which titles and feeds come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// MP4, MOV or fragmented MP4.
    Mp4,
    /// Matroska or WebM.
    Matroska,
    /// An MPEG transport stream.
    MpegTs,
}

impl Container {
    /// Bytes after which a file has shown its container.
    pub const HEAD: usize = 1024;

    /// The container of media that begins with `head`; `None` for anything else, and while there are too few bytes.
    pub fn of(head: &[u8]) -> Option<Self> {
        if matroska::is_ebml(head) {
            return Some(Self::Matroska);
        }
        if crate::mp4::begins_file(head) {
            return Some(Self::Mp4);
        }
        let mut reader = Cursor::new(head);
        let layout = mpegts::layout(&mut Source::new(&mut reader, head.len() as u64));
        layout.ok().flatten().map(|_| Self::MpegTs)
    }

    /// The container of a media type, as a probe names it.
    pub fn of_type(media_type: &str) -> Option<Self> {
        match super::media_type(media_type)?.split_once('/')?.1 {
            "mp4" | "quicktime" => Some(Self::Mp4),
            "x-matroska" | "webm" => Some(Self::Matroska),
            _ => Some(Self::MpegTs),
        }
    }

    /// The usual end of a file's name.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Mp4 => "mp4",
            Self::Matroska => "mkv",
            Self::MpegTs => "ts",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packets(stride: usize, lead: usize) -> Vec<u8> {
        let mut bytes = vec![0; 1024];
        bytes.iter_mut().skip(lead).step_by(stride).for_each(|byte| *byte = 0x47);
        bytes
    }

    #[test]
    fn containers_by_their_first_bytes() {
        let mp4 = [&[0, 0, 0, 16][..], b"ftypisom", &[0; 4]].concat();
        let mkv = [&[0x1a, 0x45, 0xdf, 0xa3][..], &[0; 40]].concat();
        for (head, container) in [
            (mp4.as_slice(), Some(Container::Mp4)),
            (&mkv, Some(Container::Matroska)),
            (&packets(188, 0), Some(Container::MpegTs)),
            (&packets(192, 4), Some(Container::MpegTs)),
            (&packets(188, 0)[..300], None),
            (&mp4[..7], None),
            (b"", None),
            (b"#EXTM3U\nhttp://127.0.0.1/a\n", None),
            (b"# mpv EDL v0\nhttp://127.0.0.1/a\n", None),
            (b"[playlist]\nFile1=http://127.0.0.1/a\n", None),
            (b"ffconcat version 1.0\nfile /etc/passwd\n", None),
            (b"<?xml version=\"1.0\"?><MPD/>", None),
        ] {
            assert_eq!(Container::of(head), container, "{:?}", String::from_utf8_lossy(&head[..head.len().min(20)]));
        }
    }

    #[test]
    fn every_media_type_has_its_container() {
        for known in super::super::MEDIA_TYPES {
            assert!(Container::of_type(known).is_some(), "{known}");
        }
        assert_eq!(Container::of_type("video/webm").map(Container::extension), Some("mkv"));
        assert_eq!(Container::of_type("audio/mp4"), Some(Container::Mp4));
        assert_eq!(Container::of_type("application/vnd.apple.mpegurl"), None);
    }
}
