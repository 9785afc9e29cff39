//! Wakes a driver once, however often it is asked to before the driver runs.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    task::Context,
};

use futures::task::AtomicWaker;

/// The waker of one driver.
#[derive(Debug, Default)]
pub(super) struct DriverWaker {
    waker: AtomicWaker,
    woken: AtomicBool,
}

impl DriverWaker {
    /// Registers the driver at the start of a poll. A wake from here on runs it again.
    pub(super) fn register(&self, cx: &Context<'_>) {
        self.waker.register(cx.waker());
        self.woken.store(false, Ordering::SeqCst);
    }

    /// Wakes the driver, unless that is already under way.
    pub(super) fn wake(&self) {
        if !self.woken.swap(true, Ordering::SeqCst) {
            self.waker.wake();
        }
    }
}
