//! Benchmarks of whole parts: each starts the real binary and prints figures with their units.

mod cluster;
mod deltas;
mod scale;

use clap::{Parser, Subcommand};

/// Measures Usher's real binary; build it first with `cargo build --release`.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand)]
enum Bench {
    /// Many titles on one node: time to register, memory, and what a restart costs
    Scale(scale::Args),
    /// What the nodes' news of their sessions costs the master
    Deltas(deltas::Args),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().bench {
        Bench::Scale(args) => scale::run(&args),
        Bench::Deltas(args) => deltas::run(&args),
    }
}
