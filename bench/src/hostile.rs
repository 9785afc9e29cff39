//! Attacks from one address, and what honest clients notice of them. Each row is a file of [`hostile`](self) with its own
//! cluster; this file owns the table.

mod connections;
mod handshakes;
mod never_read;
mod row;
mod watchers;

use std::{fs, path::PathBuf};

use anyhow::{Context as _, ensure};

use self::row::HostileRow;

/// The rows in the order of the table. A new one is a file with a `ROWS` or `ROW` of its own.
fn rows() -> Vec<HostileRow> {
    [&connections::ROWS[..], &[watchers::ROW, handshakes::ROW, never_read::ROW]].concat()
}

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Rows whose names contain this text; all without it
    #[arg(default_value = "")]
    only: String,
    /// Honest clients per row and run
    #[arg(long, default_value_t = 200)]
    clients: usize,
    /// Where to write the figures as JSON too
    #[arg(long)]
    json: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let rows: Vec<HostileRow> = rows().into_iter().filter(|row| row.name.contains(&args.only)).collect();
    ensure!(!rows.is_empty(), "no row contains `{}`", args.only);
    println!("attack by one address                     served            p50        p99   p99 quiet  ratio  goal");
    let mut all = Vec::new();
    for row in rows {
        let figures = (row.run)(args.clients)?;
        println!("{:<38} {figures}  {}", row.name, row.goal);
        all.push(serde_json::json!({"attack": row.name, "goal": row.goal, "figures": figures}));
    }
    if let Some(path) = &args.json {
        let text = serde_json::json!({ "rows": all }).to_string();
        fs::write(path, format!("{text}\n")).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}
