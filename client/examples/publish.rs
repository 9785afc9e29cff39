//! Publishes a feed: a file at the speed at which it plays, or standard input as fast as it is written.
//!
//! ```text
//! usher demo                                    # in another terminal; prints where its certificates are
//! cargo run --example publish -- usher://localhost/live/demo CA.PEM PUBLISHER.PEM PUBLISHER.KEY clip.ts
//! ```
//!
//! `usher certs issue publisher NAME` makes the certificate and key for `live/NAME`.

use tokio::sync::mpsc;
use usher_client::{Authority, Client, MediaInput, Options, Publication, PublishEvent, Url};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [url, ca, cert, key, file @ ..] = args.as_slice() else {
        return Err("usage: publish usher://HOST[:PORT]/live/NAME CA.PEM CERT.PEM KEY [FILE]".into());
    };
    let url: Url = url.parse()?;
    let authority = Authority::load(Some(ca.into()))?;
    let identity = Some(authority.identity(cert.as_ref(), key.as_ref())?);
    let input = match file.first() {
        Some(file) => MediaInput::read(std::fs::File::open(file)?, file, true)?,
        None => MediaInput::read(std::io::stdin(), "standard input", false)?,
    };

    let publication = Publication::new(url.title()?);
    let client = Client::new(url.master, authority, Options { identity, ..Options::default() })?;
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
