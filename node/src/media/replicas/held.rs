//! One copy that the master ordered, as sessions see it: what it is, and how much of it is here.

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

use super::{super::catalog::Record, folder::Files};

/// How much of a copy is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Growth {
    /// Verified groups, from the first on.
    pub(super) groups: u64,
    /// No more will come.
    pub(super) failed: bool,
    /// What is here is not what it was.
    pub(super) damaged: bool,
}

/// A copy that is offered.
pub(crate) struct Held {
    /// Names it in the catalog; one that begins anew has another.
    pub(crate) id: u64,
    pub(crate) title: Title,
    pub(crate) content: ContentId,
    pub(crate) size: u64,
    /// Of the whole title.
    pub(crate) setup: Setup,
    media_type: &'static str,
    pub(super) modified: SystemTime,
    pub(super) growth: watch::Sender<Growth>,
    /// While it grows: its file has another name then.
    pub(super) files: Mutex<Option<Arc<Files>>>,
}

impl Held {
    /// From set-up information that was checked before. `groups` of it are here.
    ///
    /// # Errors
    /// `INTERNAL` when it is of another version of this software.
    pub(super) fn new(id: u64, setup: Setup, modified: SystemTime, groups: u64) -> Result<Self, Fault> {
        let strange = |what: String| Fault::new(Code::Internal, format!("set-up information of a copy: {what}"));
        let info = SetupInfo::try_from(setup.clone()).map_err(|error| strange(error.to_string()))?;
        let content = info.content.ok_or_else(|| strange("no content is named".to_owned()))?;
        let media_type = media_type(&info)?;
        let growth = watch::Sender::new(Growth { groups, failed: false, damaged: false });
        let (title, size) = (info.title, info.size);
        Ok(Self { id, title, content, size, setup, media_type, modified, growth, files: Mutex::default() })
    }

    /// Verified groups, from the first on.
    pub(crate) fn groups(&self) -> u64 {
        self.growth.borrow().groups
    }

    /// Whether all of it is here.
    pub(super) fn is_whole(&self) -> bool {
        self.groups() == tree::groups(self.size) && super::lock(&self.files).is_none()
    }

    /// Waits until so many groups, from the first on, are here.
    ///
    /// # Errors
    /// `UNAVAILABLE` when they will not come: another node has them.
    pub(crate) async fn ready(&self, groups: u64) -> Result<(), Fault> {
        let gone = || Fault::new(Code::Unavailable, "the copy did not become whole; resolve again");
        let mut growth = self.growth.subscribe();
        // Fails only when the sender is gone, which is in `self`.
        let now = growth.wait_for(|growth| growth.groups >= groups || growth.failed).await.map_err(|_| gone())?;
        if now.groups >= groups { Ok(()) } else { Err(gone()) }
    }

    /// Waits until the copy is found to be damaged.
    pub(crate) async fn damaged(&self) {
        // Fails only when the sender is gone, which is in `self`.
        drop(self.growth.subscribe().wait_for(|growth| growth.damaged).await);
    }

    /// As the catalog keeps it.
    pub(super) fn record(&self, origin: Origin) -> Record {
        let modified = self.modified.duration_since(UNIX_EPOCH).unwrap_or_default();
        Record {
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

/// The media type, if this node knows it.
pub(super) fn media_type(info: &SetupInfo) -> Result<&'static str, Fault> {
    let known = probe::media_type(&info.media_type);
    known.ok_or_else(|| Fault::new(Code::Internal, format!("`{}` is no media type of this node", info.media_type)))
}
