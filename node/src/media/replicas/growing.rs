//! A copy while it comes in: its files take what is verified, and sessions that wait are told. All of it blocks. Dropping
//! one keeps what is there for the next try.

use std::{
    io,
    sync::{Arc, PoisonError},
    time::SystemTime,
};

use usher_proto::{Code, Fault, model::SetupInfo, pb::v1::Setup};

use super::{
    Replicas,
    folder::Files,
    held::{self, Held},
};
use crate::core::pull::{Piece, Wanted};

/// One copy on its way in; room for it is reserved.
pub(crate) struct Growing {
    pub(super) store: Arc<Replicas>,
    pub(super) wanted: Wanted,
    pub(super) name: String,
    /// The set-up information and the files, once there are some.
    pub(super) begun: Option<(Setup, Arc<Files>)>,
    /// Verified groups on the disk.
    pub(super) groups: u64,
    /// Once it is offered.
    pub(super) held: Option<Arc<Held>>,
    /// Nothing of it was here before.
    pub(super) fresh: bool,
    pub(super) over: bool,
}

/// What to tell of a disk that failed.
pub(super) fn disk(error: &io::Error) -> Fault {
    Fault::new(Code::Disk, format!("write a copy: {error}"))
}

impl Growing {
    /// The first group that is missing.
    pub(crate) fn groups(&self) -> u64 {
        self.groups
    }

    /// Whether every group is there, from before.
    pub(crate) fn has_all(&self) -> bool {
        self.groups == self.wanted.groups()
    }

    /// Takes pieces in their order, and offers what they add up to. True when it is whole: nothing may follow.
    ///
    /// # Errors
    /// `DISK` when they cannot be written.
    pub(crate) fn take(&mut self, pieces: impl Iterator<Item = Piece>) -> Result<bool, Fault> {
        let before = self.groups;
        let mut whole = false;
        for piece in pieces {
            if let Piece::Setup(setup) = piece {
                self.set_up(*setup)?;
                continue;
            }
            let out_of_order = || Fault::new(Code::Internal, "the pieces of a copy came out of order");
            let (_, files) = self.begun.as_ref().ok_or_else(out_of_order)?;
            let written = match piece {
                Piece::Setup(_) => Ok(()),
                Piece::Pages(values) => files.put_pages(&values),
                Piece::Hashes(page, values) => files.put_hashes(page, &values),
                Piece::Group(index, _) if index != self.groups => return Err(out_of_order()),
                Piece::Group(index, data) => {
                    let written = files.put_group(index, &data);
                    self.groups += u64::from(written.is_ok());
                    written
                }
                Piece::Whole => {
                    whole = true;
                    Ok(())
                }
            };
            written.map_err(|error| disk(&error))?;
        }
        if self.groups > before {
            self.publish()?;
        }
        if whole {
            self.finish()?;
        }
        Ok(whole)
    }

    fn set_up(&mut self, setup: Setup) -> Result<(), Fault> {
        if self.begun.is_some() {
            // What was kept is of the same content, and was checked in the same way.
            return Ok(());
        }
        let info = SetupInfo::try_from(setup.clone()).map_err(|error| Fault::new(Code::Internal, error.to_string()))?;
        held::media_type(&info)?;
        let files = self.store.folder.create(&self.name, &setup).map_err(|error| disk(&error))?;
        self.begun = Some((setup, Arc::new(files)));
        Ok(())
    }

    /// Tells what is there: to those who wait for it, or to everybody when it is the first.
    pub(super) fn publish(&mut self) -> Result<(), Fault> {
        if let Some(held) = &self.held {
            held.growth.send_modify(|growth| growth.groups = self.groups);
            return Ok(());
        }
        let Some((setup, files)) = &self.begun else { return Ok(()) };
        let held = Held::new(self.store.next_id(), setup.clone(), SystemTime::now(), self.groups)?;
        *held.files.lock().unwrap_or_else(PoisonError::into_inner) = Some(files.clone());
        let held = Arc::new(held);
        self.held = Some(held.clone());
        self.store.offer_growing(held);
        Ok(())
    }

    /// All is there: from here on it is a copy like others.
    ///
    /// # Errors
    /// `DISK` when that cannot be written.
    pub(crate) fn finish(&mut self) -> Result<(), Fault> {
        let missing = || Fault::new(Code::Internal, "a copy ended before it was whole");
        let (Some((_, files)), Some(held), true) = (&self.begun, &self.held, self.has_all()) else {
            return Err(missing());
        };
        self.store.folder.complete(&self.name, files).map_err(|error| disk(&error))?;
        self.over = true;
        self.store.offer_whole(&self.name, held);
        Ok(())
    }

    /// It will not become whole now. What is verified is kept for another try, unless all of it, with its set-up
    /// information, is from a source that `lied`.
    pub(crate) fn give_up(mut self, lied: bool) {
        self.end(!(lied && self.fresh));
    }

    fn end(&mut self, keep: bool) {
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        let bytes = self.begun.as_ref().map(|(_, files)| files.len());
        let kept = match bytes {
            Some(Ok(bytes)) if keep && self.groups > 0 => Some((bytes, self.groups)),
            _ => None,
        };
        self.store.ended(&self.name, &self.wanted.title, self.held.as_deref(), kept);
    }
}

impl Drop for Growing {
    fn drop(&mut self) {
        self.end(true);
    }
}
