//! `usher drain`, `undrain` and `rebalance`: what operators do to a running cluster. Owns how it is shown; what is done is
//! the master's and the nodes'. All three need the operator's certificate.

use std::{
    io::{IsTerminal as _, Write as _},
    time::Duration,
};

use usher_proto::{Bitrate, Code, pb::v1};

use super::{Failure, Operator, admin, duration, interrupted, note, print, print_json};
use crate::core::table::{self, Align, clean};

/// Empty a node: it takes no new sessions, and those that run go on at other nodes.
#[derive(Clone, Debug, clap::Args)]
pub struct DrainArgs {
    /// The node's name
    node: String,
    /// Sessions that still run after this long are ended; their clients resume them elsewhere
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = deadline)]
    deadline: Duration,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    operator: Operator,
}

/// Let a node take sessions again, at any time.
#[derive(Clone, Debug, clap::Args)]
pub struct UndrainArgs {
    /// The node's name
    node: String,
    #[command(flatten)]
    operator: Operator,
}

/// Send sessions from the fullest nodes to the emptiest, a few a second.
#[derive(Clone, Debug, clap::Args)]
pub struct RebalanceArgs {
    /// Print the moves without making them
    #[arg(long)]
    dry_run: bool,
    /// Moves at most
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    most: u32,
    /// Print one JSON array
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    operator: Operator,
}

fn deadline(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| format!("{error}; write for example 60s or 10m"))?;
    let (least, most) = (Duration::from_millis(1), Duration::from_secs(24 * 3600));
    if (least..=most).contains(&time) { Ok(time) } else { Err("a deadline is 1ms to 24h".to_owned()) }
}

impl DrainArgs {
    /// Drains, and tells how that goes until the node is empty.
    ///
    /// # Errors
    /// What to print and exit with.
    pub async fn run(self) -> Result<(), Failure> {
        let client = self.operator.of_default()?;
        let mut show = Show { node: clean(&self.node), json: self.json, line: None, first: true, failed: None };
        let (mut empty, mut ended) = (false, String::new());
        let drain = client.drain(&self.node, self.deadline, |answer| {
            (empty, ended) = (answer.empty, clean(&answer.ended));
            show.show(&answer);
            show.failed.is_none()
        });
        let drained = tokio::select! {
            drained = drain => Some(drained),
            () = interrupted() => None,
        };
        show.end_line();
        if let Some(failed) = show.failed {
            return Err(failed);
        }
        let node = show.node;
        let goes_on = format!("the drain of {node} goes on; `usher undrain {node}` takes it back");
        match drained {
            None => Err(Failure::new(Code::Interrupted, goes_on)),
            Some(Err(fault)) if show.first => Err(admin::failure(fault)),
            // It was ordered: only who tells of it is gone.
            Some(Err(fault)) => Err(Failure::new(fault.code, format!("{}; {goes_on}", fault.message))),
            Some(Ok(())) if empty => Ok(()),
            Some(Ok(())) if ended.is_empty() => {
                Err(Failure::new(Code::Network, format!("the master tells no more; {goes_on}")))
            }
            Some(Ok(())) => Err(Failure::new(Code::Unavailable, ended)),
        }
    }
}

/// How a drain is shown: to a terminal on one line, to others on a line each, to programs as JSON.
struct Show {
    node: String,
    json: bool,
    /// The length of the line that is rewritten.
    line: Option<usize>,
    first: bool,
    failed: Option<Failure>,
}

impl Show {
    fn show(&mut self, answer: &v1::DrainResponse) {
        let first = std::mem::replace(&mut self.first, false);
        if self.json {
            self.failed = print(&json(&self.node, answer, first)).err();
            return;
        }
        if !answer.only_here.is_empty() {
            note(&only_here(&self.node, &answer.only_here));
        }
        let text = match (answer.empty, answer.sessions) {
            (true, _) => format!("{}: empty", self.node),
            (false, 1) => format!("{}: 1 session, {} left", self.node, left(answer.left_ms)),
            (false, sessions) => format!("{}: {sessions} sessions, {} left", self.node, left(answer.left_ms)),
        };
        if std::io::stderr().is_terminal() {
            let blank = " ".repeat(self.line.unwrap_or(0).saturating_sub(text.len()));
            let mut err = std::io::stderr().lock();
            if write!(err, "\r{text}{blank}").and_then(|()| err.flush()).is_err() {
                tracing::trace!("standard error is closed");
            }
            self.line = Some(text.len());
        } else {
            note(&text);
        }
    }

