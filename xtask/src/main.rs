//! `cargo xtask`: the project's recipes. Owns the steps of each recipe; independent of the product.

mod busy;
mod clips;
mod doc;
mod fuzz;
mod lint;
mod parts;
mod rules;
mod shell;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The command line of `cargo xtask`.
#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's recipes", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    recipe: Recipe,
}

/// One recipe.
#[derive(Subcommand)]
enum Recipe {
    /// Provide the real parts that tests start (ffmpeg, mpv, grpcurl…), then build and run every test
    Test(test::Args),
    /// Formatting, clippy, rustdoc and the project's own rules, each with warnings as errors
    Lint,
    /// Print or count the findings of the project's own rules
    Rules(rules::Args),
    /// Build the documentation of every crate, warnings as errors
    Doc(doc::Args),
    /// Run every fuzz target for a while; a finding fails
    Fuzz(fuzz::Args),
    /// Generate the code in proto/generated/ from the protos
    Proto,
    /// Remake the demo's clips in media/samples/ with ffmpeg
    Media,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().recipe {
        Recipe::Test(args) => test::run(&args),
        Recipe::Lint => lint::run(),
        Recipe::Rules(args) => rules::run(&args),
        Recipe::Doc(args) => doc::run(&args),
        Recipe::Fuzz(args) => fuzz::run(&args),
        Recipe::Proto => shell::run(shell::cargo().args(["run", "--quiet", "--package", "usher-proto-generate"])),
        Recipe::Media => clips::run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
