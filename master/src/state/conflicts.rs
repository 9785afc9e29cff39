//! Titles with more than one content, and the decisions of operators about them, which are kept in the state directory.

use std::sync::PoisonError;

use tracing::info;
use usher_proto::{ContentId, Fault, Title, code::Code, model::What, pb::v1};

use super::{SharedState, view};

impl SharedState {
    /// Titles with more than one content, at most `limit`, and whether there are more.
    pub(crate) fn conflicts(&self, limit: usize) -> (Vec<v1::Conflict>, bool) {
        let inner = self.lock();
        let mut titles = inner.cluster.catalog().conflicts(limit + 1);
        let more = titles.len() > limit;
        titles.truncate(limit);
        let conflict = |title: Title| v1::Conflict {
            title: title.to_string(),
            versions: view::versions(&inner.cluster, &What::Title(title)),
        };
        (titles.into_iter().map(conflict).collect(), more)
    }

    /// Makes a content the one that requests for a title get, and stores that.
    pub(crate) fn resolve_conflict(&self, title: &Title, content: ContentId) -> Result<(), Fault> {
        // One at a time, so that the file has the last one.
        let store = self.decisions.lock().unwrap_or_else(PoisonError::into_inner);
        let decisions: Vec<(Title, ContentId)> = {
            let mut inner = self.lock();
            if !inner.cluster.decide_content(title, content) {
                let text =
                    format!("no node holds content {content} under `{title}`; `usher locate` lists its contents");
                return Err(Fault::new(Code::NotFound, text));
            }
            let decisions = inner.cluster.catalog().decisions();
            decisions.map(|(title, content)| (title.clone(), *content)).collect()
        };
        let stored = store.write(&decisions);
        info!(%title, %content, "content chosen by an operator");
        stored.map_err(|error| {
            let text = format!("the choice holds until the master restarts; it could not be stored: {error:#}");
            Fault::new(Code::Disk, text)
        })
    }
}
