//! `usher nodes`: the nodes of a cluster, one node with its history, or each change as it happens.

use tokio::sync::mpsc;
use usher_proto::{Bitrate, Code, pb::v1, units};

use super::{
    failure::Failure,
    options::{Operator, interrupted},
    output::{count, duration, print, print_json, print_json_line, state},
};
use crate::{
    client::Client,
    core::{
        table::{self, Align, clean},
        url::Address,
    },
};

/// List nodes with their state and bandwidth, or show one node
///
/// Examples:
///   usher nodes
///   usher nodes usher://media.example.org north-1
///   usher nodes --watch
#[derive(Clone, Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct NodesArgs {
    /// Master, name of a node, or both
    #[arg(value_name = "usher://HOST[:PORT] | NAME", num_args = 0..=2)]
    what: Vec<String>,
    /// Print a JSON array; with --watch a JSON object per line
    #[arg(long)]
    json: bool,
    /// Keep running and print each change
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    operator: Operator,
}

impl NodesArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// The exit code and the message.
    pub async fn run(self, requests: fn() -> mpsc::Receiver<()>) -> Result<(), Failure> {
        let (urls, names): (Vec<_>, Vec<_>) = self.what.iter().partition(|text| text.starts_with("usher://"));
        if urls.len() > 1 || names.len() > 1 {
            return Err(Failure::usage("give at most one master and one name of a node"));
        }
        let address = match urls.first() {
            Some(url) => {
                url.parse::<Address>().map_err(|error| Failure::usage(format!("`{}`: {error}", clean(url))))?
            }
            None => self.operator.master().clone(),
        };
        let client = self.operator.client(address, "")?;
        let name = names.first().map(|name| name.as_str());
        let mut stop = requests();
        if self.watch {
            let mut failed = Ok(());
            let watch = client.watch(|change| {
                if let Some(node) = change.node.filter(|node| name.is_none_or(|name| name == node.name)) {
                    failed = if self.json {
                        print_json_line(&change_json(&node, &change.change))
                    } else {
                        print(&line(&node, &change.change))
                    };
                }
                failed.is_ok()
            });
            tokio::select! {
                result = watch => result.map_err(Failure::for_operator)?,
                () = interrupted(&mut stop) => {}
            }
            return failed;
        }
        tokio::select! {
            shown = self.show(&client, name) => shown,
            () = interrupted(&mut stop) => Err(Failure::new(Code::Interrupted, "interrupted")),
        }
    }

    /// Shows one node, or all.
    async fn show(&self, client: &Client, name: Option<&str>) -> Result<(), Failure> {
        match name {
            Some(name) => {
                let found = client.node(name).await.map_err(Failure::for_operator)?;
                let node = found.node.unwrap_or_default();
                let history = found.history.unwrap_or_default();
                if self.json {
                    print_json(&[detail_json(&node, &history)].into_iter().collect())
                } else {
                    print(&detail(&node, &history))
                }
            }
            None => {
                let nodes = client.nodes().await.map_err(Failure::for_operator)?;
                if self.json { print_json(&nodes.iter().map(json).collect()) } else { print(&list(&nodes)) }
            }
        }
    }
}

fn rate(bits: u64) -> String {
    Bitrate(bits).to_string()
}

/// A node's state, with the time left of a drain and the number of damaged files.
fn standing(node: &v1::Node) -> String {
    let mut text = state(node.state).to_owned();
    if node.drain_left_ms > 0 {
        text.push_str(&format!(", {} left", duration(node.drain_left_ms)));
    }
    if node.damaged_files > 0 {
        text.push_str(&format!(", {} damaged", node.damaged_files));
    }
    text
}

fn age(millis: u64) -> String {
    format!("{}.{} s", millis / 1000, millis / 100 % 10)
}

fn list(nodes: &[v1::Node]) -> String {
    let columns = [
        ("NODE", Align::Left),
        ("STATE", Align::Left),
        ("ZONE", Align::Left),
        ("EGRESS", Align::Right),
        ("BOOKED", Align::Right),
        ("HEADROOM", Align::Right),
        ("CAPACITY", Align::Right),
        ("SESSIONS", Align::Right),
        ("TITLES", Align::Right),
        ("REPORT", Align::Right),
        ("ADDRESSES", Align::Left),
    ];
    let rows = nodes.iter().map(|node| {
        vec![
            clean(&node.name),
            standing(node),
            if node.zone.is_empty() { "-".to_owned() } else { clean(&node.zone) },
            rate(node.egress_bps),
            rate(node.booked_bps),
            rate(node.headroom_bps),
            rate(node.capacity_bps),
            node.sessions.to_string(),
            node.titles.to_string(),
            age(node.report_age_ms),
            clean(&node.addresses.join(",")),
        ]
    });
    table::render(&columns, &rows.collect::<Vec<_>>())
}

fn line(node: &v1::Node, change: &str) -> String {
    format!(
        "{} {} ({}), {} of {} sent, {}, {}\n",
        clean(&node.name),
        clean(change),
        standing(node),
        rate(node.egress_bps),
        rate(node.capacity_bps),
        count(node.sessions.into(), "session"),
        count(node.titles.into(), "title"),
    )
}

