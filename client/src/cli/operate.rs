//! `usher drain`, `undrain` and `rebalance`: an operator's changes to a running cluster. Each needs the operator's
//! certificate.

use std::{io::IsTerminal as _, sync::atomic::AtomicBool, time::Duration};

use tokio::sync::mpsc;
use usher_proto::{Bitrate, Code, pb::v1};

use super::{
    failure::Failure,
    options::{Operator, interrupted, time},
    output::{duration, note, print, print_json, print_json_line, rewrite},
};
use crate::core::{
    table::{self, Align, clean},
    url::Address,
};

/// Stop new sessions on a node and move its running sessions to other nodes
///
/// Ends when the node is empty. The node stays up; `usher undrain` lets it serve again. Example:
///   usher drain north-1 --deadline 10m
#[derive(Clone, Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct DrainArgs {
    /// Name of the node
    node: String,
    /// End sessions that still run after this time, 1ms to 24h; their clients resume at other nodes
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = deadline)]
    deadline: Duration,
    /// Print a JSON object per line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    operator: Operator,
}

/// Let a drained node accept sessions again
#[derive(Clone, Debug, clap::Args)]
pub struct UndrainArgs {
    /// Name of the node
    node: String,
    #[command(flatten)]
    operator: Operator,
}

/// Move running sessions from the fullest nodes to the emptiest, a few per second
#[derive(Clone, Debug, clap::Args)]
pub struct RebalanceArgs {
    /// Print the moves without making them
    #[arg(long)]
    dry_run: bool,
    /// Maximum number of moves, 1 to 10000
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    most: u32,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    operator: Operator,
}

fn deadline(text: &str) -> Result<Duration, String> {
    let time = time(text)?;
    if time < Duration::from_millis(1) { Err("a deadline is 1ms to 24h".to_owned()) } else { Ok(time) }
}

impl DrainArgs {
    /// Drains, and shows the progress until the node is empty or a message of `stop`.
    ///
    /// # Errors
    /// The exit code and the message.
    pub async fn run(self, requests: fn() -> mpsc::Receiver<()>) -> Result<(), Failure> {
        let client = self.operator.of_default()?;
        let mut stop = requests();
        let mut progress =
            DrainProgress { node: clean(&self.node), json: self.json, line: 0, first: true, failed: None };
        let (mut empty, mut ended) = (false, String::new());
        let ordered = AtomicBool::new(false);
        let drain = client.drain(&self.node, self.deadline, &ordered, |answer| {
            (empty, ended) = (answer.empty, clean(&answer.ended));
            progress.show(&answer);
            progress.failed.is_none()
        });
        let drained = tokio::select! {
            drained = drain => Some(drained),
            () = interrupted(&mut stop) => None,
        };
        progress.end_line();
        if let Some(failed) = progress.failed {
            return Err(failed);
        }
        let node = progress.node;
        let goes_on = format!("the drain of {node} goes on; `usher undrain {node}` cancels it");
        let ordered = ordered.into_inner();
        match drained {
            None if ordered => Err(Failure::new(Code::Interrupted, goes_on)),
            None => Err(Failure::new(Code::Interrupted, unanswered(&node, client.address()))),
            Some(Err(fault)) if !ordered => Err(Failure::for_operator(fault)),
            // The drain was ordered; only its reports are lost.
            Some(Err(fault)) => Err(Failure::new(fault.code, format!("{}; {goes_on}", fault.message))),
            Some(Ok(())) if empty => Ok(()),
            Some(Ok(())) if ended.is_empty() => {
                Err(Failure::new(Code::Network, format!("the master ended its reports; {goes_on}")))
            }
            Some(Ok(())) => Err(Failure::new(Code::Unavailable, ended)),
        }
    }
}

/// The message of a drain that was interrupted before the master accepted it.
fn unanswered(node: &str, master: &Address) -> String {
    format!(
        "interrupted before the master at {master} answered: {node} is probably not draining; `usher nodes {node}` shows \
         its state"
    )
}

