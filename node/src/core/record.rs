//! The layout of recordings: which feeds can be recorded, the names of the files, and what is written before a group.
//! Knows no file system.

use bytes::Bytes;
use usher_proto::{
    Code, Fault, Title,
    feed::GroupHead,
    wire::{HEADER, PIECE_HEAD},
};

/// The folder of all recordings, the first part of their titles.
pub const FOLDER: &str = "recordings";

/// Suffix of a file that is being written.
pub const PART_EXTENSION: &str = ".part";

/// Most files with the same folder and time.
pub const MAX_FILES: u32 = 9999;

/// Most bytes of a file's name, with slash and suffix.
const MAX_NAME: usize = "/20261126T110800Z-9999.mp4.part".len();

/// The container of a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordingFormat {
    /// An MPEG transport stream.
    Ts,
    /// Fragmented MP4.
    Mp4,
}

impl RecordingFormat {
    /// File name extension.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Ts => "ts",
            Self::Mp4 => "mp4",
        }
    }
}

/// Folder and container of a feed's recordings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordingTarget {
    /// Title of the folder.
    pub folder: String,
    /// Container.
    pub format: RecordingFormat,
}

impl RecordingTarget {
    /// The target for a feed.
    ///
    /// # Errors
    /// `BAD_REQUEST` when the recordings could not be titles.
    pub fn new(feed: &Title, media_type: &str) -> Result<Self, Fault> {
        let bad = |what: String| Err(Fault::new(Code::BadRequest, what));
        let format = match media_type {
            "video/mp2t" => RecordingFormat::Ts,
            "video/mp4" | "audio/mp4" => RecordingFormat::Mp4,
            other => return bad(format!("a feed of `{other}` cannot be recorded; publish it without --record")),
        };
        let name = feed.as_str().strip_prefix("live/").unwrap_or(feed.as_str());
        // The library skips such names.
        let passed = |part: &str| [PART_EXTENSION, ".tmp", "~"].iter().any(|end| part.ends_with(end));
        if feed.parts().any(passed) {
            return bad(format!("`{feed}` cannot be recorded: parts of its name end with ~, .part or .tmp"));
        }
        let folder = format!("{FOLDER}/{name}");
        if folder.len() + MAX_NAME > usher_proto::title::MAX_BYTES {
            return bad(format!("`{feed}` cannot be recorded: its name is too long"));
        }
        Ok(Self { folder, format })
    }

    /// Name of the `number`th file of a time, counted from 1.
    pub fn file(&self, time: &str, number: u32) -> String {
        let end = self.format.extension();
        if number == 1 { format!("{time}.{end}") } else { format!("{time}-{number}.{end}") }
    }
}

/// How to write a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordStep {
    /// Start a new file.
    pub file: bool,
    /// Write the group's head before its media.
    pub head: bool,
}

/// Decides how each group of a feed is written.
#[derive(Debug)]
pub struct RecordingPlan {
    format: RecordingFormat,
    head: Option<Bytes>,
}

impl RecordingPlan {
    /// A plan for a new recording.
    pub fn new(format: RecordingFormat) -> Self {
        Self { format, head: None }
    }

    /// Handles the next group.
    pub fn handle_group(&mut self, group: &GroupHead) -> RecordStep {
        let first = self.head.is_none();
        let same = self.head.as_ref() == Some(&group.head);
        self.head = Some(group.head.clone());
        match self.format {
            // A transport stream's head holds the tables, which may precede any media.
            RecordingFormat::Ts => RecordStep { file: first, head: true },
            // Another publisher's timestamps start anew, which a single file cannot express.
            RecordingFormat::Mp4 => {
                let file = !same || group.previous == [0; 32];
                RecordStep { file, head: file }
            }
        }
    }
}

/// The media of a piece in its wire form.
pub fn media(frame: &Bytes) -> Bytes {
    frame.slice((HEADER + PIECE_HEAD).min(frame.len())..)
}

/// Length of the complete part of a truncated MP4 file, from the kinds and lengths of its boxes.
pub fn complete_len(boxes: impl Iterator<Item = ([u8; 4], u64)>, size: u64) -> u64 {
    let (mut at, mut good) = (0_u64, 0);
    for (kind, length) in boxes {
        at = at.saturating_add(length);
        if at > size {
            break;
        }
        if kind == *b"mdat" {
            good = at;
        }
    }
    good
}

#[cfg(test)]
mod tests {
    use usher_proto::{
        feed::{Flags, Piece, SIGNATURE},
        wire,
    };

    use super::*;

    fn place(name: &str, media_type: &str) -> Result<RecordingTarget, Fault> {
        RecordingTarget::new(&Title::parse(name).expect("a title"), media_type)
    }

    #[test]
    fn names() {
        let ts = place("live/a/b", "video/mp2t").expect("good");
        assert_eq!(
            (ts.folder.as_str(), ts.file("T", 1), ts.file("T", 2)),
            ("recordings/a/b", "T.ts".into(), "T-2.ts".into())
        );
        assert_eq!(place("live/a", "audio/mp4").map(|place| place.file("T", 1)), Ok("T.mp4".into()));
        let long = format!("live/{}", "x/".repeat(500).trim_end_matches('/'));
        for (name, media_type) in
            [("live/a", "video/webm"), ("live/a", ""), ("live/a.part/b", "video/mp2t"), (long.as_str(), "video/mp2t")]
        {
            assert_eq!(place(name, media_type).map_err(|fault| fault.code), Err(Code::BadRequest), "{name}");
        }
    }

    #[test]
    fn heads() {
        let group = |head: &'static str, previous: u8| GroupHead {
            sequence: 1,
            at_ms: 0,
            previous: [previous; 32],
            head: Bytes::from_static(head.as_bytes()),
        };
        let groups = [group("a", 0), group("a", 1), group("b", 1), group("b", 1), group("b", 0)];
        let steps = |format| {
            let mut plan = RecordingPlan::new(format);
            groups.iter().map(|group| plan.handle_group(group)).map(|step| (step.file, step.head)).collect::<Vec<_>>()
        };
        let (new, on) = ((true, true), (false, false));
        assert_eq!(steps(RecordingFormat::Mp4), [new, on, new, on, new]);
        assert_eq!(steps(RecordingFormat::Ts), [new, (false, true), (false, true), (false, true), (false, true)]);
    }

    #[test]
    fn the_media_of_a_frame() {
        let piece = Piece { flags: Flags::default(), signature: [1; SIGNATURE], media: Bytes::from_static(b"media") };
        assert_eq!(media(&wire::piece(&piece)), piece.media);
        assert!(media(&Bytes::from_static(b"short")).is_empty());
    }

    #[test]
    fn the_complete_part_of_a_truncated_file() {
        let boxes = [(*b"ftyp", 10), (*b"moov", 20), (*b"moof", 5), (*b"mdat", 7), (*b"moof", 5), (*b"mdat", 7)];
        let good = |size| super::complete_len(boxes.into_iter(), size);
        assert_eq!([0, 30, 41, 42, 47, 53, 54].map(good), [0, 0, 0, 42, 42, 42, 54]);
    }
}
