//! `usher.v1.Catalog`: lists titles in pages, and locates copies.

use std::sync::Arc;

use prost::Message as _;
use tonic::{Request, Response, Status};
use usher_proto::{
    Fault, Title,
    model::{Invalid, What},
    pb::v1::{self, catalog_server::Catalog},
    text::is_invisible,
    title::MAX_BYTES,
};

use super::{access::Caller, peer};
use crate::{calls::CallBudgets, state::SharedState, viewers::Viewers};

/// Default number of titles per page.
const PAGE: u32 = 1000;

/// Largest number of titles per page.
const MAX_PAGE: u32 = 5000;

/// Bytes after which a page ends: half of the default message limit of gRPC clients.
const PAGE_BYTES: usize = 2 << 20;

/// Bytes of a title in an answer, about. Answers with longer ones end earlier.
const TITLE_BYTES: u64 = 512;

pub(crate) struct CatalogService {
    state: Arc<SharedState>,
    viewers: Arc<Viewers>,
    budgets: Arc<CallBudgets>,
}

impl CatalogService {
    pub(crate) fn new(state: Arc<SharedState>, viewers: Arc<Viewers>, budgets: Arc<CallBudgets>) -> Self {
        Self { state, viewers, budgets }
    }

    /// Titles with `prefix` that the caller may see, as in [`SharedState::titles`].
    async fn titles(
        &self,
        caller: &Caller,
        prefix: &str,
        after: Option<Title>,
        limit: usize,
        mut within: impl FnMut(&v1::Title) -> bool,
    ) -> (Vec<v1::Title>, bool) {
        let prefixes = caller.rights().map_or_else(|| vec![prefix.to_owned()], |rights| rights.within(prefix));
        let mut titles = Vec::new();
        // In byte order, and none begins with another: so are their titles.
        for prefix in prefixes {
            let after = after.clone().filter(|after| after.as_str() >= prefix.as_str());
            if after.as_ref().is_some_and(|after| !after.as_str().starts_with(&prefix)) {
                continue;
            }
            if titles.len() == limit {
                return (titles, true);
            }
            let (more, unfinished) = self.state.titles(&prefix, after, limit - titles.len(), &mut within).await;
            titles.extend(more);
            if unfinished {
                return (titles, true);
            }
        }
        (titles, false)
    }
}

#[tonic::async_trait]
impl Catalog for CatalogService {
    async fn list_titles(
        &self,
        request: Request<v1::ListTitlesRequest>,
    ) -> Result<Response<v1::ListTitlesResponse>, Status> {
        let peer = peer::peer(&request)?;
        let caller = Caller::of(&self.viewers, &request)?;
        let request = request.into_inner();
        let prefix = request.prefix;
        if prefix.len() > MAX_BYTES || prefix.chars().any(is_invisible) {
            let rule = format!("at most {MAX_BYTES} bytes, without control or invisible characters");
            return Err(Invalid::one("prefix", rule).to_status());
        }
        let after = parse_token(&prefix, &request.page_token)?;
        let size = if request.page_size == 0 { PAGE } else { request.page_size.min(MAX_PAGE) };
        // As messages and as bytes.
        let charge = self.budgets.charge(&peer, (u64::from(size) * TITLE_BYTES).min(PAGE_BYTES as u64) * 2)?;
        let mut bytes = 0;
        let within = |title: &v1::Title| {
            bytes += title.encoded_len();
            bytes <= PAGE_BYTES
        };
        let limit = usize::try_from(size).unwrap_or(usize::MAX);
        let (titles, more) = self.titles(&caller, &prefix, after, limit, within).await;
        let last = titles.last().filter(|_| more);
        let next_page_token = last.map(|title| hex::encode(&title.title)).unwrap_or_default();
        Ok(charge.with(v1::ListTitlesResponse { titles, next_page_token }))
    }

    async fn locate(&self, request: Request<v1::LocateRequest>) -> Result<Response<v1::LocateResponse>, Status> {
        let caller = Caller::of(&self.viewers, &request)?;
        let what = What::try_from(request.into_inner())?;
        caller.require_sight(&what)?;
        let mut versions = self.state.locate(&what);
        if let Some(rights) = caller.rights() {
            // A content may have names that the token does not cover.
            versions.retain(|version| version.title.as_ref().is_some_and(|title| rights.covers(&title.title)));
        }
        if versions.is_empty() {
            let fault = Fault::from(&self.state.nowhere());
            return Err(Fault { message: format!("`{what}`: {}", fault.message), ..fault }.to_status());
        }
        Ok(Response::new(v1::LocateResponse { versions }))
    }
}

/// The last title of the previous page, encoded as hex in the token.
fn parse_token(prefix: &str, token: &str) -> Result<Option<Title>, Invalid> {
    if token.is_empty() {
        return Ok(None);
    }
    let bad = || Invalid::one("page_token", "not the next_page_token of a page with this prefix");
    if token.len() > 2 * MAX_BYTES {
        return Err(bad());
    }
    let bytes = hex::decode(token).map_err(|_| bad())?;
    let title = Title::from_bytes(&bytes).map_err(|_| bad())?;
    if title.as_str().starts_with(prefix) { Ok(Some(title)) } else { Err(bad()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens() {
        let title = |token: &str| parse_token("a", token).map(|title| title.map(|title| title.to_string()));
        assert_eq!(title(""), Ok(None));
        assert_eq!(title(&hex::encode("a/b")), Ok(Some("a/b".into())));
        for wrong in ["a", "zz", &hex::encode("b"), &hex::encode("a/../b"), &"61".repeat(2000), &hex::encode(b"a\xff")]
        {
            assert!(title(wrong).is_err(), "{wrong}");
        }
    }
}
