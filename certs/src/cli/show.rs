//! `usher certs show`: the contents of certificates, as text and as JSON. Reads no keys, so that it cannot show one.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, bail};
use humantime::format_rfc3339_seconds as date;
use serde::Serialize;

use crate::certificate::{self as x509, DAY};
use crate::files::{self, CA_CERT};
use crate::identity::Identity;
use crate::pin;

/// One certificate. Field names are the JSON's.
#[derive(Debug, Serialize)]
struct CertificateSummary {
    file: PathBuf,
    /// `authority`, `master`, `node`, `admin`, `publisher`, or `none` for a certificate without an identity.
    role: &'static str,
    /// The identity's name; of an authority, the cluster's.
    name: String,
    sans: Vec<String>,
    not_before: String,
    not_after: String,
    expired: bool,
    /// Days until it expires, the last one counted as a whole; 0 when it has.
    days_left: u64,
    sha256: String,
    /// Whether the `ca.pem` beside it signed it; null when there is none.
    issued_by_ca: Option<bool>,
}

pub(super) fn run(path: &Path, json: bool, out: &mut impl Write, notes: &mut impl Write) -> anyhow::Result<()> {
    let now = SystemTime::now();
    let (mut all, mut broken) = (Vec::new(), 0_usize);
    for file in certificates(path)? {
        match read_summary(&file, now) {
            Ok(summary) => all.push(summary),
            Err(error) => {
                broken += 1;
                writeln!(notes, "error: {error:#}")?;
            }
        }
    }
    if json {
        serde_json::to_writer_pretty(&mut *out, &all).context("write to stdout")?;
        writeln!(out).context("write to stdout")?;
    } else {
        for summary in &all {
            print(summary, out).context("write to stdout")?;
        }
    }
    match broken {
        0 => Ok(()),
        _ => bail!("{broken} of {} certificates could not be read", all.len() + broken),
    }
}

/// First line of a public key in PEM, such as that of viewers' tokens.
const PUBLIC_KEY: &[u8] = b"-----BEGIN PUBLIC KEY-----";

/// The file itself, or every `.pem` of a directory by name, except public keys.
fn certificates(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let metadata = fs::metadata(path)
        .with_context(|| format!("read {}; make certificates with `usher certs init`", path.display()))?;
    if !metadata.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(path).with_context(|| format!("list {}", path.display()))? {
        let file = entry.with_context(|| format!("list {}", path.display()))?.path();
        let is_public_key = || fs::read(&file).is_ok_and(|content| content.starts_with(PUBLIC_KEY));
        if file.extension().is_some_and(|extension| extension == "pem") && !is_public_key() {
            found.push(file);
        }
    }
    if found.is_empty() {
        bail!("no certificate in {}; make an authority with `usher certs init`", path.display());
    }
    found.sort();
    Ok(found)
}

fn read_summary(file: &Path, now: SystemTime) -> anyhow::Result<CertificateSummary> {
    let der = files::read_certificate(file)?;
    let cert = x509::parse(&der).with_context(|| format!("parse {}", file.display()))?;
    let (role, name) = match Identity::from_der(&der) {
        Ok(identity) => (identity.role.as_str(), identity.name),
        Err(_) if cert.is_ca() => ("authority", x509::organization(&cert).unwrap_or_default()),
        Err(_) => ("none", cert.subject().to_string()),
    };
    let (not_before, not_after) = x509::validity(&cert);
    let ca = file.with_file_name(CA_CERT);
    let issued_by_ca = match ca.try_exists() {
        Ok(true) => Some(files::read_certificate(&ca).is_ok_and(|ca| *ca == *der || x509::issued_by(&der, &ca))),
        _ => None,
    };
    Ok(CertificateSummary {
        file: file.to_owned(),
        role,
        name,
        sans: x509::sans(&cert),
        not_before: date(not_before).to_string(),
        not_after: date(not_after).to_string(),
        expired: now > not_after,
        days_left: not_after.duration_since(now).map_or(0, |left| left.as_secs().div_ceil(DAY)),
        sha256: hex::encode(pin::sha256(&der)),
        issued_by_ca,
    })
}

fn print(summary: &CertificateSummary, out: &mut impl Write) -> std::io::Result<()> {
    writeln!(out, "{}", summary.file.display())?;
    // Names come out of a file that anyone may have written: escaped, they cannot steer a terminal.
    writeln!(out, "  {:<12} {}", summary.role, summary.name.escape_debug())?;
    if !summary.sans.is_empty() {
        writeln!(out, "  {:<12} {}", "names", summary.sans.join(", ").escape_debug())?;
    }
    let left = match (summary.expired, summary.days_left) {
        (true, _) => "EXPIRED".to_owned(),
        (false, 1) => "expires in 1 day".to_owned(),
        (false, days) => format!("expires in {days} days"),
    };
    writeln!(out, "  {:<12} {} to {}, {left}", "valid", summary.not_before, summary.not_after)?;
    writeln!(out, "  {:<12} {}", "sha-256", summary.sha256)?;
    let issuer = match summary.issued_by_ca {
        Some(true) if summary.role == "authority" => "itself",
        Some(true) => "the ca.pem beside it",
        Some(false) => "NOT the ca.pem beside it",
        None => "unknown: no ca.pem beside it",
    };
    writeln!(out, "  {:<12} {issuer}", "issued by")
}
