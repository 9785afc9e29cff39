//! `usher publish`: sends what an encoder writes as a live feed. Owns the command line, the choice of the certificate and
//! the input; the driver publishes.

mod progress;

use std::{
    fs::File,
    io::{IsTerminal as _, Read},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    str::FromStr,
};

use tokio::sync::mpsc;
use usher_media::cut::Format;
use usher_proto::{Bitrate, Code, Title, id::PublisherId};

use self::progress::{PublishProgress, status_json};
use super::{
    failure::Failure,
    options::{Certificate, DefaultMaster, TransferOptions},
    output::print_json,
    progress::ProgressMode,
};
use crate::{
    client::Options,
    core::url::{Address, Url},
    driver::{MediaInput, Publication, PublishEvent},
    master::Authority,
};

/// Publish a live feed from MPEG-TS or fragmented MP4
///
/// Without --cert, the feed's publisher-NAME.pem or the only admin-*.pem beside the authority's certificate is used.
///
/// Examples:
///   ffmpeg -re -i FILE -c copy -f mpegts - | usher publish live/cam1 -
///   usher publish usher://media.example.org/live/cam1 -i talk.ts --record
#[derive(Clone, Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct PublishArgs {
    /// Name of the feed, or its URL
    #[arg(value_name = "live/NAME|usher://HOST[:PORT]/live/NAME")]
    feed: FeedTarget,
    /// Read standard input, which is also the default
    #[arg(value_name = "-", conflicts_with = "input", value_parser = ["-"])]
    stdin: Option<String>,
    /// File to send at the speed at which it plays, FIFO, device, or `-` for standard input
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Format of the input [default: detected]
    #[arg(long, value_enum)]
    format: Option<FormatName>,
    /// End another publisher of the feed
    #[arg(long)]
    take_over: bool,
    /// Record the feed on its node as the title recordings/NAME/TIME
    #[arg(long)]
    record: bool,
    /// Expected rate of the feed, for example 8mbit [default: estimated by the master]
    #[arg(long, value_name = "RATE")]
    rate: Option<Bitrate>,
    /// Progress format on standard error
    #[arg(long, value_enum, default_value_t = ProgressMode::Auto)]
    progress: ProgressMode,
    /// Print a JSON object about the feed at the end
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    transfer: TransferOptions,
    #[command(flatten)]
    master: DefaultMaster,
    #[command(flatten)]
    certificate: Certificate,
}

/// A feed, and its master if the user names it.
#[derive(Clone, Debug)]
struct FeedTarget {
    title: Title,
    master: Option<Address>,
}

impl FromStr for FeedTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (title, master) = if text.starts_with("usher://") {
            let url = text.parse::<Url>().map_err(|error| error.to_string())?;
            (url.title().map_err(|error| error.to_string())?, Some(url.master))
        } else {
            (Title::parse(text).map_err(|error| error.to_string())?, None)
        };
        if title.is_live() {
            Ok(Self { title, master })
        } else {
            Err(format!("a feed's name is live/NAME; write for example live/{}", title.file_name()))
        }
    }
}

/// A format by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum FormatName {
    /// Fragmented MP4
    Fmp4,
    /// MPEG transport stream
    Mpegts,
}

impl From<FormatName> for Format {
    fn from(name: FormatName) -> Self {
        match name {
            FormatName::Fmp4 => Self::Fmp4,
            FormatName::Mpegts => Self::Mpegts,
        }
    }
}

