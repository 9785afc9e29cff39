//! The master's persistent state: the secret that signs tickets, in the file `cluster.secret`, and the operators' choices
//! among the contents of titles, in `decided-contents`. Everything else is rebuilt from the nodes.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use rand::RngExt as _;
use tracing::{info, warn};
use usher_files::{Draft, Existing};
use usher_proto::{ContentId, Title, ticket::ClusterSecret};

/// Name of the file in the state directory.
const SECRET: &str = "cluster.secret";

/// Reads the cluster's secret from `dir`; creates it and the directory if absent.
pub(crate) fn cluster_secret(dir: &Path) -> anyhow::Result<ClusterSecret> {
    let path = dir.join(SECRET);
    usher_files::private_folder(dir, SECRET)
        .with_context(|| format!("create the state directory {}", dir.display()))?;
    if !path.try_exists().with_context(|| format!("look for {}", path.display()))? {
        make(&path)?;
    }
    let bytes = fs::read(&path).with_context(|| {
        format!(
            "read {}: the master must own it; correct its owner, or choose another --state directory",
            path.display()
        )
    })?;
    let length = bytes.len();
    let Ok(secret) = <[u8; 32]>::try_from(bytes) else {
        bail!(
            "{} has {length} bytes and should have 32; restore it, or remove it to create a new one, which voids the \
             tickets of the last minute",
            path.display()
        );
    };
    let mode = fs::metadata(&path).with_context(|| format!("look at {}", path.display()))?.permissions().mode();
    if mode & 0o077 != 0 {
        let mode = format!("{:o}", mode & 0o777);
        match fs::set_permissions(&path, fs::Permissions::from_mode(0o600)) {
            Ok(()) => warn!(path = %path.display(), mode, "cluster secret was readable by others; closed to them"),
            Err(error) => {
                warn!(path = %path.display(), mode, %error, "cluster secret is readable by others; run chmod 600");
            }
        }
    }
    Ok(ClusterSecret::new(secret))
}

/// Creates the secret. The file is complete or absent at any time, and never overwritten.
fn make(path: &Path) -> anyhow::Result<()> {
    let secret: [u8; 32] = rand::rng().random();
    match Draft::write(path, 0o600, &secret).and_then(|draft| draft.place(path, Existing::Keep)) {
        // Another master on the same directory was faster; its secret is as good.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        written => written.with_context(|| format!("write {}", path.display()))?,
    }
    ensure!(path.exists(), "{} vanished while it was created", path.display());
    info!(path = %path.display(), "cluster secret created");
    Ok(())
}

/// Name of the file of decisions: a line per title, with the content id first.
const DECISIONS: &str = "decided-contents";

/// Longest file of decisions that is read.
const MAX_DECISIONS: u64 = 16 << 20;

/// The file of the operators' decisions.
pub(crate) struct DecisionStore {
    path: PathBuf,
}

/// The decisions in `dir`, and the store of later ones.
pub(crate) fn decisions(dir: &Path) -> anyhow::Result<(DecisionStore, Vec<(Title, ContentId)>)> {
    let path = dir.join(DECISIONS);
    let text = match fs::metadata(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        Ok(metadata) if metadata.len() > MAX_DECISIONS => {
            bail!("{} has more than {MAX_DECISIONS} bytes; restore it, or remove it", path.display())
        }
        _ => fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?,
    };
    let decision = |line: &str| {
        let (content, title) = line.split_once(' ')?;
        Some((Title::parse(title).ok()?, content.parse().ok()?))
    };
    let mut decisions = Vec::new();
    for line in text.lines() {
        let wrong = || format!("{}: `{line}` is not a content id and a title; correct or remove it", path.display());
        decisions.push(decision(line).with_context(wrong)?);
    }
    Ok((DecisionStore { path }, decisions))
}

impl DecisionStore {
    /// Replaces the decisions.
    pub(crate) fn write(&self, decisions: &[(Title, ContentId)]) -> anyhow::Result<()> {
        let lines: String = decisions.iter().map(|(title, content)| format!("{content} {title}\n")).collect();
        let written = Draft::write(&self.path, 0o600, lines.as_bytes());
        let placed = written.and_then(|draft| draft.place(&self.path, Existing::Replace));
        placed.map(drop).with_context(|| format!("write {}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use usher_proto::{BootId, NodeName};

    use super::*;

    fn kid(secret: &ClusterSecret) -> String {
        let node = NodeName::parse("n").expect("a name");
        secret.node_key(&node, BootId(1)).kid().to_owned()
    }

    #[test]
    fn the_secret_is_made_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = dir.path().join("a/b");
        let first = cluster_secret(&state).expect("made");
        let second = cluster_secret(&state).expect("read");
        assert_eq!(kid(&first), kid(&second));
        let mode = fs::metadata(state.join(SECRET)).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(&state).expect("there").count(), 1, "no draft is left");
        let other = cluster_secret(&dir.path().join("c")).expect("made");
        assert_ne!(kid(&first), kid(&other));
    }

    #[test]
    fn a_secret_that_others_could_read_is_closed_to_them() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = dir.path().join("state");
        let first = cluster_secret(&state).expect("made");
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        for (path, open) in [(&state, 0o755), (&state.join(SECRET), 0o644)] {
            fs::set_permissions(path, fs::Permissions::from_mode(open)).expect("set");
        }
        assert_eq!(kid(&cluster_secret(&state).expect("read")), kid(&first));
        assert_eq!((mode(&state), mode(&state.join(SECRET))), (0o700, 0o600));
    }

    #[test]
    fn decisions_are_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        let (store, none) = decisions(dir.path()).expect("none yet");
        assert!(none.is_empty());
        let title = |name| Title::parse(name).expect("a title");
        let all = vec![(title("films/a b.mp4"), ContentId([1; 32])), (title("c"), ContentId([0xab; 32]))];
        store.write(&all).expect("written");
        store.write(&all).expect("replaced");
        let (_, read) = decisions(dir.path()).expect("read");
        assert_eq!(read, all);
        fs::write(dir.path().join(DECISIONS), "zz title\n").expect("written");
        let error = decisions(dir.path()).err().expect("damaged").to_string();
        assert!(error.contains("zz title"), "{error}");
    }

    #[test]
    fn a_short_secret_and_a_directory_are_errors() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join(SECRET), [1; 31]).expect("written");
        let error = cluster_secret(dir.path()).expect_err("short").to_string();
        assert!(error.contains("31 bytes"), "{error}");
        assert_eq!(fs::read(dir.path().join(SECRET)).expect("kept").len(), 31);
        fs::remove_file(dir.path().join(SECRET)).expect("removed");
        fs::create_dir(dir.path().join(SECRET)).expect("made");
        assert!(cluster_secret(dir.path()).is_err());
    }
}
