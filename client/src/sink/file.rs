//! A file: written as `NAME.part` beside its place, with `NAME.part.state` beside that, and moved there when every byte
//! is verified. A second run takes up where the first left off.
//!
//! Refuses to know titles and nodes. What the state claims is checked against the bytes on the disk before it is used.

use std::{
    ffi::OsString,
    io::{ErrorKind, Read as _, SeekFrom},
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, FlockOperation, RenameFlags};
use tokio::{
    fs::{File, OpenOptions},
    io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _},
};
use usher_proto::{
    Code, ContentId, Fault,
    tree::{self, GROUP, Value},
};

use crate::{
    core::{
        assembler::Piece,
        state::{self, Header, LINE, MAX_HEADER},
    },
    driver::{About, Sink},
};

/// Groups between two writes of the state: 4 MiB of media to fetch again after a crash.
const FLUSH: usize = 64;

/// A file on its way.
#[derive(Debug)]
pub struct FileSink {
    target: PathBuf,
    force: bool,
    part: PathBuf,
    state: PathBuf,
    open: Option<Open>,
    notices: Vec<String>,
}

#[derive(Debug)]
struct Open {
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

impl FileSink {
    /// Will write `target`, which must not exist unless `force`.
    pub fn new(target: PathBuf, force: bool) -> Self {
        let stem = stem(&target);
        let beside = |suffix: &str| {
            let mut name = stem.clone();
            name.push(suffix);
            target.with_file_name(name)
        };
        let (part, state) = (beside(".part"), beside(".part.state"));
        Self { target, force, part, state, open: None, notices: Vec::new() }
    }

    /// Where the file will be.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// What the user should know about an earlier run's part; each is told once.
    pub fn notices(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notices)
    }

    /// Whether a second run could go on from what is there.
    pub fn resumable(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.resumable && open.recorded > 0)
    }

    fn fault(&self, verb: &str, path: &Path, error: &std::io::Error) -> Fault {
        let hint = match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                "; make room and run the same command again, which goes on from here"
            }
            _ => "",
        };
        Fault::new(Code::Disk, format!("{verb} {}: {error}{hint}", path.display()))
    }

    fn exists(&self) -> Fault {
        let text = format!("{} exists; overwrite it with --force, or choose another -o", self.target.display());
        Fault::new(Code::Exists, text)
    }

    /// Refuses early what would be refused at the end.
    pub fn check(&self) -> Result<(), Fault> {
        // The name itself counts, even where it is a link to nowhere.
        match self.target.symlink_metadata() {
            Ok(meta) if meta.is_dir() => {
                let text = format!("{} is a folder; choose another -o", self.target.display());
                Err(Fault::new(Code::Exists, text))
            }
            Ok(meta) if !meta.is_file() && !meta.is_symlink() => {
                let text =
                    format!("{} is no regular file and is not replaced; choose another -o", self.target.display());
                Err(Fault::new(Code::Exists, text))
            }
            Ok(_) if !self.force => Err(self.exists()),
            _ => Ok(()),
        }
    }

    async fn flush(&mut self) -> Result<(), Fault> {
        let Some(open) = &mut self.open else { return Ok(()) };
        let part = open.part.flush().await;
        // Even when the disk is full: what was written before is worth recording, and the state is checked when read.
        let lines = std::mem::take(&mut open.waiting);
        let state = async {
            if open.resumable {
                open.state.write_all(lines.as_bytes()).await?;
            }
            open.state.flush().await
        };
        let state = state.await;
        part.map_err(|error| self.fault("write", &self.part, &error))?;
        state.map_err(|error| self.fault("write", &self.state, &error))
    }

    /// Whether the part holds bytes that no earlier run wrote: one has a state beside it, with our first line or, for
    /// content that was not known, empty.
    async fn foreign(&self, part: &File) -> bool {
        let empty = part.metadata().await.is_ok_and(|meta| meta.len() == 0);
        let mut start = Vec::new();
        let read = match File::open(&self.state).await {
            Ok(file) => file.take(state::MARK.len() as u64).read_to_end(&mut start).await,
            Err(error) => Err(error),
        };
        !empty && (read.is_err() || !(start.is_empty() || start == state::MARK))
    }

    /// What an earlier run left that is of use.
    async fn earlier(&mut self, header: Option<&Header>, range: &std::ops::Range<u64>) -> Earlier {
        let Some(header) = header else { return Earlier::default() };
        let (part, state, wanted) = (self.part.clone(), self.state.clone(), header.clone());
        let range = range.clone();
        let checked = tokio::task::spawn_blocking(move || check_part(&part, &state, &wanted, &range)).await;
        match checked {
            Ok(Ok(good)) => good,
            Ok(Err(Some(why))) => {
                self.notices.push(format!("{}: {why}; starting over", self.part.display()));
                Earlier::default()
            }
            Ok(Err(None)) | Err(_) => Earlier::default(),
        }
    }
}

