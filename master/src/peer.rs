//! The client of a connection: the prefix of its address, and the identity in its certificate.

use std::fmt;

use usher_budget::Prefix;
use usher_certs::Identity;
use usher_proto::ViewerId;

use crate::core::viewers::TokenViewer;

/// The client of a connection; an extension of every request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) prefix: Prefix,
    /// `None` without a certificate of this cluster.
    pub(crate) identity: Option<Identity>,
}

/// The client to which the use of shared resources is charged.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum BudgetHolder {
    /// A node, operator or publisher.
    Named(Identity),
    /// A viewer with a token.
    Viewer(ViewerId),
    /// All clients at this prefix that have neither.
    Network(Prefix),
}

impl Peer {
    pub(crate) fn holder(&self) -> BudgetHolder {
        self.identity.clone().map_or(BudgetHolder::Network(self.prefix), BudgetHolder::Named)
    }

    /// The same for a call with a token, whose viewer is a client of its own at any address.
    pub(crate) fn holder_with(&self, viewer: Option<&TokenViewer>) -> BudgetHolder {
        viewer.map_or_else(|| self.holder(), |viewer| BudgetHolder::Viewer(viewer.id))
    }
}

impl fmt::Display for BudgetHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(identity) => identity.fmt(f),
            Self::Viewer(viewer) => write!(f, "viewer {viewer}"),
            Self::Network(prefix) => prefix.fmt(f),
        }
    }
}
