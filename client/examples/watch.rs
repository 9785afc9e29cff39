//! Plays a live feed to standard output, from its last complete group on.
//!
//! ```text
//! cargo run --example watch -- usher://localhost/live/demo CA.PEM | mpv -
//! ```

use std::time::Duration;

use usher_client::{Authority, Client, FeedEvent, Options, StartAt, Url, sink::LiveSink};

/// Groups are dropped once the reader falls behind by more than this.
const LATENCY: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let url: Url = args.next().ok_or("usage: watch usher://HOST[:PORT]/live/NAME [CA.PEM]")?.parse()?;
    let authority = Authority::load(args.next().map(Into::into))?;

    let title = url.title()?;
    let client = Client::new(url.master, authority, Options::default())?;
    let observer = |event: &FeedEvent| match event {
        FeedEvent::Seated { node, reason } => eprintln!("{title}: from {node} ({reason})"),
        FeedEvent::SeatFailed(fault) => eprintln!("{fault}; trying another node"),
        FeedEvent::Progress(_) => {}
    };
    let stats = client.play(&title, StartAt::LastWhole, LATENCY, &mut LiveSink::stdout()?, &observer).await?;
    client.close().await;

    eprintln!("{title}: {} groups, {} dropped", stats.groups, stats.dropped);
    Ok(())
}
