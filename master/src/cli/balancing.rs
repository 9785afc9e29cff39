//! The settings of how nodes are chosen, sessions moved and copies made: their words on the command line and in the
//! file, and what is nonsense.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use usher_proto::{id, title::MAX_BYTES};

use super::File;
use crate::{
    app::{Balancing, DEFAULT_MOVES},
    core::{
        balancer,
        replication::{self, Bounds, Policy},
    },
};

/// More masters than this share no cluster.
const MOST_MASTERS: u64 = 64;

/// More copies than this of a title are a mistake in writing.
const MOST_COPIES: u32 = 10_000;

/// Whoever waits longer than this for a node wants no repair.
const LONGEST_REPAIR: Duration = Duration::from_secs(30 * 24 * 3600);

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(super) enum Switch {
    /// It is done.
    On,
    /// It is not.
    Off,
}

/// What is better among nodes with room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(super) enum Rule {
    /// The farthest from full, in standard deviations of its own load
    Margin,
    /// The most bandwidth free
    Headroom,
}

/// What may be said on the command line.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct Switches {
    /// Send running sessions to other nodes to make room, and away from nodes that drain [default: on]
    #[arg(long, env = "USHER_MOVES", value_name = "on|off", hide_possible_values = true)]
    moves: Option<Switch>,
    /// Send running sessions to nodes that have just joined, when the others are much fuller [default: on]
    #[arg(long, env = "USHER_REBALANCE", value_name = "on|off", hide_possible_values = true)]
    rebalance: Option<Switch>,
    /// Masters that choose nodes for this cluster at once [default: 1]
    #[arg(long, env = "USHER_MASTERS", value_name = "N")]
    masters: Option<u64>,
    /// What is better among the nodes with room [default: margin]
    #[arg(long, env = "USHER_RULE", value_name = "RULE")]
    rule: Option<Rule>,
    /// Copies that every title should have [default: 1]
    #[arg(long, env = "USHER_MIN_COPIES", value_name = "N")]
    min_copies: Option<u32>,
    /// How long copies may be missing before they are made anew, for example 1h [default: 5m]
    #[arg(long, env = "USHER_REPAIR_AFTER", value_name = "TIME", value_parser = humantime::parse_duration)]
    repair_after: Option<Duration>,
    /// Copy titles in demand, and those with too few copies, to nodes that give room for it [default: on]
    #[arg(long, env = "USHER_REPLICATION", value_name = "on|off", hide_possible_values = true)]
    replication: Option<Switch>,
}

/// `[[link]]`: what it costs to serve clients of one zone from another.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Link {
    /// The clients' zone.
    from: String,
    /// The nodes' zone.
    to: String,
    /// From 0, as good as at home, to 1, as bad as a full node; in thousandths.
    price: f64,
}

/// `[[copies]]`: how many copies titles with a prefix should have.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Copies {
    prefix: String,
    min: u32,
    max: Option<u32>,
}

impl Switches {
    /// These over the file's over the defaults.
    pub(super) fn over(&self, file: &mut File) -> anyhow::Result<Balancing> {
        let on = |flag: Option<Switch>, file: Option<Switch>, usual: bool| {
            flag.or(file).map_or(usual, |switch| switch == Switch::On)
        };
        let masters = self.masters.or(file.masters).unwrap_or(1);
        ensure!((1..=MOST_MASTERS).contains(&masters), "masters = {masters}: it is 1 to {MOST_MASTERS}");
        let min_copies = self.min_copies.or(file.min_copies).unwrap_or(1);
        check_copies(min_copies)?;
        let links = std::mem::take(&mut file.link).into_iter().map(Link::check).collect::<anyhow::Result<_>>()?;
        let rules = rules(std::mem::take(&mut file.copies))?;
        let usual = Balancing::default();
        let in_file = file.repair_after.as_deref().map(humantime::parse_duration).transpose();
        let in_file = in_file.context("repair-after: write a time, for example 5m or 1h")?;
        let repair_after = self.repair_after.or(in_file).unwrap_or(usual.repair_after);
        ensure!(
            repair_after <= LONGEST_REPAIR,
            "repair-after = {}: it is at most 30d; --replication off makes no copies",
            humantime::format_duration(repair_after)
        );
        Ok(Balancing {
            moves: on(self.moves, file.moves, DEFAULT_MOVES),
            rebalance: on(self.rebalance, file.rebalance, usual.rebalance),
            masters,
            rule: self.rule.or(file.rule).map_or(usual.rule, Rule::into),
            links,
            replication: on(self.replication, file.replication, usual.replication),
            copies: Policy::new(Bounds { min: min_copies, max: None }, rules),
            repair_after,
        })
    }
}

impl Link {
    fn check(self) -> anyhow::Result<balancer::ZoneLink> {
        let Self { from, to, price } = self;
        for zone in [&from, &to] {
            let good = id::zone(zone).is_ok() && !zone.is_empty();
            ensure!(good, "[[link]] from `{from}` to `{to}`: `{zone}` is no zone; name one as nodes do with --zone");
        }
        ensure!(from != to, "[[link]] from `{from}` to itself: a zone's own nodes cost nothing");
        ensure!(
            (0.0..=1.0).contains(&price),
            "[[link]] from `{from}` to `{to}`: price = {price} is not from 0 (as good as at home) to 1 (as bad as a full node)"
        );
        // Between 0 and 1000.
        let price = (price * 1000.0).round() as u32;
        Ok(balancer::ZoneLink { from, to, price })
    }
}

fn check_copies(copies: u32) -> anyhow::Result<()> {
    ensure!(copies <= MOST_COPIES, "{copies} copies of each title are too many; at most {MOST_COPIES}");
    Ok(())
}

fn rules(copies: Vec<Copies>) -> anyhow::Result<Vec<replication::PrefixRule>> {
    let mut rules: Vec<replication::PrefixRule> = Vec::new();
    for Copies { prefix, min, max } in copies {
        check_copies(min)?;
        ensure!(prefix.len() <= MAX_BYTES, "[[copies]]: a prefix is at most {MAX_BYTES} bytes");
        ensure!(
            max.is_none_or(|max| max >= min),
            "[[copies]] prefix = `{prefix}`: max must be at least {min}, its min"
        );
        ensure!(rules.iter().all(|rule| rule.prefix != prefix), "[[copies]] prefix = `{prefix}` stands there twice");
        rules.push(replication::PrefixRule { prefix, bounds: Bounds { min, max } });
    }
    Ok(rules)
}

impl From<Rule> for balancer::RankRule {
    fn from(rule: Rule) -> Self {
        match rule {
            Rule::Margin => Self::Margin,
            Rule::Headroom => Self::Headroom,
        }
    }
}
