//! The clips that come with the binary, and which node has which: figure 4 of "Dynamic Load Balancing of Video
//! Requests" (Carney, 2000).

use std::{fs, path::Path};

use anyhow::Context as _;

macro_rules! clip {
    ($name:literal) => {
        ($name, include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/media/samples/", $name)))
    };
}

const CLIPS: [(&str, &[u8]); 9] = [
    clip!("A.mp4"),
    clip!("B.mp4"),
    clip!("C.mp4"),
    clip!("D.mp4"),
    clip!("E.mp4"),
    clip!("F.webm"),
    clip!("G.ts"),
    clip!("H.mp4"),
    clip!("J.mp4"),
];

/// The first letters of each node's titles.
pub(super) const LAYOUT: [&str; 3] = ["ABCD", "BEFGH", "BEHJ"];

/// Writes the clips whose names begin with one of `letters`.
pub(super) fn write(letters: &str, folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("make the folder {}", folder.display()))?;
    for (name, bytes) in CLIPS {
        if letters.contains(&name[..1]) {
            let path = folder.join(name);
            fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))?;
        }
    }
    Ok(())
}
