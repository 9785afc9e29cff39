//! `sim`: the balancer in a simulated cluster. Owns the command line and the order of the work: scenarios × seeds ×
//! policies as jobs on all cores, then a table, JSON and a plot. The simulation itself is left to `simulation`.

mod flow;
mod jobs;
mod optimum;
mod placement;
mod plan;
mod plot;
mod policy;
mod row;
mod scenario;
mod simulation;
mod table;
mod units;
mod workload;

use std::path::PathBuf;

use anyhow::{Context as _, ensure};

use scenario::Scenario;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Scenario files in TOML
    #[arg(required_unless_present = "public", conflicts_with = "public")]
    files: Vec<PathBuf>,
    /// The public scenarios S1 to S10
    #[arg(long)]
    public: bool,
    /// Which policies to compare; can be repeated, or a list with commas
    #[arg(long, value_delimiter = ',', default_value = DEFAULT_POLICY, value_parser = policy::named)]
    policy: Vec<policy::Named>,
    /// How many seeds, from the scenario's own on
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=1000))]
    seeds: u64,
    /// A tenth of the nodes, titles and time: a quick look that all works
    #[arg(long)]
    small: bool,
    /// Where to write all figures as JSON too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where to draw losses and utilisation over time as SVG
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

/// Policies that are compared by default.
const DEFAULT_POLICY: &str = "usher";

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let mut scenarios = if args.public {
        scenario::public()?
    } else {
        args.files.iter().map(|path| Scenario::read(path)).collect::<anyhow::Result<_>>()?
    };
    if args.small {
        scenarios = scenarios.into_iter().map(Scenario::small).collect();
    }
    let outcomes = jobs::run(&scenarios, &args.policy, args.seeds);
    ensure!(!outcomes.is_empty(), "nothing to run: name a scenario and a policy");
    print!("{}", table::text(&outcomes));
    if let Some(path) = &args.json {
        let rows: Vec<_> = outcomes.iter().map(|outcome| &outcome.row).collect();
        let text = serde_json::to_string_pretty(&serde_json::json!({ "rows": rows })).context("write JSON")?;
        std::fs::write(path, text + "\n").with_context(|| format!("write {}", path.display()))?;
    }
    if let Some(path) = &args.plot {
        std::fs::write(path, plot::svg(&outcomes)).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_small_public_set_runs_and_can_be_written() {
        let scenarios: Vec<_> = scenario::public().unwrap().into_iter().map(Scenario::small).collect();
        let policies = ["least", "patent"].map(|name| policy::named(name).unwrap());
        let outcomes = jobs::run(&scenarios, &policies, 2);
        assert_eq!(outcomes.len(), 10 * 2 * 2);
        for outcome in &outcomes {
            let row = &outcome.row;
            assert!(row.offered_sessions > 0 && (0.0..100.0).contains(&row.lost_pct), "{row:?}");
            assert!(row.any_copy_optimum_pct <= row.optimum_pct && row.opt_max_util <= 1.0, "{row:?}");
            // The optimum is sampled, so it may be above a lucky policy by a little.
            assert!(row.lost_pct >= row.optimum_pct - 1.0, "{row:?}");
        }
        assert_eq!(table::text(&outcomes).lines().count(), 1 + 10 * 2);
        let drawn = plot::svg(&outcomes);
        assert_eq!(drawn.matches("<polyline").count(), 10 * (2 + 1 + 2));
        assert!(drawn.ends_with("</svg>\n") && !drawn.contains("NaN"));
    }

    #[test]
    fn an_unknown_policy_is_told_which_there_are() {
        let error = policy::named("best").map(|policy| policy.name).unwrap_err();
        assert!(error.contains("`best`") && error.contains("p2c"), "{error}");
    }
}
