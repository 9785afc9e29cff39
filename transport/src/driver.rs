//! Runs quinn's drivers (the futures that move a connection's or an endpoint's packets) so that what one of them sends
//! in a turn leaves in as few calls as possible. quinn hands over up to ten datagrams at a time and gives way after
//! twenty; here they are gathered until the kernel's limit or until the driver has no more, and a driver that only gave
//! way is asked again at once. Owns the batch under way on each thread.

use std::{
    cell::RefCell,
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures::task::AtomicWaker;
use quinn::{UdpPoller, udp::EcnCodepoint};

use crate::{
    core::batch::{Batch, MAX_BYTES, Way},
    socket::Socket,
};

/// Turns of a driver that follow one another: five times three times [`MANY`] datagrams fill three calls, and then other
/// connections have theirs.
const TURNS: u32 = 5;

/// Datagrams that quinn makes at once for a connection that sends much: five times that, at 1452 bytes each, is what
/// fits into a call.
const MANY: usize = 9;

/// The same for one that has not filled a call in its last turn, such as a viewer's: quinn keeps memory for so many, or
/// for twice as many, with each connection.
const FEW: usize = 4;

/// Bytes of a call from which on a connection sends much.
const FULL: usize = MAX_BYTES / 2;

thread_local! {
    /// What the driver that has its turn on this thread sends.
    static UNDER_WAY: RefCell<Option<Outgoing>> = const { RefCell::new(None) };
    /// The memory of batches that have left.
    static SPARE: RefCell<Batch<EcnCodepoint>> = RefCell::default();
}

/// A batch, and the socket by which it leaves.
#[derive(Default)]
struct Outgoing {
    socket: Weak<Socket>,
    batch: Batch<EcnCodepoint>,
    /// Datagrams that are made at once.
    at_once: usize,
    /// A call was full.
    filled: bool,
}

impl Outgoing {
    fn flush(&mut self) -> io::Result<()> {
        // Without its socket nothing can leave, and nobody waits for it.
        self.socket.upgrade().map_or(Ok(()), |socket| socket.flush(&mut self.batch))
    }
}

/// Puts datagrams into the batch under way. `None` when no driver has its turn on this thread.
///
/// # Errors
/// `WouldBlock` when the batch is full and the kernel has no room for it.
pub(crate) fn join(
    socket: &Weak<Socket>,
    way: Way<EcnCodepoint>,
    segment: usize,
    bytes: &[u8],
    most: usize,
) -> Option<io::Result<()>> {
    UNDER_WAY.with_borrow_mut(|under_way| {
        let outgoing = under_way.as_mut()?;
        if outgoing.socket.ptr_eq(socket) && outgoing.batch.join(way, segment, bytes, most) {
            return Some(Ok(()));
        }
        outgoing.filled |= outgoing.batch.len() >= FULL;
        if let Err(error) = outgoing.flush() {
            return Some(Err(error));
        }
        outgoing.socket.clone_from(socket);
        // Empty, so it takes anything.
        outgoing.batch.join(way, segment, bytes, most);
        Some(Ok(()))
    })
}

/// Datagrams that whoever has its turn on this thread is to make at once.
pub(crate) fn at_once() -> usize {
    UNDER_WAY.with_borrow(|under_way| under_way.as_ref().map_or(MANY, |outgoing| outgoing.at_once))
}

/// One of quinn's drivers.
pub(crate) struct Driver {
    inner: Pin<Box<dyn Future<Output = ()> + Send>>,
    turn: Arc<Turn>,
    waker: Waker,
    /// What the kernel had no room for.
    blocked: Option<(Outgoing, Pin<Box<dyn UdpPoller>>)>,
    /// It filled a call in its last turn.
    sends_much: bool,
    /// It is over, and only what is blocked still has to leave.
    over: bool,
}

impl Driver {
    pub(crate) fn new(inner: Pin<Box<dyn Future<Output = ()> + Send>>) -> Self {
        let turn = Arc::new(Turn::default());
        Self { inner, waker: turn.clone().into(), turn, blocked: None, sends_much: false, over: false }
    }

    /// Tries again to send what is blocked.
    fn unblock(&mut self) {
        let waits = &mut Context::from_waker(&self.waker);
        // From here on whatever wakes it wakes the task, also when it is over and has no more turns.
        self.turn.state.store(ASLEEP, Ordering::SeqCst);
        while let Some((outgoing, poller)) = &mut self.blocked {
            match poller.as_mut().poll_writable(waits) {
                Poll::Pending => return,
                // An error that is no lack of room is the socket's own; quinn hears of it when it sends next.
                Poll::Ready(Err(_)) => self.blocked = None,
                Poll::Ready(Ok(())) => {
                    if outgoing.flush().is_ok() {
                        self.blocked = None;
                    }
                }
            }
        }
    }

    /// Lets the driver send, and sends it.
    fn drive(&mut self) {
        let mut outgoing = match self.blocked.take() {
            Some((outgoing, _)) => outgoing,
            None => Outgoing { batch: SPARE.take(), ..Outgoing::default() },
        };
        outgoing.at_once = if self.sends_much { MANY } else { FEW };
        outgoing.filled = false;
        UNDER_WAY.set(Some(outgoing));
        self.over = self.turns().is_ready();
        let mut outgoing = UNDER_WAY.take().unwrap_or_default();
        self.sends_much = outgoing.filled;
        match (outgoing.flush(), outgoing.socket.upgrade()) {
            (Err(error), Some(socket)) if error.kind() == io::ErrorKind::WouldBlock => {
                self.blocked = Some((outgoing, socket.poller()));
                self.unblock();
            }
            _ => {
                outgoing.batch.clear();
                SPARE.set(outgoing.batch);
            }
        }
    }

    fn turns(&mut self) -> Poll<()> {
        let waits = &mut Context::from_waker(&self.waker);
        for _ in 0..TURNS {
            self.turn.begin();
            let polled = self.inner.as_mut().poll(waits);
            if polled.is_ready() || self.turn.end() {
                return polled;
            }
        }
        // It would go on; others are waiting.
        self.turn.task.wake();
        Poll::Pending
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.turn.task.register(cx.waker());
        if self.blocked.is_some() {
            self.unblock();
        }
        if !self.over {
            self.drive();
        }
        if self.over && self.blocked.is_none() { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// What wakes a driver. While it has its turn, waking only has it asked once more.
#[derive(Default)]
struct Turn {
    state: AtomicU8,
    task: AtomicWaker,
}

const ASLEEP: u8 = 0;
const AT_WORK: u8 = 1;
const WOKEN: u8 = 2;

impl Turn {
    fn begin(&self) {
        self.state.store(AT_WORK, Ordering::SeqCst);
    }

    /// Whether nothing woke it meanwhile, so that it sleeps from here on.
    fn end(&self) -> bool {
        self.state.compare_exchange(AT_WORK, ASLEEP, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

impl Wake for Turn {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.swap(WOKEN, Ordering::SeqCst) == ASLEEP {
            self.task.wake();
        }
    }
}

#[cfg(test)]
mod tests;
