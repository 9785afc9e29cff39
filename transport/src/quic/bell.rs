//! Wakes a driver, however often it is rung for before that, once.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    task::Context,
};

use futures::task::AtomicWaker;

/// One driver's bell.
#[derive(Debug, Default)]
pub(super) struct Bell {
    driver: AtomicWaker,
    rung: AtomicBool,
}

impl Bell {
    /// The driver begins its turn: whoever rings from here on wakes it again.
    pub(super) fn answer(&self, cx: &Context<'_>) {
        self.driver.register(cx.waker());
        self.rung.store(false, Ordering::SeqCst);
    }

    /// There is something to do.
    pub(super) fn ring(&self) {
        if !self.rung.swap(true, Ordering::SeqCst) {
            self.driver.wake();
        }
    }
}
