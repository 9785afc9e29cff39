//! Snapshots of what the binary prints without a cluster: every `--help`, certificates, and typical errors.
//!
//! `TRYCMD=overwrite cargo test --test cli` writes them anew; the difference in git shows what changed for users.

use std::{fs, path::Path};

fn cases() -> trycmd::TestCases {
    let cases = trycmd::TestCases::new();
    cases
        .register_bin("usher", Path::new(env!("CARGO_BIN_EXE_usher")))
        // The widest that help becomes, also on a terminal of another width.
        .env("COLUMNS", "100")
        .env("NO_COLOR", "1")
        .env("HOME", "/nonexistent");
    cases
}

#[test]
fn help_and_errors() {
    cases().case("tests/cli/*.trycmd").skip("tests/cli/certs.trycmd");
}

/// Runs a copy in a temporary folder, because the commands write files.
#[test]
fn certificates() {
    let kept = Path::new("tests/cli/certs.trycmd");
    let folder = tempfile::tempdir().expect("a folder");
    let copy = folder.path().join("certs.trycmd");
    fs::create_dir(folder.path().join("certs.in")).expect("made");
    fs::copy(kept, &copy).expect("copied");
    // The commands run when the cases are dropped.
    cases().case(&copy);
    if std::env::var_os("TRYCMD").is_some() {
        fs::copy(&copy, kept).expect("copied back");
    }
}