impl PublishArgs {
    /// Publishes until the input ends or a message of `stop`; a second message ends it at once.
    ///
    /// # Errors
    /// The exit code and the message.
    pub async fn run(self, requests: fn() -> mpsc::Receiver<()>) -> Result<(), Failure> {
        let file = self.input.as_deref().filter(|path| *path != Path::new("-"));
        let input = match file {
            Some(path) => file_input(path)?,
            None => standard_input()?,
        };
        let TransferOptions { reach, zone, .. } = &self.transfer;
        let authority = Authority::load(reach.ca.clone())?;
        let find = || authority.source.parent().and_then(|folder| publisher_certificate(folder, &self.feed.title));
        let identity = self.certificate.load(&authority, find)?;
        let publication = Publication {
            title: self.feed.title.clone(),
            publisher: PublisherId(rand::random()),
            rate: self.rate.unwrap_or_default(),
            zone: zone.clone(),
            take_over: self.take_over,
            record: self.record,
            timeout: reach.timeout,
            format: self.format.map(Format::from),
        };
        let master = self.feed.master.unwrap_or(self.master.master);
        let client = self.transfer.client(master, Options { identity, ..Options::default() })?;
        let mut stop = requests();
        let progress = PublishProgress::new(self.progress, &publication.title);
        let observer = |event: &PublishEvent| progress.show(event);
        let result = Box::pin(client.publish(&publication, input, &mut stop, &observer)).await;
        client.close().await;
        let stats = result.map_err(|fault| {
            progress.failed(&fault);
            Failure::refused(
                fault,
                "`usher certs issue publisher NAME` makes one for live/NAME; pass it with --cert FILE --key FILE",
            )
        })?;
        progress.done(&stats);
        if self.json { print_json(&status_json("done", &publication.title, &stats)) } else { Ok(()) }
    }
}

/// The certificate and key of the feed's own publisher, or else of the only operator in the folder.
fn publisher_certificate(folder: &Path, title: &Title) -> Option<(PathBuf, PathBuf)> {
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

fn standard_input() -> Result<MediaInput, Failure> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        let text = "standard input is a terminal; pipe media into it, for example `ffmpeg -re -i FILE -c copy -f mpegts - | \
                    usher publish live/NAME -`, or name a file with -i FILE";
        return Err(Failure::usage(text));
    }
    // Not through the buffer of the standard library, which is smaller than a pipe.
    let owned = stdin.as_fd().try_clone_to_owned();
    let owned = owned.map_err(|error| Failure::new(Code::Disk, format!("open standard input: {error}")))?;
    Ok(MediaInput::read(File::from(owned), "standard input", false)?)
}

fn file_input(path: &Path) -> Result<MediaInput, Failure> {
    let name = path.display().to_string();
    let wrong = |error: &dyn std::fmt::Display| Failure::usage(format!("open {name}: {error}"));
    let about = std::fs::metadata(path).map_err(|error| wrong(&error))?;
    if about.is_dir() {
        return Err(wrong(&"it is a folder; name a file"));
    }
    if about.is_file() {
        let file = File::open(path).map_err(|error| wrong(&error))?;
        return Ok(MediaInput::read(file, &name, true)?);
    }
    Ok(MediaInput::read(LazyFile { path: path.to_owned(), file: None }, &name, false)?)
}

/// A FIFO or device that is opened by its first read: the opening waits for a writer.
struct LazyFile {
    path: PathBuf,
    file: Option<File>,
}

impl Read for LazyFile {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let file = match self.file.take() {
            Some(file) => file,
            None => File::open(&self.path)?,
        };
        self.file.insert(file).read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        let target = |text: &str| text.parse::<FeedTarget>().map(|target| (target.title.to_string(), target.master));
        assert_eq!(target("live/cam1"), Ok(("live/cam1".to_owned(), None)));
        let address = Address { host: "h".to_owned(), port: 9 };
        assert_eq!(target("usher://h:9/live/a/b"), Ok(("live/a/b".to_owned(), Some(address))));
        for wrong in ["cam1", "live", "live/", "live/../a", "films/a", "usher://h/a", "usher://h", ""] {
            assert!(target(wrong).is_err(), "{wrong}");
        }
        assert_eq!(target("cam1").err().as_deref(), Some("a feed's name is live/NAME; write for example live/cam1"));
    }
    #[test]
    fn the_publishers_certificate_comes_before_the_only_operators() {
        let folder = tempfile::tempdir().expect("temp");
        let title = Title::parse("live/cam1/low").expect("a title");
        let found = || {
            let (cert, key) = publisher_certificate(folder.path(), &title)?;
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
        assert_eq!(found(), None, "either of the two could be meant");
        add(&["publisher-cam1.pem", "publisher-cam1.key"]);
        assert_eq!(found().as_deref(), Some("publisher-cam1"));
    }
}
