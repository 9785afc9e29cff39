//! The options of feeds, and `usher play` of a feed. [`record`] is `usher fetch` of a feed; [`progress`] shows either.

mod progress;
mod record;

use std::{path::PathBuf, time::Duration};

use usher_media::probe::Container;
use usher_proto::{Code, Fault, Title, model::What, ticket::Purpose};

use self::progress::FeedProgress;
pub(super) use self::record::Recording;
use super::{options::time, player::Player, progress::ProgressMode};
use crate::{
    client::Client,
    core::url::Url,
    driver::{FeedEvent, StartAt},
    sink::PlayerSink,
};

/// Default limit of how far a viewer falls behind.
const LATENCY: Duration = Duration::from_secs(10);

/// Options for feeds.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Feeds (live/NAME)")]
pub(super) struct LiveArgs {
    /// Start this long ago, for example -30s, or at `newest`, the group that is being published [default: the last complete
    /// group]
    #[arg(long, value_name = "-TIME|newest", value_parser = from, allow_hyphen_values = true)]
    from: Option<StartAt>,
    /// Drop groups when playback falls behind by more than this [default: 10s, plus the time of --from]
    #[arg(long, value_name = "TIME", value_parser = time)]
    latency: Option<Duration>,
}

impl LiveArgs {
    /// Refuses options of feeds for other titles.
    pub(super) fn refuse(&self) -> Result<(), Fault> {
        if self.from.is_some() || self.latency.is_some() {
            return Err(Fault::new(Code::Usage, "--from and --latency are for feeds, `live/NAME`"));
        }
        Ok(())
    }

    fn start(&self) -> StartAt {
        self.from.unwrap_or_default()
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

/// Reads the length of a recording.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let duration = time(text)?;
    if duration.is_zero() { Err("a recording is longer than 0s".to_owned()) } else { Ok(duration) }
}

/// The feed that a URL names, if it names one.
pub(super) fn feed(url: &Url) -> Option<Title> {
    url.title().ok().filter(Title::is_live)
}

/// The name of a file for a recording: the feed's, with the end of its container's files.
pub(super) async fn file_name(client: &Client, title: &Title) -> Result<PathBuf, Fault> {
    let versions = client.locate(&What::Title(title.clone())).await?;
    let mut media_types = versions.into_iter().filter_map(|version| version.title).map(|title| title.media_type);
    let name = title.file_name();
    Ok(match media_types.find_map(|media_type| Container::of_type(&media_type)) {
        Some(container) if !name.ends_with(&format!(".{}", container.extension())) => {
            PathBuf::from(format!("{name}.{}", container.extension()))
        }
        _ => PathBuf::from(name),
    })
}

/// Plays a feed until it, or the player, ends; without a player to standard output.
pub(super) async fn play(client: &Client, title: &Title, args: &LiveArgs, player: Option<Player>) -> Result<(), Fault> {
    let progress = FeedProgress::new(title, ProgressMode::None);
    let observer = |event: &FeedEvent| progress.show(event);
    let order = client.watch_order(title, Purpose::Play, args.start(), args.latency(), None);
    let Some(player) = player else {
        let mut sink = PlayerSink::stdout()?;
        return match client.watch_feed(&order, &mut sink, &observer).await {
            // The reader has seen enough.
            Err(fault) if fault.code == Code::Cancelled => Ok(()),
            result => result.and_then(|_| sink.check_end()),
        };
    };
    let feed = |input, opened| async {
        let mut sink = PlayerSink::new(input, Some(opened));
        client.watch_feed(&order, &mut sink, &observer).await?;
        sink.check_end()
    };
    player.play_pipe(feed).await
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
        assert!(args.refuse().is_err() && LiveArgs::default().refuse().is_ok());
    }
}