/// What the names of the part and its state begin with: the file's name, cut and made unique again if it is so long
/// that a file system, which allows 255 bytes, would not take it with `.part.state` behind.
fn stem(target: &Path) -> OsString {
    const LONGEST: usize = 255 - ".part.state".len();
    let name = target.file_name().unwrap_or_default();
    if name.len() <= LONGEST {
        return name.to_owned();
    }
    let hash = blake3::hash(name.as_encoded_bytes()).to_hex();
    let hash = hash.get(..16).unwrap_or_default();
    let name = name.to_string_lossy();
    let fits = LONGEST - 1 - hash.len();
    let stem: String = name.char_indices().take_while(|(at, c)| at + c.len_utf8() <= fits).map(|(_, c)| c).collect();
    format!("{stem}-{hash}").into()
}

/// What an earlier run left: good groups, the bytes they take, and the bytes of the state that tell of them.
#[derive(Clone, Copy, Debug, Default)]
struct Earlier {
    groups: u64,
    bytes: u64,
    state: u64,
}

/// Reads the state and hashes what is there: the good groups from the first on. `Err(None)` when there is nothing.
fn check_part(
    part: &Path,
    state: &Path,
    wanted: &Header,
    range: &std::ops::Range<u64>,
) -> Result<Earlier, Option<String>> {
    let there = part.metadata().map_err(|_| None)?.len().min(range.end - range.start);
    if there == 0 {
        return Err(None);
    }
    // No more hashes are of use than there are groups in the part.
    let lines = tree::groups(there).saturating_add(1).saturating_mul(LINE as u64);
    let mut text = Vec::new();
    let file = std::fs::File::open(state).map_err(|_| Some("it has no state file".to_owned()))?;
    file.take(lines.saturating_add(MAX_HEADER as u64)).read_to_end(&mut text).map_err(|e| Some(e.to_string()))?;
    let (header, values) = state::parse(&text).map_err(|error| Some(error.to_string()))?;
    wanted.continues(&header).map_err(|error| Some(error.to_string()))?;
    let head = header.text();
    if !text.starts_with(head.as_bytes()) {
        return Err(Some("the state file was edited".to_owned()));
    }
    let mut file = std::fs::File::open(part).map_err(|error| Some(error.to_string()))?;
    let (groups, bytes) = good_groups(&mut file, &values, range);
    Ok(Earlier { groups, bytes, state: head.len() as u64 + groups * LINE as u64 })
}

/// Counts the groups, from the first on, whose bytes hash to their values.
fn good_groups(file: &mut impl std::io::Read, values: &[Value], range: &std::ops::Range<u64>) -> (u64, u64) {
    let (mut groups, mut bytes) = (0, 0);
    let mut buffer = vec![0; GROUP as usize];
    for value in values {
        let offset = range.start + bytes;
        let index = offset / GROUP;
        let len = ((index + 1) * GROUP).min(range.end).saturating_sub(offset);
        let Some(piece) = usize::try_from(len).ok().and_then(|len| buffer.get_mut(..len)) else { break };
        if piece.is_empty() || file.read_exact(piece).is_err() || tree::group_value(index, piece) != *value {
            break;
        }
        groups += 1;
        bytes += len;
    }
    (groups, bytes)
}

