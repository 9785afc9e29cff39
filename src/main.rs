//! The one binary: parses the command line, sets up logs, hands over to a role. Knows nothing about any of them.

mod demo;
mod limits;
mod signals;

use std::{io::IsTerminal as _, process::ExitCode};

use clap::{Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;
use usher_client::cli as client;
use usher_proto::Code;

/// Usher shows every viewer to the best seat in the house: a QUIC media delivery cluster.
#[derive(Parser)]
#[command(name = "usher", version, propagate_version = true, max_term_width = 100)]
struct Cli {
    /// What is logged to stderr, for example `debug` or `usher_node=trace,info`
    #[arg(long, global = true, env = "USHER_LOG", value_name = "FILTER")]
    log: Option<String>,
    /// How it is logged
    #[arg(long, global = true, env = "USHER_LOG_FORMAT", value_enum, default_value = "text", value_name = "FORMAT")]
    log_format: LogFormat,
    #[command(subcommand)]
    role: Role,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Subcommand)]
enum Role {
    /// Start a whole cluster on this machine and fetch from it before your eyes
    Demo(demo::Args),
    /// Save titles to files, verified
    Fetch(client::FetchArgs),
    /// Watch a title in the player you like
    Play(client::PlayArgs),
    /// Send a live feed that viewers watch as it is made
    Publish(Box<client::PublishArgs>),
    /// List titles
    Ls(client::LsArgs),
    /// Tell which nodes hold a title
    Locate(client::LocateArgs),
    /// List nodes, their state and bandwidth
    Nodes(client::NodesArgs),
    /// Tell why a node is chosen for a title, or was
    Explain(client::ExplainArgs),
    /// Empty a node: its sessions go on at others
    Drain(client::DrainArgs),
    /// Let a node take sessions again
    Undrain(client::UndrainArgs),
    /// Spread load evenly over the nodes
    Rebalance(client::RebalanceArgs),
    /// Run a node: serve folders of media
    Node(Box<usher_node::cli::Args>),
    /// Run the master: know the nodes, hand out tickets
    Master(usher_master::cli::Args),
    /// Make and show the cluster's certificates
    Certs(usher_certs::cli::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Servers tell what they do; commands for people speak for themselves and log only trouble.
    let default = match cli.role {
        Role::Node(_) | Role::Master(_) => "info",
        Role::Demo(_) => "error",
        _ => "warn",
    };
    start_logs(cli.log.as_deref().unwrap_or(default), cli.log_format);
    limits::raise();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(Code::Internal, &format!("start the runtime: {error}")),
    };
    let code = runtime.block_on(Box::pin(run(cli.role)));
    // A blocking write to a stalled pipe, or a hung disk, must not hold up the exit.
    runtime.shutdown_background();
    code
}

async fn run(role: Role) -> ExitCode {
    let client = match role {
        Role::Fetch(args) => args.run().await,
        Role::Play(args) => args.run().await,
        Role::Publish(args) => args.run().await,
        Role::Ls(args) => args.run().await,
        Role::Locate(args) => args.run().await,
        Role::Nodes(args) => args.run().await,
        Role::Explain(args) => args.run().await,
        Role::Drain(args) => args.run().await,
        Role::Undrain(args) => args.run().await,
        Role::Rebalance(args) => args.run().await,
        server => {
            let served = match server {
                Role::Demo(args) => demo::run(args, signals::shutdown()).await,
                Role::Node(args) => usher_node::cli::run(*args, signals::shutdown()).await,
                Role::Master(args) => usher_master::cli::run(args, signals::first(signals::shutdown())).await,
                Role::Certs(args) => usher_certs::cli::run(args),
                _ => Ok(()),
            };
            return served.map_or_else(|error| fail(code_of(&error), &format!("{error:#}")), |()| ExitCode::SUCCESS);
        }
    };
    client.map_or_else(|failure| fail(failure.code, &failure.message), |()| ExitCode::SUCCESS)
}

/// Most failures of a server have no code of their own.
fn code_of(error: &anyhow::Error) -> Code {
    if error.is::<usher_certs::files::Exists>() {
        return Code::Exists;
    }
    error.downcast_ref::<client::Failure>().map_or(Code::Internal, |failure| failure.code)
}

fn fail(code: Code, message: &str) -> ExitCode {
    if !message.is_empty() {
        eprintln!("error: {message}");
    }
    ExitCode::from(code.exit())
}

fn start_logs(filter: &str, format: LogFormat) {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|error| {
        eprintln!("warning: log filter `{filter}`: {error}; logging at info");
        EnvFilter::new("info")
    });
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
    match format {
        LogFormat::Text => logs.init(),
        LogFormat::Json => logs.json().flatten_event(true).init(),
    }
}
