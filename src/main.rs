//! The `usher` binary: parses the command line, sets up logs and runs a command. Knows no details of any of them.

mod demo;
mod limits;
mod signals;

use std::{io::IsTerminal as _, process::ExitCode};

use clap::{Parser, Subcommand, ValueEnum};
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};
use usher_client::cli as client;
use usher_proto::{Code, Fault, text::printable_lines};

/// Stream, fetch and publish video over QUIC from a cluster of nodes
#[derive(Parser)]
#[command(name = "usher", version, propagate_version = true, max_term_width = 100, after_help = AFTER_HELP)]
struct Cli {
    /// Log filter for standard error, for example `debug` or `usher_node=trace,info`
    ///
    /// Default: info for `node` and `master`, error for `demo`, warn for the other commands.
    #[arg(long, global = true, env = "USHER_LOG", value_name = "FILTER", help_heading = "Logging")]
    log: Option<String>,
    /// Log format
    #[arg(
        long,
        global = true,
        env = "USHER_LOG_FORMAT",
        value_enum,
        default_value = "text",
        value_name = "FORMAT",
        help_heading = "Logging"
    )]
    log_format: LogFormat,
    #[command(subcommand)]
    role: Role,
}

const AFTER_HELP: &str = "\
Exit codes: 0 success, 1 other failure, 2 usage, 3 not found, 4 no capacity, 5 denied, 6 network,
7 interrupted and resumable, 8 timeout, 9 disk, 13 exists, 32 verification failed.
Try `usher demo` first; `usher help COMMAND` shows all options of a command.";

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    /// Lines of text
    Text,
    /// A JSON object per line
    Json,
}

// Variants without a comment take the help of their arguments.
#[derive(Subcommand)]
enum Role {
    /// Run a master and nodes on this machine, and fetch a title from them
    Demo(demo::Args),
    #[command(flatten)]
    Client(client::Command),
    /// Run a node, which serves folders of media
    ///
    /// Precedence: command line, environment variable, TOML file of --config, default. Example:
    ///   usher node --master media.example.org --name north-1 --media /srv/films --capacity 2gbit
    #[command(verbatim_doc_comment)]
    Node(Box<usher_node::cli::Args>),
    /// Run the master, which knows the nodes and assigns viewers to them
    ///
    /// Precedence: command line, environment variable, TOML file of --config, default.
    /// The tables `[[node]]`, `[[link]]` and `[[copies]]` exist in the file only.
    #[command(verbatim_doc_comment)]
    Master(Box<usher_master::cli::Args>),
    /// Create and show the cluster's certificates
    Certs(usher_certs::cli::Args),
    /// Create and show viewers' tokens, for a cluster without an identity provider
    Token(usher_token::cli::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Servers log events; commands print their results and log only trouble.
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
    // A blocking write to a stalled pipe, or to a disk that hangs, must not hold up the exit.
    runtime.shutdown_background();
    code
}

async fn run(role: Role) -> ExitCode {
    match role {
        Role::Client(command) => client_exit(command.run(signals::shutdown).await),
        Role::Demo(args) => server_exit(demo::run(args, signals::shutdown()).await),
        Role::Node(args) => server_exit(usher_node::cli::run(*args, signals::shutdown()).await),
        Role::Master(args) => server_exit(usher_master::cli::run(*args, signals::first(signals::shutdown())).await),
        Role::Certs(args) => server_exit(usher_certs::cli::run(args)),
        Role::Token(args) => server_exit(usher_token::cli::run(args)),
    }
}

fn client_exit(result: Result<(), client::Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of standard output has seen enough.
        Err(failure) if failure.code == Code::Cancelled && failure.message.is_empty() => ExitCode::SUCCESS,
        Err(failure) => fail(failure.code, &failure.message),
    }
}

fn server_exit(result: anyhow::Result<()>) -> ExitCode {
    result.map_or_else(|error| fail(code_of(&error), &format!("{error:#}")), |()| ExitCode::SUCCESS)
}

/// The exit code of a server's failure; most have none of their own.
fn code_of(error: &anyhow::Error) -> Code {
    if error.is::<usher_certs::files::Exists>() {
        return Code::Exists;
    }
    if let Some(fault) = error.downcast_ref::<Fault>() {
        return fault.code;
    }
    error.downcast_ref::<client::Failure>().map_or(Code::Internal, |failure| failure.code)
}

fn fail(code: Code, message: &str) -> ExitCode {
    if !message.is_empty() {
        eprintln!("error: {}", printable_lines(message));
    }
    ExitCode::from(code.exit())
}

fn start_logs(filter: &str, format: LogFormat) {
    let filter: Targets = filter.parse().unwrap_or_else(|error| {
        eprintln!("warning: log filter `{filter}`: {error}; logging at info");
        Targets::new().with_default(LevelFilter::INFO)
    });
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let logs =
        tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE).with_writer(std::io::stderr).with_ansi(colours);
    match format {
        LogFormat::Text => logs.finish().with(filter).init(),
        LogFormat::Json => logs.json().flatten_event(true).finish().with(filter).init(),
    }
}
