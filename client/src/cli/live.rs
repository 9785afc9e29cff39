//! What `play` and `fetch` do with a feed: where to begin, how far to fall behind, and how long to record. Refuses to know
//! how a feed is got.

use std::{
    fs::File,
    io::IsTerminal as _,
    path::PathBuf,
    process::Stdio,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::json;
use usher_proto::{Bitrate, Code, Fault, Title, ticket::Purpose, units};

use super::{
    meter::Mode,
    note,
    play::ended,
    player::{Feed, Player},
};
use crate::{
    client::Client,
    core::url::{Address, Url, UrlError},
    driver::{FeedEvent, FeedStats, StartAt},
    sink::LiveSink,
};

/// How far a viewer falls behind, if it does not say.
const LATENCY: Duration = Duration::from_secs(10);

/// The most that may be asked for: more than any node keeps.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// Between two JSON lines.
const JSON_EVERY: Duration = Duration::from_millis(250);

/// Options for feeds.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Feeds (live/NAME)")]
pub(super) struct LiveArgs {
    /// Begin so long ago, for example -30s, or at `newest`: the group that is being made [default: the last whole group]
    #[arg(long, value_name = "-TIME|newest", value_parser = from, allow_hyphen_values = true)]
    from: Option<StartAt>,
    /// Fall behind by at most this before groups are dropped [default: 10s, or what --from asks for and 10s]
    #[arg(long, value_name = "TIME", value_parser = time)]
    latency: Option<Duration>,
}

impl LiveArgs {
    /// Refuses options that mean nothing where no feed is wanted.
    pub(super) fn none(&self) -> Result<(), Fault> {
        if self.from.is_some() || self.latency.is_some() {
            return Err(Fault::new(Code::Usage, "--from and --latency are for feeds, `live/NAME`"));
        }
        Ok(())
    }

    fn latency(&self) -> Duration {
        let back = match self.from {
            Some(StartAt::Back(back)) => back,
            _ => Duration::ZERO,
        };
        self.latency.unwrap_or(LATENCY + back)
    }
}

fn from(text: &str) -> Result<StartAt, String> {
    if text == "newest" {
        return Ok(StartAt::Newest);
    }
    let back = text.strip_prefix('-').ok_or("write a time back from now, for example -30s, or `newest`")?;
    Ok(StartAt::Back(time(back)?))
}

/// A length of time.
pub(super) fn time(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| format!("{error}; write for example 30s or 5m"))?;
    if time > LONGEST { Err("at most 24h".to_owned()) } else { Ok(time) }
}

/// How much to record.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let duration = time(text)?;
    if duration.is_zero() { Err("a recording is longer than nothing".to_owned()) } else { Ok(duration) }
}

/// A URL; a feed's name alone means the master of `USHER_MASTER`, or the one on this host.
pub(super) fn url(text: &str) -> Result<Url, UrlError> {
    if !text.starts_with("live/") {
        return text.parse();
    }
    let master: Address = match std::env::var("USHER_MASTER") {
        Ok(master) => master.parse()?,
        Err(_) => Address::default(),
    };
    Ok(Url { master, path: text.to_owned() })
}

/// What of a URL is a feed.
pub(super) fn feed(url: &Url) -> Option<Title> {
    url.title().ok().filter(Title::is_live)
}

/// What a watched feed is told about, on standard error.
struct Board<'a> {
    title: &'a Title,
    mode: Mode,
    /// The last failure that people were told of: while it repeats, nothing is new.
    told: Mutex<String>,
    dropped: AtomicU64,
    said: Mutex<Option<Instant>>,
    started: Instant,
}

impl<'a> Board<'a> {
    fn new(title: &'a Title, mode: Mode) -> Self {
        let (told, dropped, said) = (Mutex::default(), AtomicU64::new(0), Mutex::default());
        Self { title, mode, told, dropped, said, started: Instant::now() }
    }

