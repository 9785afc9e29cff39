//! Running other programs and finding this workspace's folders. Owns no recipe.

use std::env;
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// The workspace's root folder. Cargo gives the crate's folder at run time; the path known at compile time would
/// be wrong when several checkouts share one target folder.
pub(crate) fn root() -> PathBuf {
    let crate_dir = env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    crate_dir.parent().map_or_else(|| crate_dir.clone(), Path::to_path_buf)
}

/// Cargo's target folder, where recipes may leave what they install.
pub(crate) fn target_dir() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// The cargo that started us.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// The `cargo` proxy of rustup: the only one that understands `cargo +nightly`.
pub(crate) fn cargo_proxy() -> Command {
    let mut command = Command::new("cargo");
    // Both would pin the toolchain that runs us onto the child.
    command.current_dir(root()).env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO");
    command
}

/// The file that `tool` means on `PATH`, if there is one.
pub(crate) fn find(tool: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|folder| folder.join(tool)).find(|file| file.is_file())
}

/// `PATH` with `folder` put before everything else.
pub(crate) fn path_with(folder: &Path) -> Result<OsString> {
    let rest = env::var_os("PATH").unwrap_or_default();
    env::join_paths(std::iter::once(folder.to_path_buf()).chain(env::split_paths(&rest)))
        .with_context(|| format!("put {} on PATH", folder.display()))
}

/// Whether the command ran and exited with 0; its output is thrown away.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Output of the command, stdout then stderr (where grpcurl prints its version), if it ran and exited with 0.
pub(crate) fn output_of(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    output.status.success().then(|| String::from_utf8_lossy(&text).into_owned())
}

/// The command as a person would type it.
pub(crate) fn shown(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| {
            let word = word.to_string_lossy();
            let program = Path::new(word.as_ref()).file_name().map(|name| name.to_string_lossy().into_owned());
            if word.ends_with("/bin/cargo") { program.unwrap_or_default() } else { word.into_owned() }
        })
        .collect::<Vec<_>>()
        .join(" ")
}

/// Says what will run, runs it with our own outputs, and fails unless it exits with 0.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    eprintln!("xtask: {}", shown(command));
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("start {}", shown(command)))?;
    if !status.success() {
        bail!("`{}` failed ({status})", shown(command));
    }
    Ok(())
}

/// Which output of a child is read by us too.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tee {
    /// Its stdout.
    Stdout,
    /// Its stderr.
    Stderr,
}

/// Like [`run`], but each line of one output is also shown to `line`. Returns whether the command exited with 0.
pub(crate) fn run_watched(command: &mut Command, tee: Tee, mut line: impl FnMut(&str)) -> Result<bool> {
    eprintln!("xtask: {}", shown(command));
    if io::stderr().is_terminal() {
        // The child sees a pipe and would drop its colours.
        command.env("CARGO_TERM_COLOR", "always");
    }
    command.stdin(Stdio::null());
    match tee {
        Tee::Stdout => command.stdout(Stdio::piped()),
        Tee::Stderr => command.stderr(Stdio::piped()),
    };
    let mut child = command.spawn().with_context(|| format!("start {}", shown(command)))?;
    let pipe: Box<dyn io::Read> = match (child.stdout.take(), child.stderr.take()) {
        (Some(out), _) => Box::new(out),
        (None, Some(err)) => Box::new(err),
        (None, None) => bail!("`{}` started without its pipe", shown(command)),
    };
    let mut reader = BufReader::new(pipe);
    let mut bytes = Vec::new();
    while reader.read_until(b'\n', &mut bytes).context("read the runner's output")? > 0 {
        match tee {
            Tee::Stdout => io::stdout().write_all(&bytes),
            Tee::Stderr => io::stderr().write_all(&bytes),
        }
        .context("pass the runner's output on")?;
        line(String::from_utf8_lossy(&bytes).trim_end());
        bytes.clear();
    }
    Ok(child.wait().with_context(|| format!("wait for {}", shown(command)))?.success())
}

/// `line` without its ANSI colour sequences.
pub(crate) fn plain(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            // A colour sequence ends with its first letter.
            let _letter = chars.by_ref().find(char::is_ascii_alphabetic);
        } else {
            text.push(c);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_dropped() {
        assert_eq!(plain("\u{1b}[32;1m     Summary\u{1b}[0m [ 1s] 3 tests"), "     Summary [ 1s] 3 tests");
    }

    #[test]
    fn a_watched_command_hands_over_lines_and_its_outcome() {
        let mut lines = Vec::new();
        let mut command = Command::new("sh");
        command.args(["-c", "echo one; echo two; exit 3"]);
        let succeeded = run_watched(&mut command, Tee::Stdout, |line| lines.push(line.to_owned())).expect("sh starts");
        assert!(!succeeded);
        assert_eq!(lines, ["one", "two"]);
    }
}
