//! The settings of how nodes are chosen, sessions moved and copies made, as the core takes them: their forms in the file,
//! and the checks that need more than one value.

use std::{collections::HashMap, time::Duration};

use anyhow::{Context as _, ensure};
use serde::Deserialize;
use usher_proto::{Bitrate, NodeName, id, title::MAX_BYTES};
use usher_settings::de;

use super::Config;
use crate::core::{
    balancer::{self, Zones},
    cluster::{self, NodeLimits},
    replication::{self, Bounds, Policy},
};

/// Most masters of one cluster.
const MAX_MASTERS: u64 = 64;

/// Most copies of a title; more are a mistake in writing.
const MAX_COPIES: u32 = 10_000;

/// Longest wait for missing copies; with a longer one nothing is repaired.
const MAX_REPAIR_AFTER: Duration = Duration::from_secs(30 * 24 * 3600);

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    /// On
    On,
    /// Off
    Off,
}

/// `[[link]]`: the price of serving clients of one zone from another.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkPrice {
    /// The clients' zone.
    pub from: String,
    /// The nodes' zone.
    pub to: String,
    /// From 0, as good as a node of the same zone, to 1, as bad as a full node.
    pub price: f64,
}

/// `[[copies]]`: how many copies titles with a prefix should have.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CopyRule {
    /// Prefix of the titles.
    pub prefix: String,
    /// Copies that they should have.
    pub min: u32,
    /// Most copies that are made for demand; `None` for no limit.
    pub max: Option<u32>,
}

/// `[[node]]`: limits of what one node may claim.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct NodeClaims {
    /// The node, as in its certificate.
    pub name: String,
    /// Prefixes of the titles that it may list; empty for all titles.
    #[serde(default)]
    pub prefixes: Vec<String>,
    /// Highest capacity that it is trusted to have, for example `2gbit`.
    #[serde(default, deserialize_with = "de::text_or_none")]
    pub max_rate: Option<Bitrate>,
}

impl Config {
    /// These settings as the core takes them.
    ///
    /// # Errors
    /// The first wrong setting, with its remedy.
    pub(crate) fn balancing(&self) -> anyhow::Result<cluster::Settings> {
        ensure!((1..=MAX_MASTERS).contains(&self.masters), "masters = {}: it is 1 to {MAX_MASTERS}", self.masters);
        check_copies(self.min_copies)?;
        let links = self.link.iter().map(LinkPrice::check).collect::<anyhow::Result<_>>()?;
        let rules = rules(&self.copies)?;
        let limits = limits(&self.node)?;
        ensure!(
            self.repair_after <= MAX_REPAIR_AFTER,
            "repair-after = {}: it is at most 30d; --replication off makes no copies",
            humantime::format_duration(self.repair_after)
        );
        Ok(cluster::Settings {
            moves: self.moves == Switch::On,
            rebalance: self.rebalance == Switch::On,
            masters: self.masters,
            rule: self.rule,
            zones: Zones::new(links),
            replication: self.replication == Switch::On,
            copies: Policy::new(Bounds { min: self.min_copies, max: None }, rules),
            grace: self.repair_after,
            catalog_memory: self.catalog_memory,
            limits,
            dial_back: self.dial_back == Switch::On,
            ..cluster::Settings::default()
        })
    }
}

impl LinkPrice {
    fn check(&self) -> anyhow::Result<balancer::ZoneLink> {
        let Self { from, to, price } = self;
        for zone in [from, to] {
            let good = id::zone(zone).is_ok() && !zone.is_empty();
            ensure!(good, "[[link]] from `{from}` to `{to}`: `{zone}` is no zone; name one as nodes do with --zone");
        }
        ensure!(from != to, "[[link]] from `{from}` to itself: nodes of the client's own zone cost nothing");
        ensure!(
            (0.0..=1.0).contains(price),
            "[[link]] from `{from}` to `{to}`: price = {price} is not from 0 (as good as a node of the zone) to 1 (as bad as a full node)"
        );
        // From 0 to 1000 thousandths.
        let price = (price * 1000.0).round() as u32;
        Ok(balancer::ZoneLink { from: from.clone(), to: to.clone(), price })
    }
}

fn limits(nodes: &[NodeClaims]) -> anyhow::Result<HashMap<NodeName, NodeLimits>> {
    let mut limits = HashMap::new();
    for NodeClaims { name, prefixes, max_rate } in nodes {
        let node = NodeName::parse(name).with_context(|| format!("[[node]] name = `{name}`"))?;
        for prefix in prefixes {
            let good = !prefix.is_empty() && prefix.len() <= MAX_BYTES;
            ensure!(good, "[[node]] name = `{name}`: a prefix has 1 to {MAX_BYTES} bytes, for example films/");
        }
        let rate = max_rate.is_none_or(|rate| rate.0 > 0);
        ensure!(rate, "[[node]] name = `{name}`: max-rate is 0; leave the node out of the cluster instead");
        let one = NodeLimits { prefixes: prefixes.clone(), max_rate: max_rate.map(|rate| rate.0) };
        ensure!(limits.insert(node, one).is_none(), "[[node]] name = `{name}` stands there twice");
    }
    Ok(limits)
}

fn check_copies(copies: u32) -> anyhow::Result<()> {
    ensure!(copies <= MAX_COPIES, "{copies} copies of each title are too many; at most {MAX_COPIES}");
    Ok(())
}

fn rules(copies: &[CopyRule]) -> anyhow::Result<Vec<replication::PrefixRule>> {
    let mut rules: Vec<replication::PrefixRule> = Vec::new();
    for CopyRule { prefix, min, max } in copies {
        check_copies(*min)?;
        ensure!(prefix.len() <= MAX_BYTES, "[[copies]]: a prefix is at most {MAX_BYTES} bytes");
        ensure!(
            max.is_none_or(|max| max >= *min),
            "[[copies]] prefix = `{prefix}`: max must be at least {min}, its min"
        );
        ensure!(rules.iter().all(|rule| rule.prefix != *prefix), "[[copies]] prefix = `{prefix}` stands there twice");
        rules.push(replication::PrefixRule { prefix: prefix.clone(), bounds: Bounds { min: *min, max: *max } });
    }
    Ok(rules)
}
