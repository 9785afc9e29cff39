//! `usher node`: reads the settings and the certificate, then runs the node or only checks them.

use futures::future::BoxFuture;
use usher_settings::Layered;

use crate::{app, settings::Config};

/// Arguments of `usher node`.
pub type Args = Layered<Config>;

/// Runs `usher node` until asked to end twice, or once and no session runs; see [`app::serve`].
///
/// # Errors
/// The wrong setting, file, folder or address, with its remedy.
pub fn run(args: Args, requests: tokio::sync::mpsc::Receiver<()>) -> BoxFuture<'static, anyhow::Result<()>> {
    Box::pin(async move {
        let config = args.load()?;
        let identity = config.identity()?;
        let name = config.check(&identity)?;
        config.state(name.as_str())?;
        if args.check_only() {
            let listen: Vec<String> = config.listen.iter().map(ToString::to_string).collect();
            eprintln!("the settings are valid; node {name} would listen on {}", listen.join(", "));
            return Ok(());
        }
        app::serve(config, identity, requests).await
    })
}

#[cfg(test)]
mod tests;
