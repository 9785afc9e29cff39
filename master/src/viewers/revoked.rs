//! The file of revocations in the state directory. A revocation is in force once it is on the disk.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use anyhow::Context as _;
use usher_files::{Draft, Existing};
use usher_proto::{TokenId, ViewerId};

use crate::core::revocations::Revocations;

/// Name of the file in the state directory.
const FILE: &str = "revoked.json";

/// Revocations, in memory and on the disk.
pub(super) struct RevokedFile {
    path: PathBuf,
    revoked: Mutex<Revocations>,
}

impl RevokedFile {
    /// Reads the file; none is as good as an empty one.
    pub(super) fn open(state: &Path) -> anyhow::Result<Self> {
        let path = state.join(FILE);
        let revoked = match fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).with_context(|| {
                format!("read {}: restore it; without it, revoked tokens are accepted", path.display())
            })?,
            Err(error) if error.kind() == ErrorKind::NotFound => Revocations::default(),
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        Ok(Self { path, revoked: Mutex::new(revoked) })
    }

    /// Whether a viewer's token is revoked; see [`Revocations::is_revoked`].
    pub(super) fn is_revoked(&self, viewer: ViewerId, token: Option<TokenId>, issued: Option<u64>) -> bool {
        self.revoked.lock().unwrap_or_else(PoisonError::into_inner).is_revoked(viewer, token, issued)
    }

    /// Changes the revocations, first on the disk. Blocks for a write.
    pub(super) fn change(&self, change: impl FnOnce(&mut Revocations) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let mut revoked = self.revoked.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = revoked.clone();
        change(&mut next)?;
        let text = serde_json::to_vec(&next).context("write revocations")?;
        let written =
            Draft::write(&self.path, 0o600, &text).and_then(|draft| draft.place(&self.path, Existing::Replace));
        written.with_context(|| format!("write {}", self.path.display()))?;
        *revoked = next;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revocations_survive_a_restart_and_a_damaged_file_is_an_error() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = RevokedFile::open(dir.path()).expect("empty");
        file.change(|revoked| Ok(revoked.revoke_viewer(1, ViewerId(5))?)).expect("written");
        assert!(file.change(|_| anyhow::bail!("no")).is_err());
        let again = RevokedFile::open(dir.path()).expect("read");
        assert!(again.is_revoked(ViewerId(5), None, None) && !again.is_revoked(ViewerId(6), None, None));
        fs::write(dir.path().join(FILE), "{").expect("written");
        assert!(RevokedFile::open(dir.path()).is_err());
    }
}
