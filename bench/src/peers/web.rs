//! Web servers over TLS 1.3, nginx and caddy, where they are installed, and curl, which fetches from them.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use usher_kit::Process;

use crate::cluster::{start, usage};

/// How long a server may take to listen.
const START: Duration = Duration::from_secs(10);

/// Version of HTTP that curl uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Http {
    One,
    Two,
}

impl Http {
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::One => "h1",
            Self::Two => "h2",
        }
    }
}

/// A running web server.
pub(crate) struct Web {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    pub(crate) cert: PathBuf,
    process: Process,
}

/// Inputs of every server: the folder of the titles, and a certificate for loopback.
pub(crate) struct Site<'a> {
    pub(crate) root: &'a Path,
    pub(crate) cert: &'a Path,
    pub(crate) key: &'a Path,
}

impl Web {
    /// nginx with one worker. `limit`, in bytes per second, paces every response; 0 paces none.
    pub(crate) fn nginx(program: &Path, dir: &Path, site: &Site<'_>, limit: u64) -> anyhow::Result<Self> {
        let address = free()?;
        fs::create_dir_all(dir).context("make nginx's folder")?;
        let (root, cert, key) = (site.root.display(), site.cert.display(), site.key.display());
        let limit = if limit > 0 { format!("limit_rate {limit};") } else { String::new() };
        // Its workers would lose root's right to the temporary folder.
        let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
        let text = format!(
            "{user} daemon off; worker_processes 1; worker_rlimit_nofile 8192; pid nginx.pid; error_log stderr crit;
             events {{ worker_connections 4096; }}
             http {{
               access_log off; sendfile on; keepalive_requests 1000000;
               client_body_temp_path tmp; proxy_temp_path tmp; fastcgi_temp_path tmp; uwsgi_temp_path tmp;
               scgi_temp_path tmp;
               server {{
                 listen {address} ssl http2; root {root}; {limit}
                 ssl_certificate {cert}; ssl_certificate_key {key}; ssl_protocols TLSv1.3;
                 ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
               }}
             }}\n"
        );
        let config = dir.join("nginx.conf");
        fs::write(&config, text).context("write nginx's configuration")?;
        let process = start(Command::new(program).arg("-p").arg(dir).arg("-c").arg(config).args(["-e", "stderr"]))?;
        Self::up("nginx", address, site, process)
    }

    /// caddy as a file server, its other settings its own.
    pub(crate) fn caddy(program: &Path, dir: &Path, site: &Site<'_>) -> anyhow::Result<Self> {
        let address = free()?;
        fs::create_dir_all(dir).context("make caddy's folder")?;
        let (root, cert, key) = (site.root.display(), site.cert.display(), site.key.display());
        let text = format!(
            "{{
               admin off
               auto_https disable_redirects
               servers {{
                 protocols h1 h2
               }}
             }}
             https://{address} {{
               bind 127.0.0.1
               tls {cert} {key}
               root * {root}
               file_server
             }}\n"
        );
        let config = dir.join("Caddyfile");
        fs::write(&config, text).context("write caddy's configuration")?;
        let mut command = Command::new(program);
        command.args(["run", "--adapter", "caddyfile", "--config"]).arg(config);
        command.env("HOME", dir).env("XDG_DATA_HOME", dir).env("XDG_CONFIG_HOME", dir);
        Self::up("caddy", address, site, start(&mut command)?)
    }

    #[expect(clippy::disallowed_methods, reason = "another process tells nobody when it listens")]
    fn up(name: &'static str, address: SocketAddr, site: &Site<'_>, mut process: Process) -> anyhow::Result<Self> {
        process.ignore_log();
        let began = Instant::now();
        while TcpStream::connect(address).is_err() {
            ensure!(process.is_running()?, "{name} ended at its start");
            ensure!(began.elapsed() < START, "{name} does not listen at {address}");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(Self { name, address, cert: site.cert.to_owned(), process })
    }

    /// The server's processes: with nginx the one that was started and its workers.
    pub(crate) fn processes(&self) -> anyhow::Result<Vec<u32>> {
        let mut all = usage::children_of(self.process.id())?;
        all.push(self.process.id());
        Ok(all)
    }

    /// URL of a path.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("https://{}/{path}", self.address)
    }

    /// A client for these paths, in curl's own patterns, whose bytes go to `output`; it prints a line for each path
    /// with the bytes and the seconds to the first.
    pub(crate) fn curl(&self, program: &Path, http: Http, paths: &[String], output: &str) -> Command {
        let mut curl = Command::new(program);
        curl.args(["--disable", "--silent", "--show-error", "--fail", "--max-time", "600", "--cacert"]).arg(&self.cert);
        curl.args(["--write-out", "%{size_download} %{time_starttransfer}\\n"]);
        curl.arg(if http == Http::One { "--http1.1" } else { "--http2" });
        for path in paths {
            curl.args([&self.url(path), "--output", output]);
        }
        curl
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        // Killed, nginx would leave its workers behind.
        if let Err(error) = self.process.terminate() {
            eprintln!("{}: {error:#}", self.name);
        }
    }
}

/// Reads curl's report of its transfers: all bytes, and the seconds to the first byte of each.
pub(crate) fn said(stdout: &[u8]) -> anyhow::Result<(u64, Vec<f64>)> {
    let (mut bytes, mut first) = (0, Vec::new());
    for line in String::from_utf8_lossy(stdout).lines() {
        let Some((size, seconds)) = line.split_once(' ') else { bail!("curl said `{line}`") };
        bytes += size.parse::<u64>().with_context(|| format!("curl said `{line}`"))?;
        first.push(seconds.parse().with_context(|| format!("curl said `{line}`"))?);
    }
    Ok((bytes, first))
}

/// A free TCP address on loopback.
fn free() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
    listener.local_addr().context("find a free port")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curls_words_are_added_up() {
        assert_eq!(said(b"65536 0.001500\n1 0.25\n").expect("numbers"), (65537, vec![0.0015, 0.25]));
        assert!(said(b"what\n").is_err() && said(b"1 x\n").is_err());
    }
}
