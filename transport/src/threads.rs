//! Media threads: each runs its own single-threaded runtime, and a connection lives on one of them with all of its
//! sessions, so that no packet, lock or wake-up crosses from core to core.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use tokio::{runtime, sync::oneshot};

/// The threads. They end when it is dropped, and what runs on them with it.
#[derive(Debug)]
pub struct Threads(Vec<Thread>);

#[derive(Debug)]
struct Thread {
    handle: runtime::Handle,
    /// Connections that live here.
    load: Arc<AtomicUsize>,
    /// Dropped, it ends the thread.
    _stop: oneshot::Sender<()>,
}

/// A connection's place on a thread, counted until it is dropped.
#[derive(Debug)]
pub struct Place {
    handle: runtime::Handle,
    load: Arc<AtomicUsize>,
}

impl Threads {
    /// Starts so many threads, at least one.
    ///
    /// # Errors
    /// What the operating system has against another thread, or its event queue.
    pub fn start(count: usize) -> io::Result<Self> {
        (0..count.max(1)).map(Thread::start).collect::<io::Result<_>>().map(Self)
    }

    /// The runtime of a thread, counted round from the first: for what is made there, such as an endpoint.
    pub fn handle(&self, number: usize) -> &runtime::Handle {
        &self.0[number % self.0.len()].handle
    }

    /// A place on the thread where the fewest connections live, the first of these.
    pub fn place(&self) -> Place {
        let thread = self.0.iter().min_by_key(|thread| thread.load.load(Ordering::Relaxed));
        let thread = thread.expect("there is at least one thread");
        thread.load.fetch_add(1, Ordering::Relaxed);
        Place { handle: thread.handle.clone(), load: thread.load.clone() }
    }
}

impl Thread {
    fn start(number: usize) -> io::Result<Self> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let run = move || {
            // Its sender says nothing; it is dropped.
            drop(runtime.block_on(stopped));
            // A read that hangs on a disk must not keep the process.
            runtime.shutdown_background();
        };
        thread::Builder::new().name(format!("usher-media-{number}")).spawn(run)?;
        Ok(Self { handle, load: Arc::default(), _stop: stop })
    }
}

impl Place {
    /// The runtime there.
    pub fn handle(&self) -> &runtime::Handle {
        &self.handle
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.load.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_spread_over_the_threads() {
        let threads = Threads::start(2).expect("threads");
        let name = async |place: &Place| {
            let name = place.handle().spawn(async { thread::current().name().map(str::to_owned) }).await;
            name.expect("runs").expect("has a name")
        };
        let places = [threads.place(), threads.place(), threads.place()];
        assert_eq!(name(&places[0]).await, "usher-media-0");
        assert_eq!(name(&places[1]).await, "usher-media-1");
        assert_eq!(name(&places[2]).await, "usher-media-0");
        drop(places);
        assert_eq!(name(&threads.place()).await, "usher-media-0");
        // What runs there ends with them.
        let place = threads.place();
        let waits = place.handle().spawn(std::future::pending::<()>());
        drop(threads);
        assert!(waits.await.is_err_and(|error| error.is_cancelled()));
    }
}
