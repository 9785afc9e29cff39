//! Many titles on one node. Real files (a few packets of MPEG-TS each, all different), the real binary.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

use crate::cluster::{Part, address_in, ask, wait_for_hashes, wait_for_titles};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How many titles
    #[arg(long, default_value_t = 100_000)]
    titles: u32,
    /// Where to write the figures as JSON too
    #[arg(long)]
    json: Option<std::path::PathBuf>,
}

/// A real clip that the repository ships; its first packets are a playable title of some kilobytes.
const CLIP: &[u8] = include_bytes!("../../media/samples/G.ts");

/// Bytes of an MPEG-TS packet (ISO/IEC 13818-1, section 2.4.3).
const PACKET: usize = 188;

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let dir = tempfile::tempdir().context("make a temporary folder")?;
    let path = dir.path();
    let (certs, media, state) = (path.join("certs"), path.join("media"), path.join("state"));
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let (certs, media_text, state, ca) = (text(&certs), text(&media), text(&state), certs.join("ca.pem"));
    ask(&ca, &["certs", "init", "--dir", &certs])?;
    ask(&ca, &["certs", "issue", "master", "--dir", &certs])?;
    ask(&ca, &["certs", "issue", "node", "node-1", "--dir", &certs])?;
    let master_args = ["master", "--listen", "127.0.0.1:0", "--certs", &certs, "--state", &text(&path.join("master"))]
        .map(String::from);
    let master_args: Vec<&str> = master_args.iter().map(String::as_str).collect();

    // An empty pair first: what it costs without any title.
    fs::create_dir(&media).context("make the media folder")?;
    let start = |state: &str| -> anyhow::Result<(Part, Part, String)> {
        let mut master = Part::start(&master_args)?;
        let (line, _) = master.line_with("master listens")?;
        let address = address_in(&line)?;
        let node = Part::start(&[
            "node",
            "--name",
            "node-1",
            "--master",
            &address,
            "--listen",
            "127.0.0.1:0",
            "--certs",
            &certs,
            "--media",
            &media_text,
            "--state",
            state,
        ])?;
        Ok((master, node, address))
    };
    let (master, mut node, _) = start(&text(&path.join("empty-state")))?;
    node.line_with("library is hashed")?;
    let empty = (master.resident()?, node.resident()?);
    drop((node, master));

    let names = write_titles(&media, args.titles)?;
    let began = Instant::now();
    let (master, mut node, address) = start(&state)?;
    let (_, scanned) = node.line_with("library is scanned")?;
    let registered = wait_for_titles(&ca, &address, args.titles)?;
    let (line, hashed) = node.line_with("library is hashed")?;
    ensure!(!line.contains("hashed_bytes=0"), "the first start hashed nothing: {line}");
    wait_for_hashes(&ca, &address, args.titles)?;
    let full = (master.resident()?, node.resident()?);
    drop(node);

    // Then the same library again, under a new process of the node.
    drop(master);
    let (_master, mut node, address) = start(&state)?;
    let restarted = Instant::now();
    let (line, _) = node.line_with("library is hashed")?;
    ensure!(line.contains("hashed_bytes=0"), "the restart hashed again: {line}");
    let again = wait_for_titles(&ca, &address, args.titles)?;

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
