//! Fetches one title into a file of the current folder, and verifies it.
//!
//! ```text
//! usher demo                                    # in another terminal; prints where its certificates are
//! cargo run --example fetch -- usher://localhost/B.mp4 CA.PEM
//! ```
//!
//! Run it again after an interruption: it resumes where it stopped.

use usher_client::{Authority, Client, FetchEvent, Options, Url, sink::FileSink};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let url: Url = args.next().ok_or("usage: fetch usher://HOST[:PORT]/TITLE [CA.PEM]")?.parse()?;
    let authority = Authority::load(args.next().map(Into::into))?;

    let title = url.title()?;
    let client = Client::new(url.master, authority, Options::default())?;
    let mut sink = FileSink::new(title.file_name().into(), false);
    let observer = |event: &FetchEvent| match event {
        FetchEvent::Seated { node, .. } => eprintln!("from {node}"),
        FetchEvent::Sources(nodes) => eprintln!("from {} nodes at once", nodes.len()),
        FetchEvent::SeatFailed(fault) => eprintln!("{fault}; trying another node"),
        FetchEvent::Progress { verified, total, .. } => eprint!("\r{verified} of {total} bytes"),
    };
    let outcome = client.fetch_to(&title, &mut sink, &observer).await?;
    client.close().await;

    eprintln!();
    println!("{}: {} bytes, BLAKE3 {}", outcome.title, outcome.bytes, outcome.content);
    Ok(())
}
