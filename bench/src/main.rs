//! Benchmarks: whole parts as real binaries, alone and beside their peers, and the balancer in a simulated cluster. Each
//! prints figures with units.

mod cluster;
mod deltas;
mod far;
mod loss;
mod peers;
mod scale;
mod sim;
mod start;

use clap::{Parser, Subcommand};

/// Measures Usher: its real binary (build it first with `cargo build --release`), and its balancer in a simulation.
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
    /// Usher beside nginx, caddy, stock quinn, a bare gRPC server and sendme: ratios measured in one run
    Peers(peers::Args),
    #[command(hide = true)]
    PeersQuinnServer(peers::stock::ServerArgs),
    #[command(hide = true)]
    PeersQuinnClient(peers::stock::ClientArgs),
    #[command(hide = true)]
    PeersTicketsServer(peers::tickets::ServerArgs),
    /// Goodput over links that lose, delay and queue, with both congestion controllers
    Loss(loss::Args),
    /// Round trips to the first byte of a title, from a cluster that is far away
    Start(start::Args),
    /// The balancer in a simulated cluster: what it loses against the optimum and other policies
    Sim(sim::Args),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().bench {
        Bench::Scale(args) => scale::run(&args),
        Bench::Deltas(args) => deltas::run(&args),
        Bench::Peers(args) => peers::run(&args),
        Bench::PeersQuinnServer(args) => peers::stock::serve(&args),
        Bench::PeersQuinnClient(args) => peers::stock::fetch(&args),
        Bench::PeersTicketsServer(args) => peers::tickets::serve(&args),
        Bench::Loss(args) => loss::run(&args),
        Bench::Start(args) => start::run(&args),
        Bench::Sim(args) => sim::run(&args),
    }
}
