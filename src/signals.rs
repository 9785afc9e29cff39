//! Turns SIGINT and SIGTERM into requests to stop. The commands decide what a first and a second request mean.

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

/// Sends a message for each signal from now on.
pub(crate) fn shutdown() -> mpsc::Receiver<()> {
    let (sender, receiver) = mpsc::channel(4);
    for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
        let sender = sender.clone();
        match signal(kind) {
            Ok(mut signals) => {
                tokio::spawn(async move {
                    while signals.recv().await.is_some() {
                        // A full queue holds four requests already.
                        if sender.try_send(()).is_err() && sender.is_closed() {
                            break;
                        }
                    }
                });
            }
            Err(error) => tracing::warn!(%error, "cannot listen for a signal; stop this process with SIGKILL"),
        }
    }
    receiver
}

/// Waits for the first request; without any listener, for ever.
pub(crate) async fn first(mut requests: mpsc::Receiver<()>) {
    if requests.recv().await.is_none() {
        std::future::pending::<()>().await;
    }
}
