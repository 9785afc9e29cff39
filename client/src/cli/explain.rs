//! `usher explain`: which node a title would be had from now, or was, and why not from the others.

use usher_proto::{
    Bitrate, Code, NodeName,
    model::{Range, What},
    pb::v1::{self, explain_request::About},
    ticket::Purpose,
};

use super::{Failure, Operator, admin, print, print_json, zone};
use crate::core::{
    table::clean,
    url::{Url, UrlError},
};

/// Tell why a node is chosen, or was.
#[derive(Clone, Debug, clap::Args)]
pub struct ExplainArgs {
    /// usher://HOST[:PORT]/TITLE, or a title at the default master; with --request usher://HOST[:PORT] at most
    #[arg(value_name = "URL|TITLE", required_unless_present = "request")]
    what: Option<String>,
    /// What was decided: the id that `usher fetch -v`, its --json and the logs tell
    #[arg(long, value_name = "ID", conflicts_with_all = ["from_id", "fetch", "zone", "exclude", "rate"])]
    request: Option<String>,
    /// The path is a content id
    #[arg(long)]
    from_id: bool,
    /// As for a fetch, not as for a viewer
    #[arg(long)]
    fetch: bool,
    /// As for a client in this zone
    #[arg(long, value_name = "ZONE", default_value = "", value_parser = zone)]
    zone: String,
    /// As for a client that wants none of these nodes
    #[arg(long, value_name = "NODE", value_delimiter = ',')]
    exclude: Vec<NodeName>,
    /// As for a client that asks for this rate, for example 25mbit
    #[arg(long, value_name = "RATE")]
    rate: Option<Bitrate>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    operator: Operator,
}

impl ExplainArgs {
    /// Explains; reserves nothing.
    ///
    /// # Errors
    /// What to print and exit with.
    pub async fn run(self) -> Result<(), Failure> {
        let url = self.url()?;
        let client = self.operator.client(url.master.clone(), &self.zone)?;
        let about = match &self.request {
            Some(id) => About::RequestId(id.trim().to_owned()),
            None => {
                let what = if self.from_id { url.content().map(What::Content) } else { url.title().map(What::Title) };
                let what = what.map_err(|error| self.wrong(&error))?;
                let purpose = if self.fetch { Purpose::Fetch } else { Purpose::Play };
                let mut request = client.order(what, purpose, Range::default()).request(None, &self.exclude, &[]);
                request.rate_bps = self.rate.map_or(0, |rate| rate.0);
                About::Request(request)
            }
        };
        let told = client.explain(about).await.map_err(admin::failure)?;
        if self.json { print_json(&json(&told)) } else { print(&text(&told)) }
    }

    /// The master, and the title if one is named.
    fn url(&self) -> Result<Url, Failure> {
        let url = match self.what.as_deref() {
            Some(text) if text.starts_with("usher://") => text.parse::<Url>().map_err(|error| self.wrong(&error))?,
            named => Url { master: self.operator.master(), path: named.unwrap_or_default().to_owned() },
        };
        if self.request.is_some() && !url.path.is_empty() {
            let text = "a request id stands for its title; give one of both, and the master with --master";
            return Err(Failure::new(Code::Usage, text));
        }
        Ok(url)
    }

    fn wrong(&self, error: &UrlError) -> Failure {
        let text = self.what.as_deref().unwrap_or_default();
        Failure::new(Code::Usage, format!("`{}`: {error}", clean(text)))
    }
}

/// The master's own words, line by line.
fn text(told: &v1::ExplainResponse) -> String {
    told.text.lines().map(|line| clean(line).trim_end().to_owned() + "\n").collect()
}

fn json(told: &v1::ExplainResponse) -> serde_json::Value {
    let considered = told.considered.iter().map(|one| {
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
        "request_id": told.request_id,
        "decided_at": told.decided_at.as_ref().map(ToString::to_string),
        "what": told.what,
        "rate_bps": told.rate_bps,
        "considered": considered.collect::<Vec<_>>(),
        "omitted": told.omitted,
        "outcome": told.outcome,
        "text": told.text,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_masters_words_cannot_move_the_cursor() {
        let told =
            v1::ExplainResponse { text: "one  two \n\u{1b}[2Jthree\r\n".into(), ..v1::ExplainResponse::default() };
        assert_eq!(text(&told), "one  two\n[2Jthree\n");
    }

    #[test]
    fn every_field_is_in_the_json() {
        let told = v1::ExplainResponse {
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
        assert_eq!(json(&told), expected);
    }
}
