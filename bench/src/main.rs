//! Benchmarks: whole parts as real binaries, alone and beside their peers, and the balancer in a simulated cluster. Each
//! prints figures with units.

mod chaos;
mod cluster;
mod deltas;
mod far;
mod hostile;
mod live;
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
    /// Cost of session updates for the master
    Deltas(deltas::Args),
    /// Usher beside nginx, caddy, stock quinn, a bare gRPC server and sendme: ratios measured in one run
    ///
    /// Usher's own programs are measured: a master, a node with `--capacity 100gbit` and `usher fetch`, on loopback.
    /// Contenders take turns within each repetition; a ratio is Usher's figure by the peer's of the same repetition, and
    /// the table shows the median, the least and the greatest. CPU seconds are user and system time together; GB is 10^9
    /// bytes, MiB 2^20, kB 1000.
    ///
    /// Peers are stock quinn and a bare gRPC server, which are in this program, and those of nginx, caddy, curl and sendme
    /// that are installed. Nothing is installed here; a missing program is named, and its cases go on without it.
    Peers(peers::Args),
    #[command(hide = true)]
    PeersQuinnServer(peers::stock::QuicServerArgs),
    #[command(hide = true)]
    PeersQuinnClient(peers::stock::QuicClientArgs),
    #[command(hide = true)]
    PeersTicketsServer(peers::tickets::TicketServerArgs),
    /// Goodput over links that lose, delay and queue, with both congestion controllers
    Loss(loss::Args),
    /// Round trips to the first byte of a title, from a cluster that is far away
    Start(start::Args),
    /// A cluster under faults for minutes: every output must be its source, and how long delivery stood still
    Chaos(chaos::Args),
    /// Live feeds: their cost beside moq-relay, their latency, and the effect of slow viewers and lost nodes on other viewers
    ///
    /// Real programs on loopback, fed by one clip of 4 Mbit/s with a keyframe every 2 s, which ffmpeg makes once and which
    /// is written as it plays. moq-relay and moq are the peer, where they are installed; its viewers are a small program
    /// that is built for this when they are.
    Live(live::Args),
    /// Attacks from one address: how many honest clients are served meanwhile, and how fast
    Hostile(hostile::Args),
    /// The balancer in a simulated cluster: its loss against the optimum and other policies
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
        Bench::Chaos(args) => chaos::run(&args),
        Bench::Live(args) => live::run(&args),
        Bench::Hostile(args) => hostile::run(&args),
        Bench::Sim(args) => sim::run(&args),
    }
}
