//! `usher explain`: the node that is chosen for a title now, or was for a request, and why no other.

use usher_proto::{
    Bitrate, NodeName,
    model::Range,
    pb::v1::{self, explain_request::About},
    ticket::Purpose,
};

use super::{
    failure::Failure,
    options::{Operator, url_or_title, what, zone},
    output::{print, print_json},
};
use crate::core::{table::clean, url::Url};

/// Show why a node is chosen for a title, or was chosen for a request
///
/// Nothing is reserved. Examples:
///   usher explain films/dune.mp4 --zone north
///   usher explain --request 0f8fad5bd9cb469fa165708679f2a4c1
#[derive(Clone, Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct ExplainArgs {
    /// usher://HOST[:PORT]/TITLE, or a title at the default master; with --request at most usher://HOST[:PORT]
    #[arg(value_name = "URL|TITLE", required_unless_present = "request")]
    what: Option<String>,
    /// Explain the decision of this request; `usher fetch -v`, its --json and the logs show the id
    #[arg(long, value_name = "ID", conflicts_with_all = ["from_id", "fetch", "zone", "exclude", "rate"])]
    request: Option<String>,
    /// Read the path as a content id (BLAKE3 in hex)
    #[arg(long)]
    from_id: bool,
    /// Decide as for a fetch instead of a viewer
    #[arg(long)]
    fetch: bool,
    /// Decide as for a client in this zone [default: none]
    #[arg(long, value_name = "ZONE", default_value = "", hide_default_value = true, value_parser = zone)]
    zone: String,
    /// Decide without these nodes
    #[arg(long, value_name = "NODE", value_delimiter = ',')]
    exclude: Vec<NodeName>,
    /// Decide as for a client that requests this rate, for example 25mbit [default: the title's own rate]
    #[arg(long, value_name = "RATE")]
    rate: Option<Bitrate>,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    operator: Operator,
}

impl ExplainArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// The exit code and the message.
    pub async fn run(self) -> Result<(), Failure> {
        let url = self.url()?;
        let client = self.operator.client(url.master.clone(), &self.zone)?;
        let about = match &self.request {
            Some(id) => About::RequestId(id.trim().to_owned()),
            None => {
                let what = what(&url, self.from_id, self.what.as_deref().unwrap_or_default())?;
                let purpose = if self.fetch { Purpose::Fetch } else { Purpose::Play };
                let mut request = client.order(what, purpose, Range::default()).request(None, &self.exclude, &[]);
                request.rate_bps = self.rate.map_or(0, |rate| rate.0);
                About::Request(request)
            }
        };
        let answer = client.explain(about).await.map_err(Failure::for_operator)?;
        if self.json { print_json(&json(&answer)) } else { print(&text(&answer)) }
    }

    /// The master, and the title if one is named.
    fn url(&self) -> Result<Url, Failure> {
        let url = url_or_title(self.what.as_deref().unwrap_or_default(), self.operator.master())?;
        if self.request.is_some() && !url.path.is_empty() {
            let text = "--request names its title already; drop the title, and name the master with --master";
            return Err(Failure::usage(text));
        }
        Ok(url)
    }
}

/// The master's text, without control characters.
fn text(answer: &v1::ExplainResponse) -> String {
    answer.text.lines().map(|line| clean(line).trim_end().to_owned() + "\n").collect()
}

fn json(answer: &v1::ExplainResponse) -> serde_json::Value {
    let considered = answer.considered.iter().map(|one| {
        serde_json::json!({
            "node": one.node,
            "zone": one.zone,
            "verdict": one.verdict,
            "available_bps": one.available_bps,
            "level_bps": one.level_bps,
            "margin_milli": one.margin_milli,
            "note": one.note,
        })
    });
    serde_json::json!({
        "request_id": answer.request_id,
        "decided_at": answer.decided_at.as_ref().map(ToString::to_string),
        "what": answer.what,
        "rate_bps": answer.rate_bps,
        "considered": considered.collect::<Vec<_>>(),
        "omitted": answer.omitted,
        "outcome": answer.outcome,
        "text": answer.text,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_masters_words_cannot_move_the_cursor() {
        let answer =
            v1::ExplainResponse { text: "one  two \n\u{1b}[2Jthree\r\n".into(), ..v1::ExplainResponse::default() };
        assert_eq!(text(&answer), "one  two\n\\u{1b}[2Jthree\n");
    }

    #[test]
    fn every_field_is_in_the_json() {
        let answer = v1::ExplainResponse {
            request_id: "r".into(),
            decided_at: None,
            what: "a.mp4".into(),
            rate_bps: 5,
            considered: vec![v1::Considered {
                node: "n".into(),
                zone: "z".into(),
                verdict: "full".into(),
                available_bps: 1,
                level_bps: 2,
                margin_milli: -3,
                note: "why".into(),
            }],
            omitted: 4,
            outcome: "o".into(),
            text: "t".into(),
        };
        let expected = serde_json::json!({
            "request_id": "r", "decided_at": null, "what": "a.mp4", "rate_bps": 5, "omitted": 4, "outcome": "o",
            "text": "t",
            "considered": [{
                "node": "n", "zone": "z", "verdict": "full", "available_bps": 1, "level_bps": 2, "margin_milli": -3,
                "note": "why",
            }],
        });
        assert_eq!(json(&answer), expected);
    }
}
