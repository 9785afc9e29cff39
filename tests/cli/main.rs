//! Snapshots of what the binary prints without a cluster: every `--help`, certificates, and typical errors.
//!
//! `TRYCMD=overwrite cargo test --test cli` writes them anew; the difference in git shows what changed for users.

use std::path::Path;

#[test]
fn snapshots() {
    let cases = trycmd::TestCases::new();
    cases
        .register_bin("usher", Path::new(env!("CARGO_BIN_EXE_usher")))
        // The widest that help becomes, also on a terminal of another width.
        .env("COLUMNS", "100")
        .env("NO_COLOR", "1")
        .env("HOME", "/nonexistent")
        .case("tests/cli/*.trycmd");
}
