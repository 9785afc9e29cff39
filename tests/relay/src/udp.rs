//! A UDP relay: sockets and timers around two lanes, shared by all clients and servers. Each client has a socket of its
//! own towards the server, as behind a NAT; [`UdpRelay::rebind`] gives each a fresh one.
//!
//! Does not look into datagrams. ECN marks are not carried over.

use std::{
    collections::HashMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
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

use crate::{
    core::lane::{Counts, Lane, Settings},
    sync::lock,
};

/// A datagram that is due within this time is sent at once. Tokio's timers are late by up to 1 ms; with this, datagrams leave
/// up to 0.5 ms early or late, and on time on average.
const EARLY: Duration = Duration::from_micros(500);

/// The longest datagram (RFC 768: a length of 16 bits).
const LONGEST: usize = 65_535;

/// Buffer of each socket, in bytes: a relay must drop only the datagrams that its settings say.
const SOCKET_BUFFER: usize = 8 * 1024 * 1024;

/// Direction of datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the clients to the server.
    Up,
    /// From the server to the clients.
    Down,
}

/// A running relay: one link that all clients and servers share. It ends when dropped.
pub struct UdpRelay {
    shared: Arc<Shared>,
    _pumps: JoinSet<()>,
}

/// A port of the relay that forwards to one server.
pub struct Entrance {
    shared: Arc<Shared>,
    number: usize,
    address: SocketAddr,
}

/// The sender or receiver of a datagram: the number of an entrance, and a client there.
type Client = (usize, SocketAddr);

/// One direction.
struct OneWay {
    lane: Mutex<Lane<(Client, Vec<u8>)>>,
    /// The next datagram to leave has changed.
    wake: Notify,
}

/// The server behind an entrance.
struct Backend {
    /// The socket that clients send to.
    front: Arc<UdpSocket>,
    /// The server's address. Datagrams that are due before it is known are lost.
    server: Option<SocketAddr>,
}

/// A client's socket towards its server.
struct Flow {
    socket: Arc<UdpSocket>,
    reader: AbortHandle,
}

#[derive(Default)]
struct Flows {
    backends: Vec<Backend>,
    by_client: HashMap<Client, Flow>,
    /// Sockets from before a rebinding. They are kept, unread, so that no port is used twice and the server gets no error.
    stale: Vec<Arc<UdpSocket>>,
    /// Tasks that receive from clients.
    listeners: JoinSet<()>,
}

struct Shared {
    flows: Mutex<Flows>,
    up: OneWay,
    down: OneWay,
}

impl UdpRelay {
    /// Starts a relay without entrances.
    pub fn start(up: Settings, down: Settings) -> Self {
        let way = |settings| OneWay { lane: Mutex::new(Lane::new(settings)), wake: Notify::new() };
        let shared = Arc::new(Shared { flows: Mutex::default(), up: way(up), down: way(down) });
        let mut pumps = JoinSet::new();
        pumps.spawn(pump(shared.clone(), Direction::Up));
        pumps.spawn(pump(shared.clone(), Direction::Down));
        Self { shared, _pumps: pumps }
    }

    /// Binds a port on loopback for clients of one server; [`Entrance::forward_to`] sets the server.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn entrance(&self) -> anyhow::Result<Entrance> {
        let front = Arc::new(socket().await.context("bind a port of the relay")?);
        let address = front.local_addr().context("read the relay's address")?;
        let mut flows = lock(&self.shared.flows);
        let number = flows.backends.len();
        flows.backends.push(Backend { front: front.clone(), server: None });
        flows.listeners.spawn(listen(self.shared.clone(), number, front));
        Ok(Entrance { shared: self.shared.clone(), number, address })
    }

    /// Restarts a direction with other settings: datagrams on their way are lost, and the counts are 0.
    pub fn set(&self, direction: Direction, settings: Settings) {
        let way = self.shared.way(direction);
        *lock(&way.lane) = Lane::new(settings);
        way.wake.notify_one();
    }

    /// Begins or ends a black hole in one direction.
    pub fn set_hole(&self, direction: Direction, hole: bool) {
        lock(&self.shared.way(direction).lane).set_hole(hole);
    }

    /// Gives each client a fresh port towards its server; datagrams to the old ones are lost, as when a NAT loses its table.
    pub fn rebind(&self) {
        let mut flows = lock(&self.shared.flows);
        let Flows { by_client, stale, .. } = &mut *flows;
        stale.extend(by_client.drain().map(|(_, flow)| {
            flow.reader.abort();
            flow.socket
        }));
    }

    /// Counts of a direction's datagrams so far.
    pub fn counts(&self, direction: Direction) -> Counts {
        lock(&self.shared.way(direction).lane).counts()
    }
}

