//! What becomes of a feed that is recorded: whether it can be, under which names, and what is written before a group.
//! Refuses to know files.

use bytes::Bytes;
use usher_proto::{
    Code, Fault, Title,
    feed::GroupHead,
    wire::{HEADER, PIECE_HEAD},
};

/// The folder of all recordings, which begins their titles.
pub const FOLDER: &str = "recordings";

/// What the name of a file ends with while it is written.
pub const PART: &str = ".part";

/// The most files of one folder and time.
pub const MOST: u32 = 9999;

/// Characters that a file's name takes at most, with what it ends with while it is written.
const NAME: usize = "/20261126T110800Z-9999.mp4.part".len();

/// How the media of a feed lie in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// An MPEG transport stream.
    Ts,
    /// Fragmented MP4.
    Mp4,
}

impl Format {
    /// What its files' names end with.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Ts => "ts",
            Self::Mp4 => "mp4",
        }
    }
}

/// Where the recordings of a feed are, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The title of the folder.
    pub folder: String,
    /// How.
    pub format: Format,
}

impl Place {
    /// Of a feed.
    ///
    /// # Errors
    /// `BAD_REQUEST` for one whose recordings could not be titles.
    pub fn of(feed: &Title, media_type: &str) -> Result<Self, Fault> {
        let bad = |what: String| Err(Fault::new(Code::BadRequest, what));
        let format = match media_type {
            "video/mp2t" => Format::Ts,
            "video/mp4" | "audio/mp4" => Format::Mp4,
            other => return bad(format!("a feed of `{other}` cannot be recorded; publish it without --record")),
        };
        let name = feed.as_str().strip_prefix("live/").unwrap_or(feed.as_str());
        // Libraries pass over such names.
        let passed = |part: &str| part.starts_with('.') || [PART, ".tmp", "~"].iter().any(|end| part.ends_with(end));
        if feed.parts().any(passed) {
            return bad(format!(
                "`{feed}` cannot be recorded: parts of its name begin with . or end with ~, .part or .tmp"
            ));
        }
        let folder = format!("{FOLDER}/{name}");
        if folder.len() + NAME > usher_proto::title::MAX_BYTES {
            return bad(format!("`{feed}` cannot be recorded: its name is too long"));
        }
        Ok(Self { folder, format })
    }

    /// The name of a file, the `number`th of its time, counted from 1.
    pub fn file(&self, time: &str, number: u32) -> String {
        let end = self.format.extension();
        if number == 1 { format!("{time}.{end}") } else { format!("{time}-{number}.{end}") }
    }
}

/// What is to be done for a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// It begins a file.
    pub file: bool,
    /// Its head goes before its media.
    pub head: bool,
}

/// What was written of a feed, group after group.
#[derive(Debug)]
pub struct Plan {
    format: Format,
    head: Option<Bytes>,
}

impl Plan {
    /// Nothing yet.
    pub fn new(format: Format) -> Self {
        Self { format, head: None }
    }

    /// A group is next.
    pub fn take(&mut self, group: &GroupHead) -> Step {
        let first = self.head.is_none();
        let same = self.head.as_ref() == Some(&group.head);
        self.head = Some(group.head.clone());
        match self.format {
            // A group's head is the packets of tables before its media.
            Format::Ts => Step { file: first, head: true },
            // The times of another publisher begin anew, which no file tells of.
            Format::Mp4 => {
                let file = !same || group.previous == [0; 32];
                Step { file, head: file }
            }
        }
    }
}

/// The media of a piece as it is sent.
pub fn media(frame: &Bytes) -> Bytes {
    frame.slice((HEADER + PIECE_HEAD).min(frame.len())..)
}

/// How much of a file is good that lost its end, from the boxes it begins with: their kinds and lengths.
pub fn good(boxes: impl Iterator<Item = ([u8; 4], u64)>, size: u64) -> u64 {
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

    fn place(name: &str, media_type: &str) -> Result<Place, Fault> {
        Place::of(&Title::parse(name).expect("a title"), media_type)
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
        for (name, media_type) in [
            ("live/a", "video/webm"),
            ("live/a", ""),
            ("live/.a", "video/mp2t"),
            ("live/a.part/b", "video/mp2t"),
            (long.as_str(), "video/mp2t"),
        ] {
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
            let mut plan = Plan::new(format);
            groups.iter().map(|group| plan.take(group)).map(|step| (step.file, step.head)).collect::<Vec<_>>()
        };
        let (new, on) = ((true, true), (false, false));
        assert_eq!(steps(Format::Mp4), [new, on, new, on, new]);
        assert_eq!(steps(Format::Ts), [new, (false, true), (false, true), (false, true), (false, true)]);
    }

    #[test]
    fn the_media_of_a_frame() {
        let piece = Piece { flags: Flags::default(), signature: [1; SIGNATURE], media: Bytes::from_static(b"media") };
        assert_eq!(media(&wire::piece(&piece)), piece.media);
        assert!(media(&Bytes::from_static(b"short")).is_empty());
    }

    #[test]
    fn what_is_good_of_a_torn_file() {
        let boxes = [(*b"ftyp", 10), (*b"moov", 20), (*b"moof", 5), (*b"mdat", 7), (*b"moof", 5), (*b"mdat", 7)];
        let good = |size| super::good(boxes.into_iter(), size);
        assert_eq!([0, 30, 41, 42, 47, 53, 54].map(good), [0, 0, 0, 42, 42, 42, 54]);
    }
}