fn detail(node: &v1::Node, history: &v1::History) -> String {
    let rows = [
        ("node", clean(&node.name)),
        ("state", standing(node)),
        ("zone", clean(&node.zone)),
        ("addresses", clean(&node.addresses.join(", "))),
        ("version", clean(&node.version)),
        ("attached at", node.attached_at.as_ref().map(|at| clean(&at.to_string())).unwrap_or_default()),
        ("last report", format!("{} ago", age(node.report_age_ms))),
        ("capacity", rate(node.capacity_bps)),
        ("measured", rate(node.measured_bps)),
        ("booked", rate(node.booked_bps)),
        ("headroom", rate(node.headroom_bps)),
        ("egress", rate(node.egress_bps)),
        ("mean of 10 s", rate(history.mean_10s_bps)),
        ("mean of 1 min", rate(history.mean_1m_bps)),
        ("mean of 5 min", rate(history.mean_5m_bps)),
        ("95th percentile", rate(history.p95_bps)),
        ("samples", format!("{} over {}", history.samples.len(), duration(history.samples.len() as u64 * 1000))),
        ("sessions", node.sessions.to_string()),
        ("titles", node.titles.to_string()),
        ("rejected files", node.rejected_files.to_string()),
        ("damaged files", node.damaged_files.to_string()),
        ("sent", units::bytes(node.sent_bytes)),
    ];
    rows.iter().map(|(name, value)| format!("{name:<16} {value}").trim_end().to_owned() + "\n").collect()
}

fn json(node: &v1::Node) -> serde_json::Value {
    serde_json::json!({
        "name": node.name,
        "state": state(node.state),
        "zone": node.zone,
        "addresses": node.addresses,
        "capacity_bps": node.capacity_bps,
        "measured_bps": node.measured_bps,
        "booked_bps": node.booked_bps,
        "headroom_bps": node.headroom_bps,
        "egress_bps": node.egress_bps,
        "sessions": node.sessions,
        "titles": node.titles,
        "rejected_files": node.rejected_files,
        "damaged_files": node.damaged_files,
        "drain_left_ms": node.drain_left_ms,
        "attached_at": node.attached_at.as_ref().map(ToString::to_string),
        "report_age_ms": node.report_age_ms,
        "version": node.version,
        "boot_id": node.boot_id,
        "sent_bytes": node.sent_bytes,
    })
}

fn change_json(node: &v1::Node, change: &str) -> serde_json::Value {
    serde_json::json!({ "change": change, "node": json(node) })
}

fn detail_json(node: &v1::Node, history: &v1::History) -> serde_json::Value {
    let samples = history.samples.iter().map(|sample| {
        serde_json::json!({
            "at": sample.at.as_ref().map(ToString::to_string),
            "egress_bps": sample.egress_bps,
            "sessions": sample.sessions,
        })
    });
    let mut node = json(node);
    node["history"] = serde_json::json!({
        "mean_10s_bps": history.mean_10s_bps,
        "mean_1m_bps": history.mean_1m_bps,
        "mean_5m_bps": history.mean_5m_bps,
        "p95_bps": history.p95_bps,
        "samples": samples.collect::<Vec<_>>(),
    });
    node
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drain_time_and_damage_stand_beside_the_state() {
        let node = |drain_left_ms, damaged_files| v1::Node {
            state: v1::NodeState::Draining.into(),
            drain_left_ms,
            damaged_files,
            ..v1::Node::default()
        };
        assert_eq!(standing(&node(0, 0)), "draining");
        assert_eq!(standing(&node(185_000, 0)), "draining, 3:05 left");
        assert_eq!(standing(&node(500, 2)), "draining, 0:00 left, 2 damaged");
    }
    #[test]
    fn nodes_in_a_table_and_one_in_detail() {
        let node = v1::Node {
            name: "north-1".into(),
            state: v1::NodeState::Serving.into(),
            addresses: vec!["192.0.2.1:7441".into()],
            capacity_bps: 2_000_000_000,
            egress_bps: 812_000_000,
            booked_bps: 900_000_000,
            headroom_bps: 1_100_000_000,
            sessions: 203,
            titles: 1280,
            report_age_ms: 420,
            ..v1::Node::default()
        };
        let expected = "\
NODE     STATE    ZONE      EGRESS      BOOKED    HEADROOM  CAPACITY  SESSIONS  TITLES  REPORT  ADDRESSES
north-1  serving  -     812 Mbit/s  900 Mbit/s  1.1 Gbit/s  2 Gbit/s       203    1280   0.4 s  192.0.2.1:7441
";
        assert_eq!(list(std::slice::from_ref(&node)), expected);
        let changed = "north-1 joined (serving), 812 Mbit/s of 2 Gbit/s sent, 203 sessions, 1280 titles\n";
        assert_eq!(line(&node, "joined"), changed);
        let text = detail(&node, &v1::History::default());
        let beginning = "node             north-1\nstate            serving\nzone\naddresses        192.0.2.1:7441\n";
        assert!(text.starts_with(beginning), "{text}");
        assert!(text.ends_with("\nrejected files   0\ndamaged files    0\nsent             0 B\n"), "{text}");
    }
}
