//! `usher master`: reads the settings and the certificate, then runs the master or only checks them.

use std::future::Future;

use usher_settings::Layered;

use crate::{app, settings::Config, viewers};

/// Arguments of `usher master`.
pub type Args = Layered<Config>;

/// Runs `usher master` until `shutdown`.
///
/// # Errors
/// The wrong setting, certificate, key store or address, with its remedy.
pub async fn run(args: Args, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    let config = args.load()?;
    config.check()?;
    let identity = config.identity()?;
    config.state()?;
    viewers::check_files(&config)?;
    if args.check_only() {
        eprintln!("the settings are valid; the master would listen on {}", config.listen);
        return Ok(());
    }
    let mut running = app::start(config, identity).await?;
    tokio::select! {
        () = shutdown => {
            running.shutdown().await;
            Ok(())
        }
        () = running.ended() => anyhow::bail!("the master's listener failed; the log says why"),
    }
}

#[cfg(test)]
mod tests;
