//! `usher fetch` of a feed: records whole groups to a file, a device or standard output.

use std::{
    io::IsTerminal as _,
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde_json::json;
use usher_proto::{Bitrate, Code, Fault, Title, ticket::Purpose, units};

use super::{
    LiveArgs,
    progress::{FeedProgress, groups, stats_json},
};
use crate::{
    cli::{
        options::interruption,
        output::{note, note_json},
        progress::ProgressMode,
    },
    client::Client,
    driver::{FeedEvent, FeedStats},
    sink::{LiveSink, open_device},
};

/// A recording to make.
pub(in crate::cli) struct Recording<'a> {
    pub(in crate::cli) title: &'a Title,
    pub(in crate::cli) args: &'a LiveArgs,
    /// Length of media to record; `None` for all until the feed or the command ends.
    pub(in crate::cli) duration: Option<Duration>,
    /// `None` for standard output.
    pub(in crate::cli) output: Option<PathBuf>,
    pub(in crate::cli) force: bool,
    pub(in crate::cli) progress: ProgressMode,
}

impl Recording<'_> {
    /// Records until the duration is reached, the feed ends, or `stop`, and keeps the groups received until then. Returns
    /// the statistics as JSON.
    pub(in crate::cli) async fn run(
        self,
        client: &Client,
        stop: impl Future<Output = ()>,
    ) -> Result<serde_json::Value, Fault> {
        let Self { title, args, duration, output, force, progress } = self;
        let mode = match progress {
            ProgressMode::Auto | ProgressMode::Bar if std::io::stderr().is_terminal() => ProgressMode::Bar,
            other => other,
        };
        let progress = FeedProgress::new(title, mode);
        let stats = Mutex::new(FeedStats::default());
        let observer = |event: &FeedEvent| {
            if let FeedEvent::Progress(now) = event {
                *stats.lock().unwrap_or_else(PoisonError::into_inner) = *now;
            }
            progress.show(event);
        };
        let started = Instant::now();
        let mut stop = std::pin::pin!(stop);
        let mut sink = match &output {
            None => LiveSink::stdout()?,
            Some(path) if is_device(path) => {
                let file = tokio::select! {
                    file = open_device(path.clone()) => file?,
                    () = &mut stop => return Err(interruption(title)),
                };
                LiveSink::through(file)
            }
            Some(path) => LiveSink::file(path.clone(), force)?,
        };
        let order = client.watch_order(title, Purpose::Fetch, args.start(), args.latency(), duration);
        let result = tokio::select! {
            result = client.watch_feed(&order, &mut sink, &observer) => result.map(|all| {
                // The last group is known to be complete only now.
                *stats.lock().unwrap_or_else(PoisonError::into_inner) = all;
            }),
            () = &mut stop => match duration {
                // Without a duration, an interruption is the way to end a recording.
                None => Ok(()),
                Some(_) => {
                    let text = format!("{title}: interrupted; the groups received until then are kept");
                    Err(Fault::new(Code::Interrupted, text))
                }
            },
        };
        let stats = *stats.lock().unwrap_or_else(PoisonError::into_inner);
        let elapsed = started.elapsed();
        // An incomplete group would end the file in a damaged picture.
        let stats = if output.is_some() { FeedStats { bytes: stats.whole, ..stats } } else { stats };
        sink.keep(stats.bytes).await?;
        match result {
            Err(fault) if fault.code == Code::Cancelled && output.is_none() => {}
            Err(fault) if stats.bytes > 0 && fault.code != Code::Interrupted => {
                let message = format!("{}; {} of the recording are kept", fault.message, units::bytes(stats.bytes));
                return Err(Fault { message, ..fault });
            }
            result => result?,
        }
        if stats.bytes == 0 {
            return Err(Fault::new(
                Code::NotFound,
                format!("{title}: the feed ended before a complete group was received"),
            ));
        }
        let to = output.as_ref().map_or_else(|| "-".to_owned(), |path| path.display().to_string());
        let mut done = stats_json("done", title.as_str(), stats, elapsed);
        if let Some(fields) = done.as_object_mut() {
            fields.insert("output".to_owned(), json!(to));
        }
        if mode == ProgressMode::Json {
            note_json(&done);
        } else {
            let rate = Bitrate::over(stats.bytes, elapsed);
            let dropped =
                if stats.dropped > 0 { format!(", {} dropped", groups(stats.dropped)) } else { String::new() };
            let (bytes, whole, seconds) = (units::bytes(stats.bytes), groups(stats.groups), elapsed.as_secs_f64());
            note(&format!(
                "{title}: {bytes} in {seconds:.1} s at {rate}, {whole}{dropped}, signatures verified -> {to}"
            ));
        }
        Ok(done)
    }
}

fn is_device(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| {
        let kind = meta.file_type();
        kind.is_fifo() || kind.is_char_device() || kind.is_block_device()
    })
}
