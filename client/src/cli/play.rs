//! `usher play`: a title into a player, or into standard output, from its first verified bytes on.

use std::{process::Stdio, sync::Arc};

use tokio::process::Child;
use usher_proto::{Code, Fault, Title, model::Range, model::What, ticket::Purpose};
use usher_transport::Congestion;

use super::{
    Failure, Reach, interrupted,
    live::{self, LiveArgs},
    note,
    player::{Feed, Player},
    tell_request, zone,
};
use crate::{
    client::{Client, Options},
    core::{table::clean, url::Url},
    driver::{FetchEvent, Order},
    master::Answer,
    sink::{FileSink, ThroughSink},
};

/// Play a title.
#[derive(Clone, Debug, clap::Args)]
pub struct PlayArgs {
    /// The title
    #[arg(value_name = "usher://HOST[:PORT]/TITLE", value_parser = live::url)]
    url: Url,
    /// mpv, ffplay, vlc, the path of a player that reads its standard input, or `-` for standard output [default: the
    /// first of mpv, ffplay and vlc that is installed]
    #[arg(long, value_name = "PLAYER")]
    player: Option<String>,
    /// Arguments for the player, split at blanks; may be repeated
    #[arg(long, value_name = "ARGS", allow_hyphen_values = true)]
    player_args: Vec<String>,
    /// The path of the URL is a content id, as `b3sum` prints it
    #[arg(long)]
    from_id: bool,
    /// How congestion is found and answered
    #[arg(long, env = "USHER_CONGESTION", value_enum, default_value_t)]
    congestion: Congestion,
    /// Tell the request id, for `usher explain --request` and to find it in logs
    #[arg(short, long)]
    verbose: bool,
    /// The zone that this client is in
    #[arg(long, value_name = "ZONE", default_value = "", value_parser = zone)]
    zone: String,
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    live: LiveArgs,
}

impl PlayArgs {
    /// Plays until the title or the player ends.
    ///
    /// # Errors
    /// What to print and exit with.
    pub async fn run(self) -> Result<(), Failure> {
        let usage = |error: &dyn std::fmt::Display| Failure::new(Code::Usage, format!("{}: {error}", self.url));
        let what = if self.from_id {
            self.url.content().map(What::Content).map_err(|error| usage(&error))?
        } else {
            self.url.title().map(What::Title).map_err(|error| usage(&error))?
        };
        if live::feed(&self.url).is_none() {
            self.live.none()?;
        }
        let player = match self.player.as_deref() {
            Some("-") => None,
            name => Some(Player::find(name)?.with_args(&self.player_args)),
        };
        let options = Options { zone: self.zone.clone(), congestion: self.congestion, ..Options::default() };
        let client = Arc::new(self.reach.client(self.url.master.clone(), options)?);
        if self.verbose {
            tell_request(&client);
        }
        let play = async {
            match live::feed(&self.url) {
                Some(title) => Box::pin(live::play(&client, &title, &self.live, player)).await,
                None => Box::pin(play(&client, &what, player)).await,
            }
        };
        let result = tokio::select! {
            result = play => result,
            () = interrupted() => Err(Fault::new(Code::Interrupted, "interrupted")),
        };
        client.close().await;
        Ok(result?)
    }
}

async fn play(client: &Client, what: &What, player: Option<Player>) -> Result<(), Fault> {
    let told = std::sync::Mutex::new(String::new());
    let observer = |progress: &FetchEvent| match progress {
        FetchEvent::Seated { node, reason, info } if reason.is_empty() => note(&format!("{}: from {node}", info.title)),
        FetchEvent::Seated { node, reason, info } => note(&format!("{}: from {node} ({reason})", info.title)),
        FetchEvent::SeatFailed(fault) => {
            let mut told = told.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            // While the same failure repeats, nothing is new.
            if *told != fault.message {
                note(&format!("{fault}; trying on"));
                told.clone_from(&fault.message);
            }
        }
        FetchEvent::Progress { .. } | FetchEvent::Sources(_) => {}
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
    // Both at once: how it has to be played, and where it comes from.
    let orders = [&order];
    let (versions, answers) = tokio::join!(client.locate(what), client.resolve_many(&orders));
    let (versions, first) = (versions?, answers?.pop());
    let about = versions.into_iter().find_map(|version| version.title).unwrap_or_default();
    if about.streamable || about.media_type.is_empty() {
        return pipe(client, &order, first, &observer, &player).await;
    }
    let name = clean(&about.title);
    if about.media_type != "video/mp4" {
        note(&format!("{name}: its index is at the end; seeking may not work while it comes"));
        return pipe(client, &order, first, &observer, &player).await;
    }
    note(&format!("{name}: its index is at the end, so it is fetched whole before it plays"));
    let failed = |error: std::io::Error| Fault::new(Code::Disk, format!("make a temporary folder: {error}"));
    let folder = tempfile::Builder::new().prefix("usher-play-").tempdir().map_err(failed)?;
    let file = Title::parse(&about.title).map_or_else(|_| "title.mp4".to_owned(), |title| title.file_name().to_owned());
    let mut sink = FileSink::new(folder.path().join(file), false);
    client.fetch_order(&order, &mut sink, &observer, first).await?;
    let mut child = player.start(&Feed::File(sink.target()), Stdio::null())?;
    ended(&player, &mut child).await
}

/// Feeds the player's standard input until either ends.
async fn pipe(
    client: &Client,
    order: &Order,
    first: Option<Result<Answer, Fault>>,
    observer: &(dyn Fn(&FetchEvent) + Send + Sync),
    player: &Player,
) -> Result<(), Fault> {
    let mut child = player.start(&Feed::Stdin, Stdio::piped())?;
    let input = child.stdin.take().ok_or_else(|| Fault::new(Code::Internal, "the player has no standard input"))?;
    let input = input.into_owned_fd().map_err(|error| Fault::new(Code::Internal, format!("feed {player}: {error}")))?;
    let feed = async {
        let mut sink = ThroughSink::new(input.into());
        // The sink, and with it the player's input, ends with this block: the player sees the end of the title.
        client.fetch_order(order, &mut sink, observer, first).await.map(drop)
    };
    let fed = tokio::select! {
        fed = feed => fed,
        result = ended(player, &mut child) => return result,
    };
    let played = ended(player, &mut child).await;
    match fed {
        // The player closed its input before the end: how it ended says whether that was well.
        Err(fault) if fault.code == Code::Cancelled => played,
        Err(fault) => Err(fault),
        Ok(()) => played,
    }
}

/// Waits for the player; quitting early is a success.
pub(super) async fn ended(player: &Player, child: &mut Child) -> Result<(), Fault> {
    let status =
        child.wait().await.map_err(|error| Fault::new(Code::Internal, format!("wait for {player}: {error}")))?;
    if status.success() { Ok(()) } else { Err(Fault::new(Code::Internal, format!("{player} failed: {status}"))) }
}
