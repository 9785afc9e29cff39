//! Generates the code in `proto/generated` from the protos, in pure Rust (no `protoc`). A crate of its own, so that a build
//! of the product needs no generator, and so that it runs while `usher-proto` does not compile.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

/// Messages whose `Debug` is written by hand in `proto/src/pb.rs`, without their secrets.
const SECRETS: [&str; 9] = [
    ".usher.v1.TicketKey",
    ".usher.v1.Seat",
    ".usher.v1.SeatFailure",
    ".usher.v1.Prepare",
    ".usher.v1.RenewRequest",
    ".usher.v1.RenewResponse",
    ".usher.v1.PublishResponse",
    ".usher.wire.v1.Open",
    ".usher.wire.v1.Renew",
];

fn main() -> anyhow::Result<()> {
    let folder = protos().join("generated");
    for (name, content) in generate()? {
        let path = folder.join(name);
        fs::write(&path, content).with_context(|| format!("write {}", path.display()))?;
        println!("{}", path.display());
    }
    Ok(())
}

/// The folder of the protos.
fn protos() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Code and descriptors by file name.
fn generate() -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
    let api = ["common", "tickets", "catalog", "cluster", "registry"].map(|name| format!("usher/v1/{name}.proto"));
    let mut compiler = protox::Compiler::new([protos()]).context("find the protos")?;
    compiler.include_imports(true).include_source_info(true);
    compiler
        .open_files(api.iter().map(String::as_str).chain(["usher/wire/v1/wire.proto"]))
        .context("compile the protos")?;
    let out = tempfile::tempdir().context("make a temporary folder")?;
    tonic_prost_build::configure()
        .skip_debug(SECRETS)
        .out_dir(out.path())
        .compile_fds(compiler.file_descriptor_set())
        .context("generate the Rust code")?;
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(out.path()).context("read the generated code")? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        files.insert(name, fs::read(&path)?);
    }
    // With comments: reflection hands them to `grpcurl describe`.
    files.insert("usher.bin".to_owned(), compiler.encode_file_descriptor_set());
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_code_is_what_the_protos_give() {
        let files = generate().expect("the protos compile");
        assert_eq!(files.len(), 3, "code of two packages and their descriptors: {:?}", files.keys());
        for (name, content) in files {
            let committed = fs::read(protos().join("generated").join(&name)).expect("the code is committed");
            assert!(committed == content, "proto/generated/{name} is out of date; run `cargo xtask proto`");
        }
    }
}
