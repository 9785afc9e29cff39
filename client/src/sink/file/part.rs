//! The part and its state on the disk, as long as they are open. Everything here blocks, and is called from a thread that
//! may. The final name is left to the caller.

use std::{
    fs::File,
    io::{ErrorKind, Read as _, Seek as _, SeekFrom, Write as _},
    ops::Range,
    path::{Path, PathBuf},
};

use rustix::fs::FlockOperation;
use usher_proto::{
    Code, Fault,
    tree::{self, GROUP, Value},
};

use crate::core::{
    assembler::Chunk,
    state::{self, Header, LINE, MAX_HEADER},
};

/// Groups between two writes of the state: 4 MiB of media to fetch again after a crash.
const FLUSH: usize = 64;

/// The names of a file on its way.
#[derive(Clone, Debug)]
pub(super) struct Names {
    pub(super) part: PathBuf,
    pub(super) state: PathBuf,
}

/// The content that the part is to have.
pub(super) struct Wanted {
    /// None for content that is not known yet.
    pub(super) header: Option<Header>,
    pub(super) range: Range<u64>,
    /// Existing files may be overwritten.
    pub(super) force: bool,
}

/// An open part, and its state.
#[derive(Debug)]
pub(super) struct Part {
    names: Names,
    part: File,
    state: File,
    /// Whether the state has a header: there is none for content that is not known yet.
    resumable: bool,
    /// Hashes in the state, or waiting to be.
    recorded: u64,
    /// Nothing was written, nor was anything there.
    empty: bool,
    waiting: String,
}

/// The fault of a failed file operation, with a hint for the user.
pub(super) fn fault(verb: &str, path: &Path, error: &std::io::Error) -> Fault {
    let hint = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            "; make room and run the same command again, which goes on from here"
        }
        _ => "",
    };
    Fault::new(Code::Disk, format!("{verb} {}: {error}{hint}", path.display()))
}

impl Part {
    /// Opens or makes both files, alone; keeps what an earlier run left that is of use, and says why if that is nothing.
    pub(super) fn open(names: Names, wanted: &Wanted, notices: &mut Vec<String>) -> Result<Self, Fault> {
        let mut part = own(&names.part)?;
        if rustix::fs::flock(&part, FlockOperation::NonBlockingLockExclusive).is_err() {
            let text = format!("{} is being written by another usher; wait for it", names.part.display());
            return Err(Fault::new(Code::Exists, text));
        }
        let state = usher_files::existing(&names.state).map_err(|error| not_own(&names.state, &error))?;
        if !wanted.force && foreign(&part, state.as_ref()) {
            let text = format!(
                "{} is not from an earlier fetch; move it away, or overwrite it with --force",
                names.part.display()
            );
            return Err(Fault::new(Code::Exists, text));
        }
        let earlier = earlier(&names, &part, state.as_ref(), wanted, notices);
        let mut state = state.map_or_else(|| own(&names.state), Ok)?;
        let cut = part.set_len(earlier.bytes).and_then(|()| part.seek(SeekFrom::Start(earlier.bytes)));
        cut.map_err(|error| fault("cut", &names.part, &error))?;
        let mut renew = || {
            state.set_len(earlier.state)?;
            state.seek(SeekFrom::Start(earlier.state))?;
            let text = wanted.header.as_ref().map(Header::text).unwrap_or_default();
            if earlier.state == 0 { state.write_all(text.as_bytes()) } else { Ok(()) }
        };
        renew().map_err(|error| fault("write", &names.state, &error))?;
        let (resumable, recorded) = (wanted.header.is_some(), earlier.groups);
        Ok(Self { names, part, state, resumable, recorded, empty: recorded == 0, waiting: String::new() })
    }

    /// Groups that are there, as the state tells or will tell.
    pub(super) fn recorded(&self) -> u64 {
        self.recorded
    }

    /// Whether a second run could go on from what is there.
    pub(super) fn is_resumable(&self) -> bool {
        self.resumable && self.recorded > 0
    }

    /// Whether it is as good as not there.
    pub(super) fn is_empty(&self) -> bool {
        self.empty
    }

    /// Appends these chunks. The state follows the bytes, never the other way round.
    pub(super) fn write(&mut self, chunks: &[Chunk]) -> Result<(), Fault> {
        self.empty &= chunks.is_empty();
        let bytes = chunks.iter().map(|chunk| &*chunk.data);
        usher_files::write_all(&mut self.part, bytes).map_err(|error| fault("write", &self.names.part, &error))?;
        for chunk in chunks {
            // A gap (groups that waited to be verified) ends what can be recorded: the lines are in the order of groups.
            if self.resumable && !chunk.pending && chunk.number == self.recorded {
                self.recorded += 1;
                self.waiting.push_str(&state::line(&chunk.value));
            }
        }
        if self.waiting.len() >= FLUSH * LINE { self.flush() } else { Ok(()) }
    }

