//! Media threads: each runs a single-threaded runtime. A connection stays on one of them with all of its sessions, so that
//! no packet, lock or wake-up crosses from core to core.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use tokio::{runtime, sync::oneshot};

/// A set of threads. Dropping it ends them and all tasks on them.
#[derive(Debug)]
pub struct Threads(Vec<Thread>);

#[derive(Debug)]
struct Thread {
    handle: runtime::Handle,
    /// Number of connections on the thread.
    load: Arc<AtomicUsize>,
    /// Dropping it ends the thread.
    _stop: oneshot::Sender<()>,
}

/// A connection's slot on a thread, counted until it is dropped.
#[derive(Debug)]
pub struct ThreadSlot {
    handle: runtime::Handle,
    load: Arc<AtomicUsize>,
}

impl Threads {
    /// Starts `count` threads, at least one.
    ///
    /// # Errors
    /// The operating system refused a thread or its event queue.
    pub fn start(count: usize) -> io::Result<Self> {
        (0..count.max(1)).map(Thread::start).collect::<io::Result<_>>().map(Self)
    }

    /// The runtime of thread `number`, modulo the number of threads.
    pub fn handle(&self, number: usize) -> &runtime::Handle {
        &self.0[number % self.0.len()].handle
    }

    /// Takes a slot on the thread with the fewest connections; the first of these.
    pub fn take_slot(&self) -> ThreadSlot {
        let thread = self.0.iter().min_by_key(|thread| thread.load.load(Ordering::Relaxed));
        let thread = thread.expect("there is at least one thread");
        thread.load.fetch_add(1, Ordering::Relaxed);
        ThreadSlot { handle: thread.handle.clone(), load: thread.load.clone() }
    }
}

impl Thread {
    fn start(number: usize) -> io::Result<Self> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let run = move || {
            // Ends when the sender is dropped.
            drop(runtime.block_on(stopped));
            // A blocking read of a failing disk must not hold up the end of the process.
            runtime.shutdown_background();
        };
        thread::Builder::new().name(format!("usher-media-{number}")).spawn(run)?;
        Ok(Self { handle, load: Arc::default(), _stop: stop })
    }
}

impl ThreadSlot {
    /// The runtime of the slot's thread.
    pub fn handle(&self) -> &runtime::Handle {
        &self.handle
    }
}

impl Drop for ThreadSlot {
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
        let name = async |slot: &ThreadSlot| {
            let name = slot.handle().spawn(async { thread::current().name().map(str::to_owned) }).await;
            name.expect("runs").expect("has a name")
        };
        let slots = [threads.take_slot(), threads.take_slot(), threads.take_slot()];
        assert_eq!(name(&slots[0]).await, "usher-media-0");
        assert_eq!(name(&slots[1]).await, "usher-media-1");
        assert_eq!(name(&slots[2]).await, "usher-media-0");
        drop(slots);
        assert_eq!(name(&threads.take_slot()).await, "usher-media-0");
        // Tasks end with their threads.
        let slot = threads.take_slot();
        let waits = slot.handle().spawn(std::future::pending::<()>());
        drop(threads);
        assert!(waits.await.is_err_and(|error| error.is_cancelled()));
    }
}
