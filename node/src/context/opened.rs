//! Opens the title of a ticket: picks the copy on the least loaded volume, and falls back to the next copy when a disk
//! fails.

use std::{fmt, sync::Arc};

use tracing::warn;
use usher_proto::{
    Code, Fault,
    pb::v1::{self, ByteRange},
    ticket::Ticket,
    tree::GROUP,
};

use crate::{
    core::{
        session::{SessionPlan, TitleFacts},
        volumes::{self, VolumeLoads},
    },
    media::{FindError, Library, OpenError, OpenMedia},
};

/// An open title and the plan of the session that reads it.
pub(crate) struct OpenedTitle {
    pub(crate) media: Arc<OpenMedia>,
    /// Volume that it is read from.
    pub(super) volume: u16,
    pub(crate) session: SessionPlan,
    pub(crate) setup: v1::Setup,
}

/// Opens a title. Blocks.
pub(super) fn open(
    library: &Library,
    loads: &VolumeLoads,
    ticket: Ticket,
    wanted: Option<ByteRange>,
    more: bool,
) -> Result<OpenedTitle, Fault> {
    let title = ticket.title.clone();
    // The title was here when the ticket was signed, and another node may still have it: the client may retry.
    let changed = |what: &dyn fmt::Display| Fault::new(Code::ContentChanged, format!("`{title}`: {what}"));
    let mut copies = library.copies(&ticket.title, ticket.content).map_err(|error| match error {
        FindError::NotFound | FindError::OtherContent => changed(&error),
    })?;
    volumes::spread(&mut copies, |copy| copy.content, |copy| loads.of(copy.volume));
    let mut fault = Fault::new(Code::ContentChanged, format!("`{title}`: no copy is left"));
    let media = copies.iter().find_map(|copy| match library.open_copy(copy) {
        Ok(media) => Some((media, copy.volume)),
        Err(error) => {
            fault = match &error {
                OpenError::Gone | OpenError::Changed => changed(&error),
                OpenError::Io(_) => {
                    warn!(%title, volume = copy.volume, %error, "media cannot be opened");
                    // DISK would mean a disk of the client.
                    Fault::new(Code::Unavailable, format!("`{title}`: {error}"))
                }
            };
            None
        }
    });
    let (media, volume) = media.ok_or(fault)?;
    let mut session = SessionPlan::new(ticket, wanted, more);
    let range = session.handle_opened(TitleFacts { size: media.size(), content: media.content() })?;
    if media.groups() < range.start / GROUP {
        // The wait would be long, and another node has the bytes.
        return Err(Fault::new(Code::Unavailable, format!("`{title}`: the copy has not come so far yet")));
    }
    let setup = v1::Setup { range: Some(ByteRange { start: range.start, end: range.end }), ..media.setup() };
    Ok(OpenedTitle { media: Arc::new(media), volume, session, setup })
}
