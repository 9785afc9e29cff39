//! `usher play`: plays a title in a media player, or writes it to standard output, from its first verified bytes on.

use std::{fs::File, path::Path, sync::Arc};

use tokio::sync::mpsc;
use usher_media::probe::{self, Container};
use usher_proto::{Code, Fault, Title, model::Range, model::What, ticket::Purpose};

use super::{
    failure::Failure,
    live::{self, LiveArgs},
    options::{DefaultMaster, TransferOptions, interrupted, url_or_title, what},
    output::note,
    player::Player,
    progress::LastFault,
};
use crate::{
    client::{Client, Options},
    core::{gate::no_media, table::clean},
    driver::{FetchEvent, Order},
    master::Answer,
    sink::{FileSink, PlayerSink},
};

/// Play a title or a live feed
///
/// Examples:
///   usher play films/dune.mp4
///   usher play usher://media.example.org/films/dune.mp4 --player - | ffprobe -
///   usher play live/cam1 --from -30s
#[derive(Clone, Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct PlayArgs {
    /// usher://HOST[:PORT]/TITLE, or a title or feed (live/NAME) at the default master
    #[arg(value_name = "URL|TITLE")]
    what: String,
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
    master: DefaultMaster,
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
    pub async fn run(self, requests: fn() -> mpsc::Receiver<()>) -> Result<(), Failure> {
        let url = url_or_title(&self.what, &self.master.master)?;
        let what = what(&url, self.from_id, &self.what)?;
        let feed = live::feed(&url);
        if feed.is_none() {
            self.live.refuse()?;
        }
        let player = match self.player.as_deref() {
            Some("-") => None,
            name => Some(Player::find(name)?.with_args(&self.player_args)),
        };
        let client = Arc::new(self.transfer.client(url.master, Options::default())?);
        let mut stop = requests();
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
        let mut sink = PlayerSink::stdout()?;
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
    let file = Title::parse(&about.title).map_or_else(|_| "title".to_owned(), |title| title.file_name().to_owned());
    // Some players read a file by the end of its name, which a hostile master would choose.
    let mut sink = FileSink::new(folder.path().join(file).with_extension(Container::Mp4.extension()), false);
    client.fetch_order(&order, &mut sink, &observer, first).await?;
    player.play_file(sink.target(), probed(sink.target())?).await
}

/// The container of a whole file, which must be one that a node would offer.
fn probed(path: &Path) -> Result<Container, Fault> {
    let failed = |error: std::io::Error| Fault::new(Code::Disk, format!("read {}: {error}", path.display()));
    let mut file = File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    let found = probe::probe(&mut file, size)
        .map_err(|error| Fault { message: format!("{}: {error}", no_media()), ..no_media() })?;
    Container::of_type(found.media_type).ok_or_else(no_media)
}

/// Plays the title while it is fetched.
async fn pipe(
    client: &Client,
    order: &Order,
    first: Option<Result<Answer, Fault>>,
    observer: &(dyn Fn(&FetchEvent) + Send + Sync),
    player: &Player,
) -> Result<(), Fault> {
    let feed = |input, opened| async move {
        let mut sink = PlayerSink::new(input, Some(opened));
        client.fetch_order(order, &mut sink, observer, first).await.map(drop)
    };
    player.play_pipe(feed).await
}
