//! `usher play`: plays a title in a media player, or writes it to standard output, from its first verified bytes on.

use std::sync::Arc;

use tokio::sync::mpsc;
use usher_proto::{Code, Fault, Title, model::Range, model::What, ticket::Purpose};

use super::{
    failure::Failure,
    live::{self, LiveArgs},
    options::{TransferOptions, interrupted, what},
    output::note,
    player::Player,
    progress::LastFault,
};
use crate::{
    client::{Client, Options},
    core::{table::clean, url::Url},
    driver::{FetchEvent, Order},
    master::Answer,
    sink::{FileSink, ThroughSink},
};

/// Play a title or a live feed
///
/// Examples:
///   usher play usher://localhost/films/dune.mp4
///   usher play usher://localhost/films/dune.mp4 --player - | ffprobe -
///   usher play live/cam1 --from -30s
#[derive(Clone, Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct PlayArgs {
    /// URL of the title; `live/NAME` alone is a feed at the default master
    #[arg(value_name = "usher://HOST[:PORT]/TITLE", value_parser = live::url)]
    url: Url,
    /// mpv, ffplay, vlc, the path of a player that reads its standard input, or `-` for standard output [default: the first
    /// of mpv, ffplay and vlc that is installed]
    #[arg(long, value_name = "PLAYER")]
    player: Option<String>,
    /// Arguments for the player, split at spaces; repeatable
    #[arg(long, value_name = "ARGS", allow_hyphen_values = true)]
    player_args: Vec<String>,
    /// Read the path of the URL as a content id, as `b3sum` prints it
    #[arg(long)]
    from_id: bool,
    #[command(flatten)]
    transfer: TransferOptions,
    #[command(flatten)]
    live: LiveArgs,
}

impl PlayArgs {
    /// Plays until the title or the player ends.
    ///
    /// # Errors
    /// The exit code and the message.
    pub async fn run(self, mut stop: mpsc::Receiver<()>) -> Result<(), Failure> {
        let what = what(&self.url, self.from_id, &self.url.to_string())?;
        let feed = live::feed(&self.url);
        if feed.is_none() {
            self.live.refuse()?;
        }
        let player = match self.player.as_deref() {
            Some("-") => None,
            name => Some(Player::find(name)?.with_args(&self.player_args)),
        };
        let client = Arc::new(self.transfer.client(self.url.master.clone(), Options::default())?);
        let play = async {
            match feed {
                Some(title) => Box::pin(live::play(&client, &title, &self.live, player)).await,
                None => Box::pin(play(&client, &what, player)).await,
            }
        };
        let result = tokio::select! {
            result = play => result,
            () = interrupted(&mut stop) => Err(Fault::new(Code::Interrupted, "interrupted")),
        };
        client.close().await;
        Ok(result?)
    }
}

async fn play(client: &Client, what: &What, player: Option<Player>) -> Result<(), Fault> {
    let last = LastFault::default();
    let observer = |progress: &FetchEvent| match progress {
        FetchEvent::Seated { node, reason, info } if reason.is_empty() => note(&format!("{}: from {node}", info.title)),
        FetchEvent::Seated { node, reason, info } => note(&format!("{}: from {node} ({reason})", info.title)),
        FetchEvent::SeatFailed(fault) if last.is_new(fault) => note(&format!("{fault}; trying again")),
        FetchEvent::SeatFailed(_) | FetchEvent::Progress { .. } | FetchEvent::Sources(_) => {}
    };
    let order = client.order(what.clone(), Purpose::Play, Range::default());
    let Some(player) = player else {
        let mut sink = ThroughSink::stdout()?;
        return match client.fetch_order(&order, &mut sink, &observer, None).await {
            // The reader has seen enough.
            Err(fault) if fault.code == Code::Cancelled => Ok(()),
            result => result.map(drop),
        };
    };
    // At the same time: the title's layout, which decides how it can be played, and a node to fetch it from.
    let orders = [&order];
    let (versions, answers) = tokio::join!(client.locate(what), client.resolve_many(&orders));
    let (versions, first) = (versions?, answers?.pop());
    let about = versions.into_iter().find_map(|version| version.title).unwrap_or_default();
    if about.streamable || about.media_type.is_empty() {
        return pipe(client, &order, first, &observer, &player).await;
    }
    let name = clean(&about.title);
    if about.media_type != "video/mp4" {
        note(&format!("{name}: the index is at the end of the file; seeking may not work until it has arrived"));
        return pipe(client, &order, first, &observer, &player).await;
    }
    note(&format!("{name}: the index is at the end of the file, so the whole title is fetched before it plays"));
    let failed = |error: std::io::Error| Fault::new(Code::Disk, format!("make a temporary folder: {error}"));
    let folder = tempfile::Builder::new().prefix("usher-play-").tempdir().map_err(failed)?;
    let file = Title::parse(&about.title).map_or_else(|_| "title.mp4".to_owned(), |title| title.file_name().to_owned());
    let mut sink = FileSink::new(folder.path().join(file), false);
    client.fetch_order(&order, &mut sink, &observer, first).await?;
    player.play_file(sink.target()).await
}

/// Plays the title while it is fetched.
async fn pipe(
    client: &Client,
    order: &Order,
    first: Option<Result<Answer, Fault>>,
    observer: &(dyn Fn(&FetchEvent) + Send + Sync),
    player: &Player,
) -> Result<(), Fault> {
    let feed = |input| async move {
        let mut sink = ThroughSink::new(input);
        client.fetch_order(order, &mut sink, observer, first).await.map(drop)
    };
    player.play_pipe(feed).await
}
