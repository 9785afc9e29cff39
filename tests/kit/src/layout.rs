//! The folder of a cluster: certificates, media, state, and the command line of each of its programs. Starts no server.

use std::{
    collections::HashMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, ensure};
use serde_json::Value;
use tempfile::TempDir;
use usher_certs::{
    Identity, Role,
    files::{init, issue},
};

use crate::process::{Output, run};

/// The operator's name.
const OPERATOR: &str = "operator-1";

/// A cluster's folder, removed when dropped, and the address of its master.
pub struct Layout {
    dir: TempDir,
    program: PathBuf,
    /// Folders of media outside, by node.
    folders: HashMap<String, PathBuf>,
    /// HOST:PORT of the master; empty before it listens.
    pub address: String,
}

impl Layout {
    /// Makes a folder with an authority and the master's certificate. `program` is the `usher` under test.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn new(program: &Path) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("usher-").tempdir().context("make a temporary folder")?;
        let layout = Self { dir, program: program.to_owned(), folders: HashMap::new(), address: String::new() };
        init(&layout.certs(), "test", false)?;
        layout.certify(Role::Master, "master")?;
        Ok(layout)
    }

    /// The folder itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The folder of certificates.
    #[must_use]
    pub fn certs(&self) -> PathBuf {
        self.path().join("certs")
    }

    /// The authority's certificate.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.certs().join("ca.pem")
    }

    /// The folder that a node serves.
    #[must_use]
    pub fn media(&self, node: &str) -> PathBuf {
        self.folders.get(node).cloned().unwrap_or_else(|| self.path().join(node).join("media"))
    }

    /// Lets a node serve another folder in place of its own.
    pub fn serve(&mut self, node: &str, folder: &Path) {
        self.folders.insert(node.to_owned(), folder.to_owned());
    }

    /// Issues a certificate, unless it is there. Returns the options that show it: `--cert FILE --key FILE`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn certify(&self, role: Role, name: &str) -> anyhow::Result<[String; 4]> {
        let certs = self.certs();
        let stem = if role == Role::Master { name.to_owned() } else { format!("{role}-{name}") };
        let (cert, key) = (certs.join(format!("{stem}.pem")), certs.join(format!("{stem}.key")));
        if !cert.exists() {
            issue(&certs, &Identity::new(role, name)?, &[], &certs, false)?;
        }
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        Ok(["--cert".to_owned(), text(cert), "--key".to_owned(), text(key)])
    }

    /// Puts a file into a node's folder: complete at once, as a rename.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn add(&self, node: &str, title: &str, from: &Path) -> anyhow::Result<()> {
        let (target, draft) = (self.media(node).join(title), self.path().join("draft"));
        fs::create_dir_all(target.parent().context("a title lies in a folder")?).context("make a folder of media")?;
        fs::copy(from, &draft).with_context(|| format!("copy {}", from.display()))?;
        fs::rename(draft, &target).with_context(|| format!("rename to {}", target.display()))
    }

    /// The command line of the master.
    #[must_use]
    pub fn master_command(&self, flags: &[impl AsRef<str>]) -> Command {
        let mut command = usher(&self.program);
        // After a restart it listens where it did before.
        let listen = if self.address.is_empty() { "127.0.0.1:0" } else { &self.address };
        command.args(["master", "--listen", listen, "--certs"]).arg(self.certs());
        command.arg("--state").arg(self.path().join("master-state"));
        // Tests look at nodes without an operator's certificate, as in the demo.
        if !flags.iter().any(|flag| flag.as_ref() == "--cluster-access") {
            command.args(["--cluster-access", "open"]);
        }
        command.args(flags.iter().map(AsRef::as_ref));
        command.env("NO_COLOR", "1");
        command
    }

    /// The command line of a node, with a certificate of its own. `flags` may add folders of media, and name
    /// another folder of state.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn node_command(&self, node: &str, flags: &[impl AsRef<str>]) -> anyhow::Result<Command> {
        self.certify(Role::Node, node)?;
        let mut command = usher(&self.program);
        command.args(["node", "--master", &self.address, "--name", node, "--listen", "127.0.0.1:0"]);
        fs::create_dir_all(self.media(node)).context("make a folder of media")?;
        command.arg("--certs").arg(self.certs()).arg("--media").arg(self.media(node));
        if !flags.iter().any(|flag| flag.as_ref() == "--state") {
            command.arg("--state").arg(self.path().join(node).join("state"));
        }
        command.args(flags.iter().map(AsRef::as_ref)).env("NO_COLOR", "1");
        Ok(command)
    }

    /// A client command with this cluster's authority and master, run in this folder.
    #[must_use]
    pub fn usher(&self, args: &[impl AsRef<str>]) -> Command {
        let mut command = usher(&self.program);
        command.args(args.iter().map(AsRef::as_ref)).current_dir(self.path());
        command.env("USHER_CA", self.ca()).env("USHER_MASTER", &self.address);
        command
    }

    /// A client command with an operator's certificate.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn operate(&self, args: &[impl AsRef<str>]) -> anyhow::Result<Command> {
        let mut command = self.usher(args);
        command.args(self.certify(Role::Admin, OPERATOR)?);
        Ok(command)
    }

    /// Runs a client command to its end.
    #[must_use]
    pub fn run(&self, args: &[impl AsRef<str>]) -> Output {
        run(&mut self.usher(args))
    }

    /// Runs a client command, and reads the JSON that it prints.
    ///
    /// # Errors
    /// When the command fails, or prints no JSON.
    pub fn ask(&self, args: &[&str]) -> anyhow::Result<Value> {
        let output = self.usher(args).output().context("run usher")?;
        ensure!(output.status.success(), "usher {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).with_context(|| format!("read the JSON of usher {}", args.join(" ")))
    }

    /// A title's URL.
    #[must_use]
    pub fn url(&self, title: &str) -> String {
        format!("usher://{}/{title}", self.address)
    }

    /// The roster as `usher nodes --json` prints it.
    ///
    /// # Errors
    /// When the master does not answer.
    pub fn roster(&self) -> anyhow::Result<Vec<Value>> {
        list(self.ask(&["nodes", "--json", "--timeout", "2s"])?)
    }

    /// The catalog as `usher ls --json` prints it.
    ///
    /// # Errors
    /// When the master does not answer.
    pub fn catalog(&self) -> anyhow::Result<Vec<Value>> {
        list(self.ask(&["ls", "--json", &self.url("")])?)
    }

    /// Whether every title has its content id, and all nodes together hold that many copies.
    ///
    /// # Errors
    /// When the master does not answer.
    pub fn is_hashed(&self, copies: usize) -> anyhow::Result<bool> {
        let titles = self.catalog()?;
        let hashed = titles.iter().all(|title| title["content_id"].as_str().is_some_and(|id| id.len() == 64));
        let known: usize = titles.iter().map(|title| title["nodes"].as_array().map_or(0, Vec::len)).sum();
        Ok(hashed && known == copies)
    }
}

fn list(value: Value) -> anyhow::Result<Vec<Value>> {
    if let Value::Array(entries) = value { Ok(entries) } else { anyhow::bail!("no list: {value}") }
}

/// The program under test, without the settings of the user that runs the test.
#[must_use]
pub fn usher(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("USHER_")) {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

/// The loopback address that a log line names.
///
/// # Errors
/// When the line names none.
pub fn address_in(line: &str) -> anyhow::Result<SocketAddr> {
    let start = line.find("127.0.0.1:").with_context(|| format!("no address in `{line}`"))?;
    let text: String = line[start..].chars().take_while(|c| c.is_ascii_digit() || ".:".contains(*c)).collect();
    text.parse().with_context(|| format!("no address in `{text}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_from_a_log_line() {
        let address = address_in("INFO master listens address=127.0.0.1:4433, ok").expect("an address");
        assert_eq!(address, ([127, 0, 0, 1], 4433).into());
        assert!(address_in("master listens").is_err() && address_in("at 127.0.0.1:x").is_err());
    }
}
