//! The commands of a client: `fetch`, `play`, `publish`, `ls`, `locate`, `nodes` and `explain`, and those of operators:
//! `drain`, `undrain`, `rebalance`, `conflicts`, `resolve-conflict` and `viewers`. Each command is a file; `options` holds the
//! options that they share, `output` how they print. Standard output carries data only.

mod conflicts;
mod explain;
mod failure;
mod fetch;
mod live;
mod locate;
mod ls;
mod nodes;
mod operate;
mod options;
mod output;
mod play;
mod player;
mod progress;
mod publish;
mod viewers;

use futures::future::BoxFuture;
use tokio::sync::mpsc;

pub use self::{
    conflicts::{ConflictsArgs, ResolveConflictArgs},
    explain::ExplainArgs,
    failure::Failure,
    fetch::FetchArgs,
    locate::LocateArgs,
    ls::LsArgs,
    nodes::NodesArgs,
    operate::{DrainArgs, RebalanceArgs, UndrainArgs},
    play::PlayArgs,
    publish::PublishArgs,
    viewers::ViewersArgs,
};

/// A command of a client or an operator.
#[derive(clap::Subcommand)]
#[expect(missing_docs, reason = "the help comes from the arguments, and a comment on a variant would replace it")]
pub enum Command {
    Fetch(Box<FetchArgs>),
    Play(PlayArgs),
    Publish(Box<PublishArgs>),
    Ls(LsArgs),
    Locate(LocateArgs),
    Nodes(NodesArgs),
    Explain(ExplainArgs),
    Drain(DrainArgs),
    Undrain(UndrainArgs),
    Rebalance(RebalanceArgs),
    Conflicts(ConflictsArgs),
    ResolveConflict(ResolveConflictArgs),
    Viewers(ViewersArgs),
}

impl Command {
    /// Runs the command. A command that handles requests to stop calls `requests` once it is set up; until then, and in the
    /// other commands, a signal keeps its default action. The future is boxed, so that its code is generated in this crate and not again in each binary.
    ///
    /// # Errors
    /// The exit code and the message.
    pub fn run(self, requests: fn() -> mpsc::Receiver<()>) -> BoxFuture<'static, Result<(), Failure>> {
        match self {
            Self::Fetch(args) => Box::pin(args.run(requests)),
            Self::Play(args) => Box::pin(args.run(requests)),
            Self::Publish(args) => Box::pin(args.run(requests)),
            Self::Ls(args) => Box::pin(args.run()),
            Self::Locate(args) => Box::pin(args.run()),
            Self::Nodes(args) => Box::pin(args.run(requests)),
            Self::Explain(args) => Box::pin(args.run()),
            Self::Drain(args) => Box::pin(args.run(requests)),
            Self::Undrain(args) => Box::pin(args.run()),
            Self::Rebalance(args) => Box::pin(args.run()),
            Self::Conflicts(args) => Box::pin(args.run()),
            Self::ResolveConflict(args) => Box::pin(args.run()),
            Self::Viewers(args) => Box::pin(args.run()),
        }
    }
}
