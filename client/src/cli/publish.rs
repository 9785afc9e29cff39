//! `usher publish`: what an encoder writes becomes a feed. Owns the command line, whose certificate is shown, and how it is
//! told how it goes; what becomes of the feed is the driver's.

mod board;
mod rights;

use std::{
    fs::File,
    io::{IsTerminal as _, Read},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    str::FromStr,
};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};
use usher_media::cut::Format;
use usher_proto::{Bitrate, Code, Fault, Title, id::PublisherId};
use usher_transport::Congestion;

use self::{board::Board, rights::Rights};
use super::{DefaultMaster, Failure, Reach, meter::Mode, print, tell_request, zone};
use crate::{
    client::{Client, Options},
    core::url::{Address, Url},
    driver::{MediaInput, Publication, PublishEvent},
    master::Authority,
};

/// Send a live feed: what ffmpeg writes as MPEG-TS or fragmented MP4.
///
/// For example: ffmpeg -re -i FILE -c copy -f mpegts - | usher publish live/cam1 -
#[derive(Clone, Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct PublishArgs {
    /// The feed's name, or where it is published
    #[arg(value_name = "live/NAME|usher://HOST[:PORT]/live/NAME")]
    feed: Target,
    /// Standard input, which is also what is read when nothing is named
    #[arg(value_name = "-", conflicts_with = "input", value_parser = ["-"])]
    stdin: Option<String>,
    /// A file, which is sent at the speed at which it plays, a FIFO or a device, or `-` for standard input
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// What the input is [default: as its first bytes tell]
    #[arg(long, value_enum)]
    format: Option<Named>,
    /// End another publisher of the feed
    #[arg(long)]
    take_over: bool,
    /// Let the node keep the feed as a title, recordings/NAME/TIME
    #[arg(long)]
    record: bool,
    /// The rate to expect, for example 8mbit [default: the master's guess]
    #[arg(long, value_name = "RATE")]
    rate: Option<Bitrate>,
    /// How it is shown on standard error how it goes
    #[arg(long, value_enum, default_value_t = Mode::Auto)]
    progress: Mode,
    /// Print a JSON object about the feed at the end
    #[arg(long)]
    json: bool,
    /// How congestion is found and answered
    #[arg(long, env = "USHER_CONGESTION", value_enum, default_value_t)]
    congestion: Congestion,
    /// Tell the request id, for `usher explain --request` and to find it in logs
    #[arg(short, long)]
    verbose: bool,
    /// The zone that this publisher is in
    #[arg(long, value_name = "ZONE", default_value = "", value_parser = zone)]
    zone: String,
    #[command(flatten)]
    master: DefaultMaster,
    #[command(flatten)]
    rights: Rights,
    #[command(flatten)]
    reach: Reach,
}

/// A feed, and its master where that is named.
#[derive(Clone, Debug)]
struct Target {
    title: Title,
    master: Option<Address>,
}

impl FromStr for Target {
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

/// The formats by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Named {
    /// Fragmented MP4
    Fmp4,
    /// MPEG transport stream
    Mpegts,
}

impl From<Named> for Format {
    fn from(named: Named) -> Self {
        match named {
            Named::Fmp4 => Self::Fmp4,
            Named::Mpegts => Self::Mpegts,
        }
    }
}

impl PublishArgs {
    /// Publishes until the input ends or a signal comes.
    ///
    /// # Errors
    /// What to print and exit with.
    pub async fn run(self) -> Result<(), Failure> {
        self.run_until(signals()).await
    }

