//! `usher certs init | issue | show`. Data goes to standard output, notes to standard error, a private key to neither.

mod show;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use usher_proto::NodeName;

use crate::authority::San;
use crate::certificate::DAY;
use crate::files::{self, Paths};
use crate::identity::{Identity, IdentityError, Role};

/// Arguments of `usher certs`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory of the certificates [default: usher/certs in the configuration directory]
    #[arg(long, global = true, env = "USHER_CERTS", value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Create the cluster's authority
    Init {
        /// Name of the cluster, as shown in certificates
        #[arg(long, value_name = "NAME", default_value = "usher")]
        cluster: String,
        /// Replace an existing authority; every certificate that it issued becomes invalid
        #[arg(long)]
        force: bool,
    },
    /// Sign a certificate for a node, an operator, a publisher or a master
    Issue {
        #[command(subcommand)]
        subject: IssueArgs,
    },
    /// Show the contents of certificates; never shows a key
    Show {
        /// A certificate, or a directory of them [default: the certificates' directory]
        #[arg(value_name = "FILE|DIR")]
        path: Option<PathBuf>,
        /// Print a JSON array
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Subcommand)]
enum IssueArgs {
    /// A node: writes node-NAME.pem and node-NAME.key
    Node {
        /// The node's name: 1 to 63 of a-z, 0-9, `-` and `.`
        name: NodeName,
        #[command(flatten)]
        options: Options,
    },
    /// An operator: writes admin-NAME.pem and admin-NAME.key
    Admin {
        /// The operator's name: 1 to 63 of a-z, 0-9, `-` and `.`
        #[arg(value_parser = name)]
        name: NodeName,
        #[command(flatten)]
        options: Options,
    },
    /// A publisher, which may send the feeds live/NAME and live/NAME/…: writes publisher-NAME.pem and publisher-NAME.key
    Publisher {
        /// The feed's name without `live/`: 1 to 63 of a-z, 0-9, `-` and `.`
        #[arg(value_parser = feed_name)]
        name: NodeName,
        #[command(flatten)]
        options: Options,
    },
    /// A master: writes master.pem and master.key
    Master {
        /// The master's name: 1 to 63 of a-z, 0-9, `-` and `.`
        #[arg(default_value = "master", value_parser = name)]
        name: NodeName,
        /// DNS names and IP addresses that clients dial, besides localhost and this host's name
        #[arg(long = "san", value_name = "DNS-OR-IP", num_args = 1.., value_delimiter = ',')]
        sans: Vec<San>,
        #[command(flatten)]
        options: Options,
    },
}

/// Reads the name of an operator or master, which has the form of a node's.
fn name(text: &str) -> Result<NodeName, IdentityError> {
    NodeName::parse(text).map_err(|_| IdentityError::Name)
}

/// Reads the name of a publisher.
fn feed_name(text: &str) -> Result<NodeName, String> {
    match text.strip_prefix("live/") {
        Some(rest) if NodeName::parse(rest).is_ok() => Err(format!("write the feed's name without `live/`: {rest}")),
        Some(rest) if rest.contains('/') => {
            let first = rest.split('/').next().unwrap_or_default();
            Err(format!("a publisher is named by the part after `live/`, and may send all feeds below it: {first}"))
        }
        _ => name(text).map_err(|error| error.to_string()),
    }
}

#[derive(Debug, clap::Args)]
struct Options {
    /// Directory of the new files and a copy of ca.pem [default: the certificates' directory]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Validity in days
    #[arg(long, value_name = "N", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
    /// Replace existing files
    #[arg(long)]
    force: bool,
}

/// Runs `usher certs`.
///
/// # Errors
/// A file could not be created, read or shown; [`files::Exists`] is in the chain when a file is in the way.
pub fn run(args: Args) -> anyhow::Result<()> {
    execute(args, &mut io::stdout().lock(), &mut io::stderr().lock())
}

fn execute(args: Args, out: &mut impl Write, notes: &mut impl Write) -> anyhow::Result<()> {
    let dir = args.dir.map_or_else(files::default_dir, Ok)?;
    match args.command {
        Command::Init { cluster, force } => init(&dir, &cluster, force, out, notes),
        Command::Issue { subject } => issue(&dir, subject, out, notes),
        Command::Show { path, json } => show::run(&path.unwrap_or(dir), json, out, notes),
    }
}

fn init(dir: &Path, cluster: &str, force: bool, out: &mut impl Write, notes: &mut impl Write) -> anyhow::Result<()> {
    let replaces = dir.join(files::CA_CERT).exists() || dir.join(files::CA_KEY).exists();
    let paths = files::init(dir, cluster, force)?;
    if replaces {
        writeln!(
            notes,
            "warning: the old authority is gone: the certificates that it issued are invalid; issue all of them again"
        )?;
    }
    writeln!(notes, "created the authority of cluster {cluster}; keep {} secret", paths.key.display())?;
    writeln!(notes, "next: usher certs issue master; usher certs issue node NAME; usher certs issue admin NAME")?;
    print_paths([&paths.cert, &paths.key], out)
}

fn issue(dir: &Path, subject: IssueArgs, out: &mut impl Write, notes: &mut impl Write) -> anyhow::Result<()> {
    let (role, name, sans, options) = match subject {
        IssueArgs::Node { name, options } => (Role::Node, name, Vec::new(), options),
        IssueArgs::Admin { name, options } => (Role::Admin, name, Vec::new(), options),
        IssueArgs::Publisher { name, options } => (Role::Publisher, name, Vec::new(), options),
        IssueArgs::Master { name, sans, options } => (Role::Master, name, sans, options),
    };
    let identity =
        Identity::new(role, name.as_str()).with_context(|| format!("issue a certificate for {role} {name}"))?;
    let lifetime = Duration::from_secs(u64::from(options.days) * DAY);
    let place = options.out.as_deref().unwrap_or(dir);
    let Paths { cert, key, ca } = files::issue_for(dir, &identity, &sans, lifetime, place, options.force)?;
    writeln!(notes, "issued a certificate for {identity}; keep {} secret", key.display())?;
    print_paths([&cert, &key, &ca], out)
}

fn print_paths<'a>(paths: impl IntoIterator<Item = &'a PathBuf>, out: &mut impl Write) -> anyhow::Result<()> {
    for path in paths {
        writeln!(out, "{}", path.display()).context("write to stdout")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
