//! Sends the master the catalog in pages: first all of it, then its changes.

use std::{convert::Infallible, time::Duration};

use tokio::time;
use tracing::{debug, info};
use usher_proto::{
    model::CatalogCopy,
    pb::v1::{self, attach_request::Body},
};

use super::{Outbox, Reporter, post};
use crate::{
    attach::AttachError,
    media::{Changes, CopyKey},
};

/// Entries of one page: about 100 kB, far below gRPC's limit of 4 MiB.
const PAGE: usize = 1000;

/// Minimum time between two pages of changes: a title is hashed in a moment, a library is not.
const CHANGE_INTERVAL: Duration = Duration::from_millis(100);

/// Sends the whole catalog, then its changes.
pub(super) async fn send(reporter: &Reporter, outbox: &Outbox) -> Result<Infallible, AttachError> {
    let library = &reporter.services.context.library;
    // With a partial catalog the master would forget the rest.
    library.scanned().await;
    let mut subscription = library.subscribe();
    loop {
        let bad = BadFiles { rejected: subscription.rejected_files(), damaged: subscription.damaged_files() };
        let mut count = 0;
        for page in full_catalog_pages(bad, |after| subscription.page(after, PAGE)) {
            count += page.copies.len();
            post(outbox, Body::Catalog(page)).await?;
        }
        info!(copies = count, "catalog sent");
        reporter.attached.send_replace(true);
        loop {
            let changes = subscription.changed().await;
            if changes.resync {
                break;
            }
            debug!(copies = changes.copies.len(), removals = changes.removals.len(), "catalog changed");
            for page in pages(changes) {
                post(outbox, Body::Catalog(page)).await?;
            }
            time::sleep(CHANGE_INTERVAL).await;
        }
    }
}

/// Numbers of files that are not offered.
#[derive(Clone, Copy)]
struct BadFiles {
    rejected: u32,
    /// Damaged files among them.
    damaged: u32,
}

/// Pages of a whole catalog, at least one. `next` returns the copies after the given one, [`PAGE`] unless they are the
/// last.
fn full_catalog_pages(
    bad: BadFiles,
    mut next: impl FnMut(Option<&CopyKey>) -> Vec<CatalogCopy>,
) -> impl Iterator<Item = v1::CatalogPage> {
    let (mut after, mut complete) = (None, false);
    std::iter::from_fn(move || {
        if complete {
            return None;
        }
        let copies = next(after.as_ref());
        let restart = after.is_none();
        complete = copies.len() < PAGE;
        after = copies.last().map(|copy| (copy.title.clone(), copy.volume));
        Some(v1::CatalogPage {
            restart,
            complete,
            copies: copies.iter().map(CatalogCopy::to_pb).collect(),
            removals: Vec::new(),
            rejected_files: bad.rejected,
            damaged_files: bad.damaged,
        })
    })
}

/// Pages of changes, at least one.
fn pages(changes: Changes) -> impl Iterator<Item = v1::CatalogPage> {
    let Changes { copies, removals, rejected_files, damaged_files, .. } = changes;
    let count = copies.len().div_ceil(PAGE).max(removals.len().div_ceil(PAGE)).max(1);
    let (mut copies, mut removals) = (copies.into_iter(), removals.into_iter());
    (0..count).map(move |_| v1::CatalogPage {
        restart: false,
        complete: true,
        copies: copies.by_ref().take(PAGE).map(|copy| copy.to_pb()).collect(),
        removals: removals
            .by_ref()
            .take(PAGE)
            .map(|(title, volume)| v1::CatalogRemoval { title: title.to_string(), volume: volume.into() })
            .collect(),
        rejected_files,
        damaged_files,
    })
}

#[cfg(test)]
mod tests;
