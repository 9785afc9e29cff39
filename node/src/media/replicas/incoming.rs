//! A copy that is being received: its files store the verified frames, and waiting sessions learn of new groups. All
//! functions block. Dropping an incoming copy keeps its groups for another attempt.

use std::{io, sync::Arc, time::SystemTime};

use usher_proto::{Code, Fault, model::SetupInfo, pb::v1::Setup};

use super::{
    folder::{self, ReplicaFileError, ReplicaFiles},
    replica::{self, Replica},
    store::{ReplicaStore, ReserveOutcome},
};
use crate::{
    core::pull::{ReplicaSpec, VerifiedFrame},
    sync::lock,
};

/// A copy that is being received; its disk space is reserved.
pub(crate) struct IncomingReplica {
    store: Arc<ReplicaStore>,
    wanted: ReplicaSpec,
    name: String,
    /// The set-up information and the files, once they exist.
    begun: Option<(Setup, Arc<ReplicaFiles>)>,
    /// Verified groups on the disk.
    groups: u64,
    /// Set once it is offered.
    replica: Option<Arc<Replica>>,
    /// Nothing of it was on the disk before.
    fresh: bool,
    ended: bool,
}

/// The fault for a failed write.
fn disk(error: &io::Error) -> Fault {
    Fault::new(Code::Disk, format!("write a copy: {error}"))
}

impl IncomingReplica {
    /// Reserves space for a copy and opens its existing files. `None` when the copy is complete already.
    ///
    /// # Errors
    /// As [`ReplicaStore::reserve`].
    pub(crate) fn begin(store: &Arc<ReplicaStore>, wanted: &ReplicaSpec) -> Result<Option<Self>, Fault> {
        let name = folder::name(&wanted.title, wanted.content);
        let known = match store.reserve(wanted, &name)? {
            ReserveOutcome::Complete => return Ok(None),
            ReserveOutcome::New => None,
            ReserveOutcome::Resume(known) => Some(known),
        };
        let mut incoming = Self {
            store: store.clone(),
            wanted: wanted.clone(),
            name,
            begun: None,
            groups: 0,
            replica: None,
            fresh: true,
            ended: false,
        };
        if let Some(known) = known {
            incoming.resume(known)?;
        }
        Ok(Some(incoming))
    }

    /// Opens the existing files, if any group in them is valid.
    fn resume(&mut self, known: Option<u64>) -> Result<(), Fault> {
        match self.store.folder.reopen(&self.name, known) {
            Ok((setup, files, groups)) if groups > 0 && setup.size == self.wanted.size => {
                (self.begun, self.groups, self.fresh) = (Some((setup, Arc::new(files))), groups, false);
                self.publish()
            }
            Ok(_) => Ok(()),
            Err(ReplicaFileError::Content(why)) => {
                tracing::warn!(title = %self.wanted.title, why, "partial copy damaged: starting over");
                Ok(())
            }
            Err(ReplicaFileError::Io(error)) => Err(disk(&error)),
        }
    }

    /// The first missing group.
    pub(crate) fn groups(&self) -> u64 {
        self.groups
    }

    /// Whether all groups were on the disk already.
    pub(crate) fn has_all_groups(&self) -> bool {
        self.groups == self.wanted.groups()
    }

    /// Stores verified frames in order and offers the new groups. Returns true when the copy is complete: no frame may
    /// follow.
    ///
    /// # Errors
    /// `DISK` when a write fails.
    pub(crate) fn write(&mut self, pieces: impl Iterator<Item = VerifiedFrame>) -> Result<bool, Fault> {
        let before = self.groups;
        let mut complete = false;
        for piece in pieces {
            if let VerifiedFrame::Setup(setup) = piece {
                self.set_up(*setup)?;
                continue;
            }
            let out_of_order = || Fault::new(Code::Internal, "frames of a copy arrived out of order");
            let (_, files) = self.begun.as_ref().ok_or_else(out_of_order)?;
            let written = match piece {
                VerifiedFrame::Setup(_) => Ok(()),
                VerifiedFrame::Pages(values) => files.put_pages(&values),
                VerifiedFrame::Hashes(page, values) => files.put_hashes(page, &values),
                VerifiedFrame::Group(index, _) if index != self.groups => return Err(out_of_order()),
                VerifiedFrame::Group(index, data) => {
                    let written = files.put_group(index, &data);
                    self.groups += u64::from(written.is_ok());
                    written
                }
                VerifiedFrame::Finish => {
                    complete = true;
                    Ok(())
                }
            };
            written.map_err(|error| disk(&error))?;
        }
        if self.groups > before {
            self.publish()?;
        }
        if complete {
            self.finish()?;
        }
        Ok(complete)
    }

    fn set_up(&mut self, setup: Setup) -> Result<(), Fault> {
        if self.begun.is_some() {
            // The partial copy has the same content, and its set-up information passed the same checks.
            return Ok(());
        }
        let info = SetupInfo::try_from(setup.clone()).map_err(|error| Fault::new(Code::Internal, error.to_string()))?;
        replica::media_type(&info)?;
        let files = self.store.folder.create(&self.name, &setup).map_err(|error| disk(&error))?;
        self.begun = Some((setup, Arc::new(files)));
        Ok(())
    }

    /// Publishes the number of groups to waiting sessions; offers the copy at its first groups.
    fn publish(&mut self) -> Result<(), Fault> {
        if let Some(replica) = &self.replica {
            replica.progress.send_modify(|progress| progress.groups = self.groups);
            return Ok(());
        }
        let Some((setup, files)) = &self.begun else { return Ok(()) };
        let replica = Replica::new(self.store.next_id(), setup.clone(), SystemTime::now(), self.groups)?;
        *lock(&replica.files) = Some(files.clone());
        let replica = Arc::new(replica);
        self.replica = Some(replica.clone());
        self.store.offer_incoming(replica);
        Ok(())
    }

    /// Completes the copy: all groups are here.
    ///
    /// # Errors
    /// `DISK` when a write fails.
    pub(crate) fn finish(&mut self) -> Result<(), Fault> {
        let missing = || Fault::new(Code::Internal, "a copy ended before it was complete");
        let (Some((_, files)), Some(replica), true) = (&self.begun, &self.replica, self.has_all_groups()) else {
            return Err(missing());
        };
        self.store.folder.complete(&self.name, files).map_err(|error| disk(&error))?;
        self.ended = true;
        self.store.offer_complete(&self.name, replica);
        Ok(())
    }

    /// Stops receiving. Verified groups are kept for another attempt, unless all of them, with the set-up information,
    /// are from a source that is now `untrusted`.
    pub(crate) fn abandon(mut self, untrusted: bool) {
        self.end(!(untrusted && self.fresh));
    }

    fn end(&mut self, keep: bool) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let bytes = self.begun.as_ref().map(|(_, files)| files.len());
        let kept = match bytes {
            Some(Ok(bytes)) if keep && self.groups > 0 => Some((bytes, self.groups)),
            _ => None,
        };
        self.store.ended(&self.name, &self.wanted.title, self.replica.as_deref(), kept);
    }
}

impl Drop for IncomingReplica {
    fn drop(&mut self) {
        self.end(true);
    }
}
