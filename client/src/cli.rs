//! The commands of a client: `fetch`, `play`, `publish`, `ls`, `locate`, `nodes` and `explain`, and those of operators:
//! `drain`, `undrain`, `rebalance`, `conflicts` and `resolve-conflict`. Each command is a file; `options` holds the options that they share, `output`
//! how they print. Standard output carries data only.

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