/// The progress of a drain: on one line of a terminal, on a line per report elsewhere, or as JSON for programs.
struct DrainProgress {
    node: String,
    json: bool,
    /// Length of the line that is rewritten.
    line: usize,
    first: bool,
    failed: Option<Failure>,
}

impl DrainProgress {
    fn show(&mut self, answer: &v1::DrainResponse) {
        let first = std::mem::replace(&mut self.first, false);
        if self.json {
            // Without a reader of the reports, the command still waits until the node is empty.
            let printed = print_json_line(&json(&self.node, answer, first));
            self.failed = printed.err().filter(|failure| failure.code != Code::Cancelled);
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
            self.line = rewrite(self.line, &text);
        } else {
            note(&text);
        }
    }

    fn end_line(&mut self) {
        if std::mem::take(&mut self.line) > 0 {
            note("");
        }
    }
}

/// The time left, `0:00` once the deadline has passed.
fn left(millis: u64) -> String {
    if millis == 0 { "0:00".to_owned() } else { duration(millis) }
}

fn only_here(node: &str, titles: &[v1::OnlyHere]) -> String {
    let mut text = format!("no other node holds these titles; their sessions stay on {node} until the deadline:");
    for v1::OnlyHere { title, sessions } in titles {
        let title = if title.is_empty() { "(titles no longer in the catalog)".to_owned() } else { clean(title) };
        let plural = if *sessions == 1 { "" } else { "s" };
        text.push_str(&format!("\n  {title}: {sessions} session{plural}"));
    }
    text
}

fn json(node: &str, answer: &v1::DrainResponse, first: bool) -> serde_json::Value {
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
    line
}

impl UndrainArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// The exit code and the message.
    pub async fn run(self) -> Result<(), Failure> {
        let client = self.operator.of_default()?;
        client.undrain(&self.node).await.map_err(Failure::for_operator)?;
        note(&format!("{} accepts sessions again", clean(&self.node)));
        Ok(())
    }
}

impl RebalanceArgs {
    /// Rebalances, and prints the moves.
    ///
    /// # Errors
    /// The exit code and the message.
    pub async fn run(self) -> Result<(), Failure> {
        let client = self.operator.of_default()?;
        let moves = client.rebalance(self.most, self.dry_run).await.map_err(Failure::for_operator)?;
        if self.json {
            return print_json(&moves.iter().map(planned_json).collect());
        }
        if moves.is_empty() {
            note("load is even; there is nothing to move");
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
    fn drain_reports_for_programs_and_people() {
        let only_here = vec![
            v1::OnlyHere { title: "a\u{1b}[2J.mp4".into(), sessions: 1 },
            v1::OnlyHere { title: String::new(), sessions: 2 },
        ];
        let answer = v1::DrainResponse { sessions: 3, left_ms: 5, only_here, ..v1::DrainResponse::default() };
        let line = json("n", &answer, true);
        let titles = serde_json::json!([{ "title": "a\u{1b}[2J.mp4", "sessions": 1 }, { "title": "", "sessions": 2 }]);
        let expected =
            serde_json::json!({ "node": "n", "sessions": 3, "left_ms": 5, "empty": false, "only_here": titles });
        assert_eq!(line, expected);
        let last = v1::DrainResponse { ended: "why".into(), ..v1::DrainResponse::default() };
        let line = json("n", &last, false);
        assert_eq!((&line["ended"], line.get("only_here")), (&"why".into(), None));
        let text = super::only_here("n", &answer.only_here);
        assert!(!text.contains('\u{1b}') && text.contains(": 1 session\n") && text.ends_with("2 sessions"), "{text}");
    }
    #[test]
    fn moves_in_a_table() {
        let one = v1::PlannedMove {
            session_id: "0f8fad5b".into(),
            title: "films/dune.mp4".into(),
            from: "north-1".into(),
            to: "south-1".into(),
            rate_bps: 8_000_000,
        };
        let expected = "\
TITLE           FROM     TO           RATE  SESSION
films/dune.mp4  north-1  south-1  8 Mbit/s  0f8fad5b
";
        assert_eq!(planned(&[one]), expected);
    }
}
