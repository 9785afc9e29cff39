//! Whose certificate a publisher shows. Refuses to know what it may publish.

use std::path::{Path, PathBuf};

use usher_certs::files::{self, PemSet};
use usher_proto::{Code, Title};

use crate::{cli::Failure, master::Authority};

/// The publisher's certificate.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Rights {
    /// Your certificate from `usher certs issue publisher NAME`, or an operator's (PEM) [default: publisher-NAME.pem beside
    /// the authority's, or the only admin-*.pem there]
    #[arg(long, env = "USHER_CERT", value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Its key (PEM)
    #[arg(long, env = "USHER_KEY", value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
}

impl Rights {
    /// The certificate and its key, read and checked; `None` when none is named, and none lies where it should.
    pub(super) fn identity(&self, authority: &Authority, title: &Title) -> Result<Option<PemSet>, Failure> {
        let found = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => Some((cert.clone(), key.clone())),
            _ => authority.source.parent().and_then(|folder| find(folder, title)),
        };
        let Some((cert, key)) = found else { return Ok(None) };
        let wrong = |error| Failure::new(Code::Usage, format!("{error:#}"));
        files::read_pem(&cert, &key, &authority.source).map(Some).map_err(wrong)
    }
}

/// The feed's own publisher, or else the only operator.
fn find(folder: &Path, title: &Title) -> Option<(PathBuf, PathBuf)> {
    let pair = |stem: &str| (folder.join(format!("{stem}.pem")), folder.join(format!("{stem}.key")));
    let is_there = |(cert, key): &(PathBuf, PathBuf)| cert.is_file() && key.is_file();
    let own = title.parts().nth(1).map(|name| pair(&format!("publisher-{name}")));
    if let Some(own) = own.filter(is_there) {
        return Some(own);
    }
    let names = std::fs::read_dir(folder).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let stems = names.filter_map(|name| name.strip_suffix(".pem").map(str::to_owned));
    let mut admins = stems.filter(|stem| stem.starts_with("admin-")).map(|stem| pair(&stem)).filter(is_there);
    let first = admins.next()?;
    admins.next().is_none().then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_certificate_comes_before_the_only_operators() {
        let folder = tempfile::tempdir().expect("temp");
        let title = Title::parse("live/cam1/low").expect("a title");
        let found = || {
            let (cert, key) = find(folder.path(), &title)?;
            assert_eq!(cert.with_extension("key"), key);
            cert.file_stem()?.to_str().map(str::to_owned)
        };
        let add = |names: &[&str]| {
            names.iter().for_each(|name| std::fs::write(folder.path().join(name), "").expect("writes"));
        };
        add(&["ca.pem", "ca.key", "publisher-cam2.pem", "publisher-cam2.key", "admin-a.pem"]);
        assert_eq!(found(), None);
        add(&["admin-a.key"]);
        assert_eq!(found().as_deref(), Some("admin-a"));
        add(&["admin-b.pem", "admin-b.key"]);
        assert_eq!(found(), None, "which of them?");
        add(&["publisher-cam1.pem", "publisher-cam1.key"]);
        assert_eq!(found().as_deref(), Some("publisher-cam1"));
    }
}
