//! The thread on which sockets are read, packets decrypted and streams gathered: one for all connections of a process, so
//! that a packet is never handed from core to core before its bytes are together. Refuses to know what they are.

use std::{net::UdpSocket, pin::Pin, sync::Arc, time::Instant};

use quinn::{AsyncTimer, AsyncUdpSocket, Endpoint, EndpointConfig, Runtime, TokioRuntime};
use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
    task::JoinHandle,
};

/// A running thread; it ends, and all that runs on it, when this is dropped.
#[derive(Debug)]
pub(super) struct Media {
    handle: Handle,
    _until_dropped: oneshot::Sender<()>,
}

impl Media {
    /// Starts the thread.
    pub(super) fn start() -> std::io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (until_dropped, dropped) = oneshot::channel::<()>();
        std::thread::Builder::new().name("media".to_owned()).spawn(move || {
            // Nothing is ever sent; the error is the end.
            drop(runtime.block_on(dropped));
            runtime.shutdown_background();
        })?;
        Ok(Self { handle, _until_dropped: until_dropped })
    }

    /// An endpoint that runs there, and all of whose connections do.
    pub(super) fn endpoint(&self, socket: UdpSocket) -> std::io::Result<Endpoint> {
        Endpoint::new(EndpointConfig::default(), None, socket, Arc::new(There(self.handle.clone())))
    }

    /// Runs a task there.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        self.handle.spawn(task)
    }
}

/// Whatever quinn starts runs on the thread of this handle, whoever calls.
#[derive(Debug)]
struct There(Handle);

impl Runtime for There {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        let _there = self.0.enter();
        TokioRuntime.new_timer(at)
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        drop(self.0.spawn(future));
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> std::io::Result<Arc<dyn AsyncUdpSocket>> {
        let _there = self.0.enter();
        TokioRuntime.wrap_udp_socket(socket)
    }
}
