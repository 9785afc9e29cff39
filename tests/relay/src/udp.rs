//! A UDP relay: sockets and timers around two lanes, shared by all clients. Each client has a socket of its own towards
//! the server, as behind a NAT; [`UdpRelay::rebind`] gives each a fresh one.
//!
//! Refuses to know what passes. ECN marks are not carried over.

use std::{
    collections::HashMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use rustix::net::sockopt;
use tokio::{
    net::UdpSocket,
    sync::Notify,
    task::{AbortHandle, JoinSet},
    time,
};

use crate::core::lane::{Counts, Lane, Settings};

/// What is due so soon is sent at once: tokio's timers are late by up to 1 ms, so that what leaves is early or late by
/// half of that, and on time in the mean.
const EARLY: Duration = Duration::from_micros(500);

/// The longest datagram (RFC 768: a length of 16 bits).
const LONGEST: usize = 65_535;

/// Bytes asked of the kernel for each socket: a relay that drops what no setting asked for is of no use.
const SOCKET_BUFFER: usize = 8 * 1024 * 1024;

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the clients to the server.
    Up,
    /// From the server to the clients.
    Down,
}

/// A running relay. It ends when dropped.
pub struct UdpRelay {
    shared: Arc<Shared>,
    address: SocketAddr,
    _pumps: JoinSet<()>,
}

/// A datagram and the client that it is from or for.
type Packet = (SocketAddr, Vec<u8>);

/// One direction.
struct Way {
    lane: Mutex<Lane<Packet>>,
    /// There is something to send where nothing was.
    wake: Notify,
}

/// A client's socket towards the server.
struct Flow {
    socket: Arc<UdpSocket>,
    reader: AbortHandle,
}

#[derive(Default)]
struct Flows {
    server: Option<SocketAddr>,
    by_client: HashMap<SocketAddr, Flow>,
    /// Sockets from before a rebinding. They are kept, unread, so that no port comes twice and the server is told nothing.
    stale: Vec<Arc<UdpSocket>>,
}

struct Shared {
    /// Where clients send to.
    front: UdpSocket,
    flows: Mutex<Flows>,
    up: Way,
    down: Way,
}

impl UdpRelay {
    /// Binds a port on loopback. What comes before [`UdpRelay::lead_to`] names the server is lost when it should leave.
    ///
    /// # Errors
    /// When there is no port to be had.
    pub async fn start(up: Settings, down: Settings) -> anyhow::Result<Self> {
        let front = socket().await.context("bind the relay's port for clients")?;
        let address = front.local_addr().context("read the relay's address")?;
        let way = |settings| Way { lane: Mutex::new(Lane::new(settings)), wake: Notify::new() };
        let shared = Arc::new(Shared { front, flows: Mutex::default(), up: way(up), down: way(down) });
        let mut pumps = JoinSet::new();
        pumps.spawn(listen(shared.clone()));
        pumps.spawn(pump(shared.clone(), Direction::Up));
        pumps.spawn(pump(shared.clone(), Direction::Down));
        Ok(Self { shared, address, _pumps: pumps })
    }

    /// Where clients find the server.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Names the server, from now on.
    pub fn lead_to(&self, server: SocketAddr) {
        lock(&self.shared.flows).server = Some(server);
    }

    /// Begins or ends a black hole in one direction.
    pub fn set_hole(&self, direction: Direction, hole: bool) {
        lock(&self.shared.way(direction).lane).set_hole(hole);
    }

    /// From now on what clients send comes to the server from fresh ports, and what it sends to the old ones is lost: as
    /// when a NAT forgets its table.
    pub fn rebind(&self) {
        let mut flows = lock(&self.shared.flows);
        let Flows { by_client, stale, .. } = &mut *flows;
        stale.extend(by_client.drain().map(|(_, flow)| {
            flow.reader.abort();
            flow.socket
        }));
    }

