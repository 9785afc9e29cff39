//! Benchmarks of whole parts: each starts the real binary and prints figures with their units.

mod cluster;
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
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().bench {
        Bench::Scale(args) => scale::run(&args),
    }
}
