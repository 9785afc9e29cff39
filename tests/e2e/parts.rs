//! The programs and files of a test: the binary under test, programs that `cargo xtask test` installs, shipped clips.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// The path of the binary under test.
pub(crate) const USHER: &str = env!("CARGO_BIN_EXE_usher");

/// The binary under test, without the settings of the developer that runs the test.
pub(crate) fn usher() -> Command {
    usher_kit::usher(Path::new(USHER))
}

/// A program that the tests need; `cargo xtask test` installs the missing ones.
#[track_caller]
pub(crate) fn real_part(name: &str) -> PathBuf {
    let named = std::env::var_os(format!("USHER_{}", name.to_uppercase())).map(PathBuf::from);
    let found = named.filter(|path| path.is_file()).or_else(|| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).map(|dir| dir.join(name)).find(|path| path.is_file())
    });
    found.unwrap_or_else(|| {
        panic!("`{name}` is not installed: run the tests with `cargo xtask test`, which installs it")
    })
}

/// A clip that the repository ships.
pub(crate) fn clip(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("media/samples").join(name)
}

/// BLAKE3 of a file in hex.
pub(crate) fn b3(path: impl AsRef<Path>) -> String {
    let data = std::fs::read(path.as_ref()).unwrap_or_else(|e| panic!("{}: {e}", path.as_ref().display()));
    blake3::hash(&data).to_hex().to_string()
}