    fn end_line(&mut self) {
        if self.line.take().is_some() {
            note("");
        }
    }
}

/// `0:00` of a deadline that has passed, where [`duration`] has a dash.
fn left(millis: u64) -> String {
    if millis == 0 { "0:00".to_owned() } else { duration(millis) }
}

fn only_here(node: &str, titles: &[v1::OnlyHere]) -> String {
    let mut text = format!("no other node holds these; their sessions run on {node} until the deadline:");
    for v1::OnlyHere { title, sessions } in titles {
        let title = if title.is_empty() { "(titles that have left the catalog)".to_owned() } else { clean(title) };
        let plural = if *sessions == 1 { "" } else { "s" };
        text.push_str(&format!("\n  {title}: {sessions} session{plural}"));
    }
    text
}

fn json(node: &str, answer: &v1::DrainResponse, first: bool) -> String {
    let mut line = serde_json::json!({
        "node": node,
        "sessions": answer.sessions,
        "left_ms": answer.left_ms,
        "empty": answer.empty,
    });
    if first {
        let titles = answer.only_here.iter();
        let titles = titles.map(|only| serde_json::json!({ "title": only.title, "sessions": only.sessions }));
        line["only_here"] = titles.collect();
    }
    if !answer.ended.is_empty() {
        line["ended"] = answer.ended.clone().into();
    }
    format!("{line}\n")
}

impl UndrainArgs {
    /// Lets the node serve.
    ///
    /// # Errors
    /// What to print and exit with.
    pub async fn run(self) -> Result<(), Failure> {
        let client = self.operator.of_default()?;
        client.undrain(&self.node).await.map_err(admin::failure)
    }
}

impl RebalanceArgs {
    /// Spreads load, and tells by which moves.
    ///
    /// # Errors
    /// What to print and exit with.
    pub async fn run(self) -> Result<(), Failure> {
        let client = self.operator.of_default()?;
        let moves = client.rebalance(self.most, self.dry_run).await.map_err(admin::failure)?;
        if self.json {
            return print_json(&moves.iter().map(planned_json).collect());
        }
        if moves.is_empty() {
            note("load is even: there is nothing to move");
            return Ok(());
        }
        print(&planned(&moves))
    }
}

fn planned(moves: &[v1::PlannedMove]) -> String {
    let columns = [
        ("TITLE", Align::Left),
        ("FROM", Align::Left),
        ("TO", Align::Left),
        ("RATE", Align::Right),
        ("SESSION", Align::Left),
    ];
    let rows = moves.iter().map(|one| {
        vec![
            clean(&one.title),
            clean(&one.from),
            clean(&one.to),
            Bitrate(one.rate_bps).to_string(),
            clean(&one.session_id),
        ]
    });
    table::render(&columns, &rows.collect::<Vec<_>>())
}

fn planned_json(one: &v1::PlannedMove) -> serde_json::Value {
    serde_json::json!({
        "session_id": one.session_id,
        "title": one.title,
        "from": one.from,
        "to": one.to,
        "rate_bps": one.rate_bps,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines() {
        assert_eq!(deadline("10m"), Ok(Duration::from_secs(600)));
        for wrong in ["0s", "25h", "soon", "-1s"] {
            assert!(deadline(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_drain_as_programs_and_people_read_it() {
        let only_here = vec![
            v1::OnlyHere { title: "a\u{1b}[2J.mp4".into(), sessions: 1 },
            v1::OnlyHere { title: String::new(), sessions: 2 },
        ];
        let answer = v1::DrainResponse { sessions: 3, left_ms: 5, only_here, ..v1::DrainResponse::default() };
        let line: serde_json::Value = serde_json::from_str(&json("n", &answer, true)).expect("JSON");
        let titles = serde_json::json!([{ "title": "a\u{1b}[2J.mp4", "sessions": 1 }, { "title": "", "sessions": 2 }]);
        let expected =
            serde_json::json!({ "node": "n", "sessions": 3, "left_ms": 5, "empty": false, "only_here": titles });
        assert_eq!(line, expected);
        let last = v1::DrainResponse { ended: "why".into(), ..v1::DrainResponse::default() };
        let line: serde_json::Value = serde_json::from_str(&json("n", &last, false)).expect("JSON");
        assert_eq!((&line["ended"], line.get("only_here")), (&"why".into(), None));
        let text = super::only_here("n", &answer.only_here);
        assert!(!text.contains('\u{1b}') && text.contains(": 1 session\n") && text.ends_with("2 sessions"), "{text}");
    }
}
