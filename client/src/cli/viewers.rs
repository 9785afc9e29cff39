//! `usher viewers`: the viewers that have an identity, and the end of their rights. Needs an operator's certificate.

use usher_proto::{Bitrate, pb::v1};

use super::{
    failure::Failure,
    options::Operator,
    output::{note, print, print_json},
};
use crate::core::table::{self, Align, clean};

/// List viewers with sessions, or revoke their tokens
///
/// A viewer is listed by a hash of its token's subject, as in the master's log. Examples:
///   usher viewers
///   usher viewers revoke alice --now
#[derive(Clone, Debug, clap::Args)]
#[command(verbatim_doc_comment, args_conflicts_with_subcommands = true)]
pub struct ViewersArgs {
    #[command(subcommand)]
    command: Option<ViewersCommand>,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    operator: Operator,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum ViewersCommand {
    Revoke(RevokeArgs),
}

/// Revoke all tokens that a viewer got until now, or one token
///
/// They open nothing more. Sessions that run end when their tickets run out, within the master's --session-lifetime,
/// or at once with --now.
#[derive(Clone, Debug, clap::Args)]
#[command(verbatim_doc_comment)]
struct RevokeArgs {
    /// Subject of the tokens (`sub`), id of one token (`jti`), or a viewer as listed
    #[arg(value_name = "SUBJECT|TOKEN-ID|VIEWER")]
    name: String,
    /// End running sessions at once
    #[arg(long)]
    now: bool,
    #[command(flatten)]
    operator: Operator,
}

impl ViewersArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// The exit code and the message.
    pub async fn run(self) -> Result<(), Failure> {
        if let Some(ViewersCommand::Revoke(RevokeArgs { name, now, operator })) = self.command {
            let sessions = operator.of_default()?.revoke_viewer(&name, now).await.map_err(Failure::for_operator)?;
            let when = if now { "now" } else { "when their tickets run out" };
            note(&format!("revoked; sessions that end {when}: {sessions}"));
            return Ok(());
        }
        let viewers = self.operator.of_default()?.viewers().await.map_err(Failure::for_operator)?;
        if self.json { print_json(&viewers.iter().map(viewer_json).collect()) } else { print(&table(&viewers)) }
    }
}

fn table(viewers: &[v1::Viewer]) -> String {
    let columns = [("VIEWER", Align::Left), ("SESSIONS", Align::Right), ("RATE", Align::Right)];
    let row = |one: &v1::Viewer| vec![clean(&one.id), one.sessions.to_string(), Bitrate(one.rate_bps).to_string()];
    table::render(&columns, &viewers.iter().map(row).collect::<Vec<_>>())
}

fn viewer_json(viewer: &v1::Viewer) -> serde_json::Value {
    serde_json::json!({ "viewer": viewer.id, "sessions": viewer.sessions, "rate_bps": viewer.rate_bps })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn viewers_in_a_table() {
        let viewer = v1::Viewer { id: "00000000000000fe".into(), sessions: 2, rate_bps: 8_000_000 };
        let expected = "\
VIEWER            SESSIONS      RATE
00000000000000fe         2  8 Mbit/s
";
        assert_eq!(table(&[viewer]), expected);
    }
}
