//! The user's directories. Independent of settings.

use std::{env, path::PathBuf};

use anyhow::Context as _;

/// The user's directory for state that a program can recreate, after the XDG base directory specification.
///
/// # Errors
/// Neither `XDG_STATE_HOME` nor `HOME` is set.
pub fn state_dir() -> anyhow::Result<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("XDG_STATE_HOME")
        .filter(|dir| dir.is_absolute())
        .or_else(|| set("HOME").map(|home| home.join(".local/state")))
        .context("find the state directory: HOME is not set; name a directory with --state or USHER_STATE")
}
