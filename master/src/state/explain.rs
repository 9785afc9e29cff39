//! Explanations of past and hypothetical decisions, as messages. Reserves and counts nothing.

use usher_proto::{model::Resolve, pb::v1};

use super::{SharedState, now, timestamp};
use crate::core::{
    cluster::{Cluster, Refused, SeatRequest},
    journal::{DecisionRecord, Explanation},
    viewers::TokenViewer,
};

impl SharedState {
    /// The decision that would be made now.
    pub(crate) fn explain(
        &self,
        resolve: &Resolve,
        viewer: Option<&TokenViewer>,
    ) -> Result<v1::ExplainResponse, Refused> {
        let mut inner = self.lock();
        let request = SeatRequest { viewer, ..SeatRequest::from(resolve) };
        let record = inner.cluster.explain(now(), &request, &mut rand::rng())?;
        Ok(response(&inner.cluster, &record, String::new()))
    }

    /// A recorded decision.
    pub(crate) fn past_decision(&self, tag: u64, request_id: &str) -> Option<v1::ExplainResponse> {
        let inner = self.lock();
        let record = inner.cluster.decision(tag)?;
        Some(response(&inner.cluster, record, request_id.to_owned()))
    }
}

fn response(cluster: &Cluster, record: &DecisionRecord, request_id: String) -> v1::ExplainResponse {
    let explained = Explanation { record, roster: cluster.roster() };
    let considered = record.holders.iter().flatten().enumerate().map(|(at, candidate)| v1::Considered {
        node: explained.name(candidate).to_owned(),
        zone: explained.zone(candidate).to_owned(),
        verdict: explained.verdict(at, candidate).to_owned(),
        available_bps: candidate.available.rate,
        level_bps: candidate.level,
        margin_milli: candidate.margin,
        note: Explanation::note(candidate),
    });
    v1::ExplainResponse {
        request_id,
        decided_at: Some(timestamp(record.at.unix_ms)),
        what: record.what.to_string(),
        rate_bps: record.rate.0,
        considered: considered.collect(),
        omitted: record.omitted,
        outcome: explained.outcome(),
        text: explained.to_string(),
    }
}
