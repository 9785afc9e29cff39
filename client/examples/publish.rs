//! Publishes a feed: a file at the speed at which it plays, or standard input as fast as it is written.
//!
//! ```text
//! cargo run --example publish -- usher://localhost/live/cam1 CA.PEM clip.ts
//! ffmpeg -re -i FILE -c copy -f mpegts - | cargo run --example publish -- usher://localhost/live/cam1 CA.PEM
//! ```

use tokio::sync::mpsc;
use usher_client::{Authority, Client, MediaInput, Options, Publication, PublishEvent, Url};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let url: Url = args.next().ok_or("usage: publish usher://HOST[:PORT]/live/NAME [CA.PEM [FILE]]")?.parse()?;
    let authority = Authority::load(args.next().map(Into::into))?;
    let input = match args.next() {
        Some(file) => MediaInput::read(std::fs::File::open(&file)?, &file, true)?,
        None => MediaInput::read(std::io::stdin(), "standard input", false)?,
    };

    let publication = Publication::new(url.title()?);
    let client = Client::new(url.master, authority, Options::default())?;
    // Ctrl-C ends the feed at the end of its group.
    let (stop, mut stopped) = mpsc::channel(1);
    tokio::spawn(async move { while tokio::signal::ctrl_c().await.is_ok() && stop.send(()).await.is_ok() {} });
    let observer = |event: &PublishEvent| match event {
        PublishEvent::Seated { node, .. } => eprintln!("to {node}"),
        PublishEvent::SeatFailed(fault) => eprintln!("{fault}; trying another node"),
        PublishEvent::Warning(text) => eprintln!("warning: {text}"),
        PublishEvent::Medium(medium) => eprintln!("{}", medium.media_type),
        PublishEvent::Progress(stats) => eprint!("\r{} groups at {}", stats.groups, stats.rate),
    };
    let stats = client.publish(&publication, input, &mut stopped, &observer).await?;
    client.close().await;

    eprintln!("\n{}: {} groups, {} bytes", publication.title, stats.groups, stats.bytes);
    Ok(())
}