impl Sink for FileSink {
    async fn begin(&mut self, about: &About) -> Result<u64, Fault> {
        self.check()?;
        if let Some(folder) = self.target.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            tokio::fs::create_dir_all(folder).await.map_err(|error| self.fault("make folder", folder, &error))?;
        }
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true);
        let mut part = options.open(&self.part).await.map_err(|error| self.fault("open", &self.part, &error))?;
        if rustix::fs::flock(&part, FlockOperation::NonBlockingLockExclusive).is_err() {
            let text = format!("{} is being written by another usher; wait for it", self.part.display());
            return Err(Fault::new(Code::Exists, text));
        }
        if !self.force && self.foreign(&part).await {
            let text = format!(
                "{} is not from an earlier fetch; move it away, or overwrite it with --force",
                self.part.display()
            );
            return Err(Fault::new(Code::Exists, text));
        }
        let header = about.content.map(|content| Header {
            content,
            size: about.size,
            range: about.range.clone(),
            title: about.title.clone(),
        });
        let earlier = self.earlier(header.as_ref(), &about.range).await;
        let mut state = options.open(&self.state).await.map_err(|error| self.fault("open", &self.state, &error))?;
        let cut = async {
            part.set_len(earlier.bytes).await?;
            part.seek(SeekFrom::Start(earlier.bytes)).await
        };
        cut.await.map_err(|error| self.fault("cut", &self.part, &error))?;
        let renew = async {
            state.set_len(earlier.state).await?;
            state.seek(SeekFrom::Start(earlier.state)).await?;
            if earlier.state == 0 {
                let text = header.as_ref().map(Header::text).unwrap_or_default();
                state.write_all(text.as_bytes()).await?;
            }
            state.flush().await
        };
        renew.await.map_err(|error| self.fault("write", &self.state, &error))?;
        let resumable = header.is_some();
        let recorded = earlier.groups;
        self.open = Some(Open { part, state, resumable, recorded, empty: recorded == 0, waiting: String::new() });
        Ok(recorded)
    }

    async fn write(&mut self, piece: Piece) -> Result<(), Fault> {
        let lost = || Fault::new(Code::Internal, "the file is not open");
        let open = self.open.as_mut().ok_or_else(lost)?;
        if let Err(error) = open.part.write_all(&piece.data).await {
            return Err(self.fault("write", &self.part, &error));
        }
        open.empty = false;
        // A gap (groups that waited to be verified) ends what can be recorded: the lines are in the order of groups.
        if open.resumable && !piece.pending && piece.number == open.recorded {
            open.recorded += 1;
            open.waiting.push_str(&state::line(&piece.value));
        }
        if open.waiting.len() >= FLUSH * LINE { self.flush().await } else { Ok(()) }
    }

    async fn finish(&mut self, _content: ContentId) -> Result<(), Fault> {
        self.flush().await?;
        let Some(open) = self.open.take() else { return Ok(()) };
        open.part.sync_all().await.map_err(|error| self.fault("write to disk", &self.part, &error))?;
        let flags = if self.force { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
        let moved = match rustix::fs::renameat_with(CWD, &self.part, CWD, &self.target, flags) {
            // A file system that cannot refuse to replace: look, then move.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                self.check()?;
                std::fs::rename(&self.part, &self.target)
            }
            Err(rustix::io::Errno::EXIST) => return Err(self.exists()),
            other => other.map_err(Into::into),
        };
        moved.map_err(|error| self.fault("move into place", &self.target, &error))?;
        if let Err(error) = tokio::fs::remove_file(&self.state).await {
            tracing::warn!(path = %self.state.display(), %error, "the state file could not be removed");
        }
        let folder = self.target.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or_else(|| Path::new("."));
        // The name reaches the disk with its folder. Some file systems cannot sync one; the bytes are safe anyway.
        if let Err(error) = std::fs::File::open(folder).and_then(|folder| folder.sync_all()) {
            tracing::debug!(%error, "the folder could not be written to disk");
        }
        Ok(())
    }

    async fn pause(&mut self) -> Result<(), Fault> {
        if self.open.as_ref().is_some_and(|open| open.empty) {
            self.open = None;
            for path in [&self.part, &self.state] {
                if let Err(error) = std::fs::remove_file(path) {
                    tracing::debug!(%error, "an empty part could not be removed");
                }
            }
            return Ok(());
        }
        // The reason for the pause matters more than a full disk here, which it may well be.
        if let Err(error) = self.flush().await {
            tracing::debug!(%error, "the state could not be written");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
