//! Compiles the protos in pure Rust (no `protoc`), for tonic and prost, and keeps the descriptor set for reflection.

use std::{env, fs, path::PathBuf};

use anyhow::Context as _;

fn main() -> anyhow::Result<()> {
    let api = ["common", "tickets", "catalog", "cluster", "registry"].map(|name| format!("usher/v1/{name}.proto"));
    let all: Vec<String> = api.iter().cloned().chain(["usher/wire/v1/wire.proto".to_owned()]).collect();
    for file in &all {
        println!("cargo:rerun-if-changed={file}");
    }
    let mut compiler = protox::Compiler::new(["."]).context("find the protos")?;
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(&all).context("compile the protos")?;

    let descriptors = compiler.file_descriptor_set();
    let out = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is set by cargo")?);
    // With comments: reflection hands them to `grpcurl describe`.
    fs::write(out.join("usher.bin"), compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure()
        // Keys and tickets are written by hand in `pb.rs` without their secrets.
        .skip_debug([
            ".usher.v1.TicketKey",
            ".usher.v1.Seat",
            ".usher.v1.Prepare",
            ".usher.v1.RenewRequest",
            ".usher.v1.RenewResponse",
            ".usher.v1.PublishResponse",
            ".usher.wire.v1.Open",
            ".usher.wire.v1.Renew",
        ])
        .compile_fds(descriptors)
        .context("generate the Rust code")?;
    Ok(())
}
