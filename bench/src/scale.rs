//! Many titles on one node. Real files (a few packets of MPEG-TS each, all different), the real binary.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

use usher_kit::Cluster;

use crate::cluster::{HASHES, usage::resident, usher, wait_for_hashes, wait_for_titles};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Number of titles
    #[arg(long, default_value_t = 100_000)]
    titles: u32,
    /// Write the figures as JSON to this file too
    #[arg(long)]
    json: Option<std::path::PathBuf>,
}

/// A real clip that the repository ships; its first packets are a playable title of some kilobytes.
const CLIP: &[u8] = include_bytes!("../../media/samples/G.ts");

/// Bytes of an MPEG-TS packet (ISO/IEC 13818-1, section 2.4.3).
const PACKET: usize = 188;

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let dir = tempfile::tempdir().context("make a temporary folder")?;
    let (media, state) = (dir.path().join("media"), dir.path().join("state"));
    fs::create_dir(&media).context("make the media folder")?;
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let (state, empty_state) = (text(&state), text(&dir.path().join("empty-state")));
    let node = |state| ["--state", state, "--log", "info"];

    // An empty pair first: its cost without any title.
    let mut cluster = Cluster::start(&usher()?, &["--log", "info"])?;
    cluster.serve("node-1", &media);
    cluster.spawn_node("node-1", &node(&empty_state))?.find("library is hashed")?;
    let used = |cluster: &mut Cluster| -> anyhow::Result<(u64, u64)> {
        Ok((resident(&[cluster.master.id()])?, resident(&[cluster.node("node-1").id()])?))
    };
    let empty = used(&mut cluster)?;
    cluster.nodes.clear();

    let names = write_titles(&media, args.titles)?;
    let began = Instant::now();
    cluster.restart_master()?;
    let process = cluster.spawn_node("node-1", &node(&state))?;
    let (_, scanned) = process.find_within("library is scanned", HASHES)?;
    let registered = wait_for_titles(&cluster, args.titles)?;
    let (line, hashed) = cluster.node("node-1").find_within("library is hashed", HASHES)?;
    ensure!(!line.contains("hashed_bytes=0"), "the first start hashed nothing: {line}");
    wait_for_hashes(&cluster, args.titles)?;
    let full = used(&mut cluster)?;
    cluster.nodes.clear();

    // Then the same library again, under a new process of the node.
    cluster.restart_master()?;
    let process = cluster.spawn_node("node-1", &node(&state))?;
    let restarted = Instant::now();
    let (line, _) = process.find_within("library is hashed", HASHES)?;
    ensure!(line.contains("hashed_bytes=0"), "the restart hashed again: {line}");
    let again = wait_for_titles(&cluster, args.titles)?;

    let titles = u64::from(args.titles);
    let per_title = |full: u64, empty: u64| full.saturating_sub(empty) / titles;
    let (in_master, in_node) = (per_title(full.0, empty.0), per_title(full.1, empty.1));
    let name = names / titles;
    // Master and node hold each name once.
    let beyond = (in_master + in_node).saturating_sub(2 * name);
    let seconds = |duration: Duration| format!("{:.2}", duration.as_secs_f64());
    let rows = [
        ("titles", titles.to_string(), ""),
        ("scan (probe every file)", seconds(scanned - began), "s"),
        ("registered after the scan's end", seconds(registered.saturating_duration_since(scanned)), "s"),
        ("all hashed after the start", seconds(hashed - began), "s"),
        ("restart: registered again, nothing hashed", seconds(again - restarted), "s"),
        ("memory in the master", in_master.to_string(), "bytes/title"),
        ("memory in the node", in_node.to_string(), "bytes/title"),
        ("a name", name.to_string(), "bytes"),
        ("together, beyond the names", beyond.to_string(), "bytes/title"),
    ];
    for (what, value, unit) in &rows {
        println!("{what:<44} {value:>10} {unit}");
    }
    if let Some(json) = &args.json {
        let rows: Vec<_> = rows
            .iter()
            .map(|(what, value, unit)| serde_json::json!({"metric": what, "value": value.parse::<f64>().ok(), "unit": unit}))
            .collect();
        fs::write(json, serde_json::json!({ "rows": rows }).to_string()).context("write the JSON file")?;
    }
    Ok(())
}

/// Writes the titles, a thousand a folder; the bytes of all their names.
fn write_titles(media: &Path, titles: u32) -> anyhow::Result<u64> {
    let mut names = 0;
    let mut data = CLIP[..24 * PACKET].to_vec();
    // A null packet (PID 0x1fff) that carries the number: every reader skips it.
    data.extend_from_slice(&[0x47, 0x1f, 0xff, 0x10]);
    data.resize(25 * PACKET, 0xff);
    for i in 0..titles {
        let name = format!("series-{:03}/episode-{:03}.ts", i / 1000, i % 1000);
        let path = media.join(&name);
        if i % 1000 == 0 {
            fs::create_dir_all(media.join(format!("series-{:03}", i / 1000))).context("make a folder")?;
        }
        let end = data.len();
        data[end - 4..].copy_from_slice(&i.to_be_bytes());
        fs::write(&path, &data).with_context(|| format!("write {}", path.display()))?;
        names += name.len() as u64;
    }
    Ok(names)
}