    fn show(&self, sight: &FeedEvent) {
        let title = self.title;
        if self.mode == Mode::Json {
            return self.json(sight);
        }
        match sight {
            FeedEvent::Seated { node, reason } if reason.is_empty() => note(&format!("{title}: from {node}")),
            FeedEvent::Seated { node, reason } => note(&format!("{title}: from {node} ({reason})")),
            FeedEvent::SeatFailed(fault) => {
                let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
                if *told != fault.message {
                    note(&format!("{fault}; trying on"));
                    told.clone_from(&fault.message);
                }
            }
            FeedEvent::Progress(tally) => {
                self.told.lock().unwrap_or_else(PoisonError::into_inner).clear();
                let before = self.dropped.swap(tally.dropped, Ordering::Relaxed);
                if tally.dropped > before {
                    note(&format!(
                        "{title}: {} dropped to keep up, {} in all",
                        groups(tally.dropped - before),
                        tally.dropped
                    ));
                }
            }
        }
    }

    fn json(&self, sight: &FeedEvent) {
        let title = self.title.as_str();
        let line = match sight {
            FeedEvent::Seated { node, reason } => {
                json!({ "event": "seated", "title": title, "node": node.as_str(), "reason": reason })
            }
            FeedEvent::SeatFailed(fault) => {
                json!({ "event": "lost", "title": title, "reason": fault.code.reason(), "message": fault.message })
            }
            FeedEvent::Progress(tally) => {
                let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
                if said.is_some_and(|said| said.elapsed() < JSON_EVERY) {
                    return;
                }
                *said = Some(Instant::now());
                tally_json("progress", title, *tally, self.started.elapsed())
            }
        };
        note(&line.to_string());
    }
}

fn tally_json(event: &str, title: &str, tally: FeedStats, elapsed: Duration) -> serde_json::Value {
    json!({
        "event": event,
        "title": title,
        "bytes": tally.bytes,
        "groups": tally.groups,
        "dropped_groups": tally.dropped,
        "elapsed_ms": units::millis(elapsed),
    })
}

fn groups(count: u64) -> String {
    if count == 1 { "1 group".to_owned() } else { format!("{count} groups") }
}

/// Plays a feed until it, or the player, ends.
pub(super) async fn play(client: &Client, title: &Title, args: &LiveArgs, player: Option<Player>) -> Result<(), Fault> {
    let board = Board::new(title, Mode::None);
    let observer = |sight: &FeedEvent| board.show(sight);
    let watch = client.watch_order(title, Purpose::Play, args.from.unwrap_or_default(), args.latency(), None);
    let Some(player) = player else {
        let mut sink = LiveSink::stdout()?;
        return match client.watch_feed(&watch, &mut sink, &observer).await {
            // The reader has seen enough.
            Err(fault) if fault.code == Code::Cancelled => Ok(()),
            result => result.map(drop),
        };
    };
    let mut child = player.start(&Feed::Stdin, Stdio::piped())?;
    let input = child.stdin.take().ok_or_else(|| Fault::new(Code::Internal, "the player has no standard input"))?;
    let input = input.into_owned_fd().map_err(|error| Fault::new(Code::Internal, format!("feed {player}: {error}")))?;
    let feed = async {
        // The sink, and with it the player's input, ends with this block: the player sees the end of the feed.
        let mut sink = LiveSink::through(File::from(input));
        client.watch_feed(&watch, &mut sink, &observer).await.map(drop)
    };
    let fed = tokio::select! {
        fed = feed => fed,
        result = ended(&player, &mut child) => return result,
    };
    let played = ended(&player, &mut child).await;
    match fed {
        // The player closed its input before the end: how it ended says whether that was well.
        Err(fault) if fault.code == Code::Cancelled => played,
        Err(fault) => Err(fault),
        Ok(()) => played,
    }
}

/// What is recorded, and where to.
pub(super) struct Recording<'a> {
    pub(super) title: &'a Title,
    pub(super) args: &'a LiveArgs,
    pub(super) duration: Option<Duration>,
    /// `None` for standard output.
    pub(super) output: Option<PathBuf>,
    pub(super) force: bool,
    pub(super) progress: Mode,
}