    /// Publishes until the input ends or a message comes; a second one ends it at once.
    pub(crate) async fn run_until(self, mut stop: mpsc::Receiver<()>) -> Result<(), Failure> {
        let file = self.input.as_deref().filter(|path| *path != Path::new("-"));
        let input = match file {
            Some(path) => file_input(path)?,
            None => standard_input()?,
        };
        let authority = Authority::load(self.reach.ca.clone())?;
        let identity = self.rights.identity(&authority, &self.feed.title)?;
        let options = Options {
            timeout: self.reach.timeout,
            zone: self.zone.clone(),
            identity,
            congestion: self.congestion,
            ..Options::default()
        };
        let master = self.feed.master.unwrap_or(self.master.master);
        let client = Client::new(master, authority, options)?;
        if self.verbose {
            tell_request(&client);
        }
        let feed = Publication {
            title: self.feed.title,
            publisher: PublisherId(rand::random()),
            rate: self.rate.unwrap_or_default(),
            zone: self.zone,
            take_over: self.take_over,
            record: self.record,
            timeout: self.reach.timeout,
            format: self.format.map(Format::from),
        };
        let board = Board::new(self.progress, &feed.title);
        let observer = |told: &PublishEvent| board.show(told);
        let result = Box::pin(client.publish(&feed, input, &mut stop, &observer)).await;
        client.close().await;
        let status = result.map_err(|fault| {
            board.failed(&fault);
            failure(fault)
        })?;
        board.done(&status);
        if self.json { print(&format!("{:#}\n", board::status_json("done", &feed.title, &status))) } else { Ok(()) }
    }
}

/// A no, with what to do about one that wants a certificate.
fn failure(fault: Fault) -> Failure {
    match fault.code {
        Code::Unauthenticated => {
            let hint =
                "`usher certs issue publisher NAME` makes one for live/NAME; show it with --cert FILE --key FILE";
            Failure::new(fault.code, format!("{}; {hint}", fault.message))
        }
        _ => fault.into(),
    }
}

/// One message a signal, from now on.
fn signals() -> mpsc::Receiver<()> {
    let (sender, receiver) = mpsc::channel(4);
    for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
        let sender = sender.clone();
        match signal(kind) {
            Ok(mut signals) => {
                tokio::spawn(async move { while signals.recv().await.is_some() && sender.send(()).await.is_ok() {} });
            }
            Err(error) => tracing::warn!(%error, "cannot listen for a signal; stop this process with SIGKILL"),
        }
    }
    receiver
}

fn standard_input() -> Result<MediaInput, Failure> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        let text = "standard input is a terminal; pipe a feed in, for example `ffmpeg -re -i FILE -c copy -f mpegts - | \
                    usher publish live/NAME -`, or name a file with -i FILE";
        return Err(Failure::new(Code::Usage, text));
    }
    // Not through the buffer of the standard library, which is smaller than a pipe.
    let owned = stdin.as_fd().try_clone_to_owned();
    let owned = owned.map_err(|error| Failure::new(Code::Disk, format!("open standard input: {error}")))?;
    Ok(MediaInput::read(File::from(owned), "standard input", false)?)
}

fn file_input(path: &Path) -> Result<MediaInput, Failure> {
    let name = path.display().to_string();
    let wrong = |error: &dyn std::fmt::Display| Failure::new(Code::Usage, format!("open {name}: {error}"));
    let about = std::fs::metadata(path).map_err(|error| wrong(&error))?;
    if about.is_dir() {
        return Err(wrong(&"it is a folder; name a file"));
    }
    if about.is_file() {
        let file = File::open(path).map_err(|error| wrong(&error))?;
        return Ok(MediaInput::read(file, &name, true)?);
    }
    Ok(MediaInput::read(Late { path: path.to_owned(), file: None }, &name, false)?)
}

/// A FIFO, whose opening waits for a writer.
struct Late {
    path: PathBuf,
    file: Option<File>,
}

impl Read for Late {
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
        let target = |text: &str| text.parse::<Target>().map(|target| (target.title.to_string(), target.master));
        assert_eq!(target("live/cam1"), Ok(("live/cam1".to_owned(), None)));
        let address = Address { host: "h".to_owned(), port: 9 };
        assert_eq!(target("usher://h:9/live/a/b"), Ok(("live/a/b".to_owned(), Some(address))));
        for wrong in ["cam1", "live", "live/", "live/../a", "films/a", "usher://h/a", "usher://h", ""] {
            assert!(target(wrong).is_err(), "{wrong}");
        }
        assert_eq!(target("cam1").err().as_deref(), Some("a feed's name is live/NAME; write for example live/cam1"));
    }
}
