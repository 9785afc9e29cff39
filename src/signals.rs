//! Turns SIGINT and SIGTERM into requests to stop. What a first or a second one means is the role's business.

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

/// One message per signal, from now on.
pub(crate) fn shutdown() -> mpsc::Receiver<()> {
    let (sender, receiver) = mpsc::channel(4);
    for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
        let sender = sender.clone();
        match signal(kind) {
            Ok(mut signals) => {
                tokio::spawn(async move {
                    while signals.recv().await.is_some() {
                        // A full queue already says it four times.
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

/// Resolves at the first request. Without any listener it never does.
pub(crate) async fn first(mut requests: mpsc::Receiver<()>) {
    if requests.recv().await.is_none() {
        std::future::pending::<()>().await;
    }
}
