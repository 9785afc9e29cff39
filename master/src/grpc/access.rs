//! The caller of a service, and what it may do: everyone, an operator by its certificate, or a viewer by its token.

use std::sync::Arc;

use tonic::{Request, metadata::MetadataMap};
use tracing::Span;
use usher_certs::Role;
use usher_proto::{
    Fault,
    code::Code,
    model::What,
    ticket::{Purpose, Right, Ticket},
};
use usher_token::{Action, Rights};

use super::peer;
use crate::{core::viewers::TokenViewer, state::now, viewers::Viewers};

/// The caller of a service.
#[derive(Clone, Debug)]
pub(crate) enum Caller {
    /// Anyone, where viewers need no token.
    Anyone,
    /// An operator.
    Operator,
    /// A viewer with a token.
    Viewer(Arc<TokenViewer>),
}

impl Caller {
    /// The caller of a request, by its certificate or token.
    pub(super) fn of<T>(viewers: &Viewers, request: &Request<T>) -> Result<Self, Fault> {
        if peer::identity(request)?.is_some_and(|identity| identity.role == Role::Admin) {
            return Ok(Self::Operator);
        }
        if !viewers.need_token() {
            return Ok(Self::Anyone);
        }
        let viewer = by_token(viewers, request.metadata())?;
        viewer.map(Self::Viewer).ok_or_else(|| {
            let text = "this master serves viewers with a token only: name its file with --token, or set USHER_TOKEN \
                        (metadata `authorization: Bearer TOKEN`)";
            Fault::new(Code::Unauthenticated, text)
        })
    }

    /// The viewer, if it has an identity.
    pub(crate) fn viewer(&self) -> Option<&TokenViewer> {
        match self {
            Self::Viewer(viewer) => Some(viewer),
            Self::Anyone | Self::Operator => None,
        }
    }

    /// Titles that the caller may see; `None` is all.
    pub(crate) fn rights(&self) -> Option<&Rights> {
        self.viewer().map(|viewer| &viewer.rights)
    }

    /// Whether the caller may do this with a title. The titles of a content are checked where they are known.
    pub(super) fn require(&self, action: Action, what: &What) -> Result<(), Fault> {
        match (self.rights(), what) {
            (Some(rights), What::Title(title)) => allow(rights, action, title.as_str()),
            (Some(rights), What::Content(_)) => allow_action(rights, action),
            (None, _) => Ok(()),
        }
    }

    /// Whether the caller may list a title's copies.
    pub(super) fn require_sight(&self, what: &What) -> Result<(), Fault> {
        match (self.rights(), what) {
            (Some(rights), What::Title(title)) => allow_title(rights, title.as_str()),
            _ => Ok(()),
        }
    }

    /// Whether the caller may continue a session on this ticket: the viewer that got it, with rights to its title.
    pub(super) fn require_renewal(&self, ticket: &Ticket) -> Result<(), Fault> {
        let Some(viewer) = self.viewer() else { return Ok(()) };
        if ticket.viewer.is_some_and(|other| other != viewer.id) {
            return Err(Fault::new(Code::Denied, "the ticket is another viewer's"));
        }
        allow(&viewer.rights, action(ticket), ticket.title.as_str())
    }
}

/// The viewer of a call's token; `None` without one.
pub(super) fn by_token(viewers: &Viewers, metadata: &MetadataMap) -> Result<Option<Arc<TokenViewer>>, Fault> {
    let Some(value) = metadata.get("authorization") else { return Ok(None) };
    let bearer = value.to_str().ok().and_then(|text| {
        let (scheme, token) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    let wrong = || Fault::new(Code::Unauthenticated, "the metadata `authorization` is not `Bearer TOKEN`");
    let viewer = viewers.check(now().unix_ms / 1000, bearer.ok_or_else(wrong)?)?;
    Span::current().record("viewer", tracing::field::display(viewer.id));
    Ok(Some(Arc::new(viewer)))
}

/// Whether a token permits an action on a title.
pub(super) fn allow(rights: &Rights, action: Action, title: &str) -> Result<(), Fault> {
    allow_action(rights, action)?;
    allow_title(rights, title)
}

fn allow_action(rights: &Rights, action: Action) -> Result<(), Fault> {
    if rights.may(action) {
        return Ok(());
    }
    Err(Fault::new(Code::Denied, format!("the token does not permit to {action}")))
}

fn allow_title(rights: &Rights, title: &str) -> Result<(), Fault> {
    if rights.covers(title) {
        return Ok(());
    }
    Err(Fault::new(Code::Denied, format!("`{title}` is not among the titles of the token")))
}

/// The action that a purpose needs.
pub(super) fn for_purpose(purpose: Purpose) -> Action {
    match purpose {
        Purpose::Play => Action::Play,
        Purpose::Fetch => Action::Fetch,
    }
}

fn action(ticket: &Ticket) -> Action {
    match &ticket.feed {
        Some(grant) if grant.right == Right::Publish => Action::Publish,
        _ => for_purpose(ticket.purpose),
    }
}