    /// Writes what the state does not tell yet.
    pub(super) fn flush(&mut self) -> Result<(), Fault> {
        let lines = std::mem::take(&mut self.waiting);
        self.state.write_all(lines.as_bytes()).map_err(|error| fault("write", &self.names.state, &error))
    }

    /// The file with the bytes.
    pub(super) fn file(&self) -> &File {
        &self.part
    }
}

/// Opens or makes a file that nobody planted.
fn own(path: &Path) -> Result<File, Fault> {
    usher_files::open_own(path, 0o666).map_err(|error| not_own(path, &error))
}

/// The fault of a file that could not be opened. One that is not this user's is in the way, even with --force: what it
/// leads to is not the client's to overwrite.
pub(in crate::sink) fn not_own(path: &Path, error: &std::io::Error) -> Fault {
    if error.kind() != ErrorKind::AlreadyExists {
        return fault("open", path, error);
    }
    let text = format!("{} is in the way: {error}; move it away, or choose another -o", path.display());
    Fault::new(Code::Exists, text)
}

/// Whether the part holds bytes that no earlier run wrote: one has a state beside it, with our first line or, for content
/// that was not known, empty.
fn foreign(part: &File, state: Option<&File>) -> bool {
    let empty = part.metadata().is_ok_and(|meta| meta.len() == 0);
    let start = state.and_then(|state| head(state, state::MARK.len() as u64).ok());
    !empty && start.is_none_or(|start| !(start.is_empty() || start == state::MARK))
}

/// The first bytes of a file, at most `most`.
fn head(mut file: &File, most: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The reusable part of an earlier run's files.
fn earlier(names: &Names, part: &File, state: Option<&File>, wanted: &Wanted, notices: &mut Vec<String>) -> Earlier {
    let Some(header) = &wanted.header else { return Earlier::default() };
    match check_part(part, state, header, &wanted.range) {
        Ok(good) => good,
        Err(Some(why)) => {
            notices.push(format!("{}: {why}; starting over", names.part.display()));
            Earlier::default()
        }
        Err(None) => Earlier::default(),
    }
}

/// The reusable part of an earlier run: verified groups, their bytes, and the bytes of the state that describe them.
#[derive(Clone, Copy, Debug, Default)]
struct Earlier {
    groups: u64,
    bytes: u64,
    state: u64,
}

/// Reads the state and hashes what is there: the good groups from the first on. `Err(None)` when there is nothing.
fn check_part(
    mut part: &File,
    state: Option<&File>,
    wanted: &Header,
    range: &Range<u64>,
) -> Result<Earlier, Option<String>> {
    let there = part.metadata().map_err(|_| None)?.len().min(range.end - range.start);
    if there == 0 {
        return Err(None);
    }
    // No more hashes are of use than there are groups in the part.
    let lines = tree::groups(there).saturating_add(1).saturating_mul(LINE as u64);
    let state = state.ok_or_else(|| Some("it has no state file".to_owned()))?;
    let text = head(state, lines.saturating_add(MAX_HEADER as u64)).map_err(|error| Some(error.to_string()))?;
    let (header, values) = state::parse(&text).map_err(|error| Some(error.to_string()))?;
    wanted.continues(&header).map_err(|error| Some(error.to_string()))?;
    let head = header.text();
    if !text.starts_with(head.as_bytes()) {
        return Err(Some("the state file was edited".to_owned()));
    }
    part.rewind().map_err(|error| Some(error.to_string()))?;
    let (groups, bytes) = good_groups(&mut part, &values, range);
    Ok(Earlier { groups, bytes, state: head.len() as u64 + groups * LINE as u64 })
}

/// Counts the groups, from the first on, whose bytes hash to their values.
fn good_groups(file: &mut impl std::io::Read, values: &[Value], range: &Range<u64>) -> (u64, u64) {
    let (mut groups, mut bytes) = (0, 0);
    let mut buffer = vec![0; GROUP as usize];
    for value in values {
        let offset = range.start + bytes;
        let index = offset / GROUP;
        let len = ((index + 1) * GROUP).min(range.end).saturating_sub(offset);
        let Some(chunk) = usize::try_from(len).ok().and_then(|len| buffer.get_mut(..len)) else { break };
        if chunk.is_empty() || file.read_exact(chunk).is_err() || tree::group_value(index, chunk) != *value {
            break;
        }
        groups += 1;
        bytes += len;
    }
    (groups, bytes)
}
