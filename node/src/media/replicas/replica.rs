//! One copy ordered by the master, as sessions see it: its description and how much of it is here.

use std::{
    sync::{Arc, Mutex},
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::sync::watch;
use usher_media::probe;
use usher_proto::{
    Code, ContentId, Fault, Title,
    model::{Origin, SetupInfo},
    pb::v1::Setup,
    tree,
};

use super::{super::copy::CopyRecord, folder::ReplicaFiles};
use crate::sync::lock;

/// How much of a copy is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReplicaProgress {
    /// Verified groups, from the first on.
    pub(super) groups: u64,
    /// No more will arrive.
    pub(super) failed: bool,
    /// Its bytes changed since they were verified.
    pub(super) damaged: bool,
}

/// A copy that is offered.
pub(crate) struct Replica {
    /// Id in the catalog; a copy that starts over gets another.
    pub(crate) id: u64,
    pub(crate) title: Title,
    pub(crate) content: ContentId,
    pub(crate) size: u64,
    /// Set-up information of the whole title.
    pub(crate) setup: Setup,
    media_type: &'static str,
    pub(super) modified: SystemTime,
    pub(super) progress: watch::Sender<ReplicaProgress>,
    /// Set while it is incoming: its file has another name then.
    pub(super) files: Mutex<Option<Arc<ReplicaFiles>>>,
}

impl Replica {
    /// A copy with `groups` groups, from validated set-up information.
    ///
    /// # Errors
    /// `INTERNAL` when the information is from another version of this software.
    pub(super) fn new(id: u64, setup: Setup, modified: SystemTime, groups: u64) -> Result<Self, Fault> {
        let strange = |what: String| Fault::new(Code::Internal, format!("set-up information of a copy: {what}"));
        let info = SetupInfo::try_from(setup.clone()).map_err(|error| strange(error.to_string()))?;
        let content = info.content.ok_or_else(|| strange("no content is named".to_owned()))?;
        let media_type = media_type(&info)?;
        let progress = watch::Sender::new(ReplicaProgress { groups, failed: false, damaged: false });
        let (title, size) = (info.title, info.size);
        Ok(Self { id, title, content, size, setup, media_type, modified, progress, files: Mutex::default() })
    }

    /// Verified groups, from the first on.
    pub(crate) fn groups(&self) -> u64 {
        self.progress.borrow().groups
    }

    /// Whether all of it is here.
    pub(super) fn is_complete(&self) -> bool {
        self.groups() == tree::groups(self.size) && lock(&self.files).is_none()
    }

    /// Waits until this many groups, from the first on, are here.
    ///
    /// # Errors
    /// `UNAVAILABLE` when they will not arrive: another node has them.
    pub(crate) async fn ready(&self, groups: u64) -> Result<(), Fault> {
        let gone = || Fault::new(Code::Unavailable, "the copy did not complete; resolve again");
        let mut progress = self.progress.subscribe();
        // Fails only when the sender is dropped, which `self` holds.
        let now =
            progress.wait_for(|progress| progress.groups >= groups || progress.failed).await.map_err(|_| gone())?;
        if now.groups >= groups { Ok(()) } else { Err(gone()) }
    }

    /// Waits until the copy is found to be damaged.
    pub(crate) async fn damaged(&self) {
        // Fails only when the sender is dropped, which `self` holds.
        drop(self.progress.subscribe().wait_for(|progress| progress.damaged).await);
    }

    /// The catalog's form of it.
    pub(super) fn record(&self, origin: Origin) -> CopyRecord {
        let modified = self.modified.duration_since(UNIX_EPOCH).unwrap_or_default();
        CopyRecord {
            id: self.id,
            size: self.size,
            modified_ms: i64::try_from(modified.as_millis()).unwrap_or(i64::MAX),
            duration_ms: u32::try_from(self.setup.duration_ms).unwrap_or(u32::MAX),
            content: Some(self.content),
            media_type: probe::MediaType::of(self.media_type),
            streamable: self.setup.streamable,
            origin,
        }
    }
}

/// The media type, if this node supports it.
pub(super) fn media_type(info: &SetupInfo) -> Result<&'static str, Fault> {
    let known = probe::media_type(&info.media_type);
    known.ok_or_else(|| {
        Fault::new(Code::Internal, format!("this node does not support the media type `{}`", info.media_type))
    })
}