    /// What became of the datagrams of a direction so far.
    pub fn counts(&self, direction: Direction) -> Counts {
        lock(&self.shared.way(direction).lane).counts()
    }
}

impl Drop for UdpRelay {
    fn drop(&mut self) {
        // The pumps end with their set; the readers hold the shared part, which holds their handles.
        self.rebind();
    }
}

impl Shared {
    fn way(&self, direction: Direction) -> &Way {
        match direction {
            Direction::Up => &self.up,
            Direction::Down => &self.down,
        }
    }

    /// The server, and the socket towards it for a client.
    async fn flow(self: &Arc<Self>, client: SocketAddr) -> io::Result<Option<(Arc<UdpSocket>, SocketAddr)>> {
        let known = |flows: &Flows| {
            let server = flows.server?;
            Some((flows.by_client.get(&client).map(|flow| flow.socket.clone()), server))
        };
        let (known, server) = match known(&lock(&self.flows)) {
            None => return Ok(None),
            Some(known) => known,
        };
        if let Some(socket) = known {
            return Ok(Some((socket, server)));
        }
        let socket = Arc::new(socket().await?);
        let reader = tokio::spawn(answers(self.clone(), socket.clone(), client)).abort_handle();
        // Nobody else makes flows: there is one pump in this direction.
        lock(&self.flows).by_client.insert(client, Flow { socket: socket.clone(), reader });
        Ok(Some((socket, server)))
    }

    async fn send(self: &Arc<Self>, direction: Direction, (client, data): Packet) -> io::Result<()> {
        match direction {
            Direction::Up => {
                if let Some((socket, server)) = self.flow(client).await? {
                    socket.send_to(&data, server).await?;
                }
            }
            Direction::Down => {
                self.front.send_to(&data, client).await?;
            }
        }
        Ok(())
    }
}

impl Way {
    fn offer(&self, client: SocketAddr, data: &[u8]) {
        let mut lane = lock(&self.lane);
        let idle = lane.deadline().is_none();
        lane.offer(Instant::now(), data.len(), (client, data.to_vec()));
        drop(lane);
        // What comes behind another never leaves before it.
        if idle {
            self.wake.notify_one();
        }
    }

    /// The next datagram that is due, or when to look again.
    fn next(&self) -> Result<Packet, Option<Instant>> {
        let mut lane = lock(&self.lane);
        lane.poll(Instant::now() + EARLY).ok_or_else(|| lane.deadline())
    }
}

/// Sends what is due, for ever.
async fn pump(shared: Arc<Shared>, direction: Direction) {
    let way = shared.way(direction);
    loop {
        match way.next() {
            // A datagram that cannot be sent is a datagram lost, as on any network.
            Ok(packet) => drop(shared.send(direction, packet).await),
            Err(Some(at)) => time::sleep_until(at.into()).await,
            Err(None) => way.wake.notified().await,
        }
    }
}

/// Takes in what clients send.
async fn listen(shared: Arc<Shared>) {
    let mut buffer = vec![0; LONGEST];
    loop {
        // An error here is about a datagram sent earlier.
        if let Ok((len, client)) = shared.front.recv_from(&mut buffer).await {
            shared.up.offer(client, &buffer[..len]);
        }
    }
}

/// Takes in what the server sends to one client.
async fn answers(shared: Arc<Shared>, socket: Arc<UdpSocket>, client: SocketAddr) {
    let mut buffer = vec![0; LONGEST];
    loop {
        if let Ok((len, _)) = socket.recv_from(&mut buffer).await {
            shared.down.offer(client, &buffer[..len]);
        }
    }
}

/// A socket on a port of its own, with large buffers.
async fn socket() -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    // Only a privileged process may go beyond the kernel's limit; others get what it gives.
    if sockopt::set_socket_recv_buffer_size_force(&socket, SOCKET_BUFFER).is_err() {
        sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER)?;
    }
    sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER)?;
    Ok(socket)
}

/// Each lock is held for a look-up only, so a panic elsewhere cannot have left it half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
