//! Load beside the tests: threads that compute without end, so that every other program waits for its turn as on a shared
//! machine. Owns nothing but them.

use std::hint;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

/// Loops at once: as many as the cores of the smallest machine that builds this.
const LOOPS: usize = 2;

/// Busy loops, ended when dropped.
pub(crate) struct Busy {
    stop: Arc<AtomicBool>,
    loops: Vec<JoinHandle<()>>,
}

impl Busy {
    /// Starts the loops.
    pub(crate) fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let spin = |stop: Arc<AtomicBool>| {
            move || {
                while !stop.load(Ordering::Relaxed) {
                    hint::spin_loop();
                }
            }
        };
        let loops = (0..LOOPS).map(|_| thread::spawn(spin(Arc::clone(&stop)))).collect();
        Self { stop, loops }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for one in self.loops.drain(..) {
            // A loop that panicked has ended, too.
            drop(one.join());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loops_end_when_dropped() {
        let busy = Busy::start();
        assert_eq!(busy.loops.len(), LOOPS);
        let stop = Arc::clone(&busy.stop);
        drop(busy);
        assert_eq!(Arc::strong_count(&stop), 1, "no loop is left");
    }
}