impl Drop for UdpRelay {
    fn drop(&mut self) {
        // The pumps end with their set; readers and listeners hold the state that holds their handles.
        self.rebind();
        lock(&self.shared.flows).listeners.abort_all();
    }
}

impl Entrance {
    /// The address that clients use for the server.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets the server.
    pub fn forward_to(&self, server: SocketAddr) {
        lock(&self.shared.flows).backends[self.number].server = Some(server);
    }
}

impl Shared {
    fn way(&self, direction: Direction) -> &OneWay {
        match direction {
            Direction::Up => &self.up,
            Direction::Down => &self.down,
        }
    }

    async fn send(self: &Arc<Self>, direction: Direction, client: Client, data: &[u8]) -> io::Result<()> {
        match direction {
            Direction::Up => self.send_up(client, data).await,
            Direction::Down => {
                let front = lock(&self.flows).backends[client.0].front.clone();
                front.send_to(data, client.1).await.map(|_| ())
            }
        }
    }

    /// Sends from the client's own socket to the server; the first datagram of a client creates the socket.
    async fn send_up(self: &Arc<Self>, client: Client, data: &[u8]) -> io::Result<()> {
        let (server, known) = {
            let flows = lock(&self.flows);
            (flows.backends[client.0].server, flows.by_client.get(&client).map(|flow| flow.socket.clone()))
        };
        let Some(server) = server else { return Ok(()) };
        let socket = match known {
            Some(socket) => socket,
            None => {
                let socket = Arc::new(socket().await?);
                let reader = tokio::spawn(answers(self.clone(), client, socket.clone())).abort_handle();
                // No other task creates flows: there is one pump in this direction.
                lock(&self.flows).by_client.insert(client, Flow { socket: socket.clone(), reader });
                socket
            }
        };
        socket.send_to(data, server).await.map(|_| ())
    }
}

impl OneWay {
    fn offer(&self, client: Client, data: &[u8]) {
        let mut lane = lock(&self.lane);
        let idle = lane.deadline().is_none();
        lane.offer(Instant::now(), data.len(), (client, data.to_vec()));
        drop(lane);
        // A datagram never overtakes another.
        if idle {
            self.wake.notify_one();
        }
    }

    /// The next datagram that is due, or the time at which one will be.
    fn next(&self) -> Result<(Client, Vec<u8>), Option<Instant>> {
        let mut lane = lock(&self.lane);
        lane.poll(Instant::now() + EARLY).ok_or_else(|| lane.deadline())
    }
}

/// Sends datagrams when they are due, without end.
async fn pump(shared: Arc<Shared>, direction: Direction) {
    let way = shared.way(direction);
    loop {
        match way.next() {
            // A datagram that cannot be sent is lost, as on any network.
            Ok((client, data)) => drop(shared.send(direction, client, &data).await),
            Err(Some(at)) => tokio::select! {
                () = time::sleep_until(at.into()) => {}
                () = way.wake.notified() => {}
            },
            Err(None) => way.wake.notified().await,
        }
    }
}

/// Receives the datagrams of clients at an entrance.
async fn listen(shared: Arc<Shared>, entrance: usize, front: Arc<UdpSocket>) {
    let mut buffer = vec![0; LONGEST];
    loop {
        // An error here concerns a datagram sent earlier.
        if let Ok((len, client)) = front.recv_from(&mut buffer).await {
            shared.up.offer((entrance, client), &buffer[..len]);
        }
    }
}

/// Receives the server's datagrams to one client.
async fn answers(shared: Arc<Shared>, client: Client, socket: Arc<UdpSocket>) {
    let mut buffer = vec![0; LONGEST];
    loop {
        if let Ok((len, _)) = socket.recv_from(&mut buffer).await {
            shared.down.offer(client, &buffer[..len]);
        }
    }
}

/// A socket on a new port, with large buffers.
async fn socket() -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    // Only a privileged process may exceed the kernel's limit; others get that limit.
    if sockopt::set_socket_recv_buffer_size_force(&socket, SOCKET_BUFFER).is_err() {
        sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER)?;
    }
    sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER)?;
    Ok(socket)
}

#[cfg(test)]
mod tests;