/// Records a feed until enough came of it, it is over, or `stop`: what came until then is kept. Answers what to print as
/// JSON.
pub(super) async fn record(
    client: &Client,
    recording: Recording<'_>,
    stop: impl Future<Output = ()>,
) -> Result<serde_json::Value, Fault> {
    let Recording { title, args, duration, output, force, progress } = recording;
    let mode = match progress {
        Mode::Auto | Mode::Bar if std::io::stderr().is_terminal() => Mode::Bar,
        other => other,
    };
    let board = Board::new(title, mode);
    let tally = Mutex::new(FeedStats::default());
    let observer = |sight: &FeedEvent| {
        if let FeedEvent::Progress(now) = sight {
            *tally.lock().unwrap_or_else(PoisonError::into_inner) = *now;
        }
        board.show(sight);
    };
    let started = Instant::now();
    let mut sink = match &output {
        None => LiveSink::stdout()?,
        Some(path) if is_through(path) => LiveSink::through(open(path)?),
        Some(path) => LiveSink::file(path.clone(), force)?,
    };
    let watch = client.watch_order(title, Purpose::Fetch, args.from.unwrap_or_default(), args.latency(), duration);
    let result = tokio::select! {
        result = client.watch_feed(&watch, &mut sink, &observer) => result.map(|all| {
            // The last group was written before it was known to be whole.
            *tally.lock().unwrap_or_else(PoisonError::into_inner) = all;
        }),
        () = stop => match duration {
            // Nobody said how long: it was now.
            None => Ok(()),
            Some(_) => Err(Fault::new(Code::Interrupted, format!("{title}: interrupted; what came until then is kept"))),
        },
    };
    let tally = *tally.lock().unwrap_or_else(PoisonError::into_inner);
    let elapsed = started.elapsed();
    // What was begun and is not whole would end in a torn picture.
    let tally = if output.is_some() { FeedStats { bytes: tally.whole, ..tally } } else { tally };
    sink.keep(tally.bytes).await?;
    match result {
        Err(fault) if fault.code == Code::Cancelled && output.is_none() => {}
        Err(fault) if tally.bytes > 0 && fault.code != Code::Interrupted => {
            return Err(Fault {
                message: format!("{}; {} of it are kept", fault.message, units::bytes(tally.bytes)),
                ..fault
            });
        }
        result => result?,
    }
    let to = output.as_ref().map_or_else(|| "-".to_owned(), |path| path.display().to_string());
    if tally.bytes == 0 {
        return Err(Fault::new(Code::NotFound, format!("{title}: the feed ended before anything of it came")));
    }
    let mut done = tally_json("done", title.as_str(), tally, elapsed);
    if let Some(fields) = done.as_object_mut() {
        fields.insert("output".to_owned(), json!(to));
    }
    if mode == Mode::Json {
        note(&done.to_string());
    } else {
        let rate = Bitrate::over(tally.bytes, elapsed);
        let dropped = if tally.dropped > 0 { format!(", {} dropped", groups(tally.dropped)) } else { String::new() };
        let (bytes, whole) = (units::bytes(tally.bytes), groups(tally.groups));
        note(&format!(
            "{title}: {bytes} in {:.1} s at {rate}, {whole}{dropped}, each signed -> {to}",
            elapsed.as_secs_f64()
        ));
    }
    Ok(done)
}

fn is_through(path: &std::path::Path) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    path.metadata().is_ok_and(|meta| {
        let kind = meta.file_type();
        kind.is_fifo() || kind.is_char_device() || kind.is_block_device()
    })
}

fn open(path: &std::path::Path) -> Result<File, Fault> {
    let opened = std::fs::OpenOptions::new().write(true).open(path);
    opened.map_err(|error| Fault::new(Code::Disk, format!("open {}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginnings() {
        assert_eq!(from("-30s"), Ok(StartAt::Back(Duration::from_secs(30))));
        assert_eq!(from("newest"), Ok(StartAt::Newest));
        for wrong in ["30s", "-", "-x", "-25h", "now"] {
            assert!(from(wrong).is_err(), "{wrong}");
        }
        let args = LiveArgs { from: Some(StartAt::Back(Duration::from_secs(30))), latency: None };
        assert_eq!(args.latency(), Duration::from_secs(40));
        assert!(args.none().is_err() && LiveArgs::default().none().is_ok());
    }
}
