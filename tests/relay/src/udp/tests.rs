//! Real sockets on loopback. Waits for what arrives, never for time.

use super::*;

async fn pair(up: Settings, down: Settings) -> (UdpRelay, Entrance, UdpSocket, UdpSocket) {
    let relay = UdpRelay::start(up, down);
    let entrance = relay.entrance().await.expect("a port");
    let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket");
    entrance.forward_to(server.local_addr().expect("bound"));
    (relay, entrance, server, UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket"))
}

async fn receive(socket: &UdpSocket) -> (u8, SocketAddr) {
    let mut buffer = [0; 9];
    let (len, from) = socket.recv_from(&mut buffer).await.expect("something");
    assert_eq!(len, 1);
    (buffer[0], from)
}

#[tokio::test]
async fn clients_have_ports_of_their_own_and_get_fresh_ones() {
    let (relay, entrance, server, one) = pair(Settings::default(), Settings::default()).await;
    let two = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a socket");
    let mut ports = Vec::new();
    for _ in 0..3 {
        for (client, byte) in [(&one, 1), (&two, 2)] {
            client.send_to(&[byte], entrance.address()).await.expect("sent");
            let (got, from) = receive(&server).await;
            assert_eq!(got, byte);
            server.send_to(&[byte + 10], from).await.expect("sent");
            assert_eq!(receive(client).await, (byte + 10, entrance.address()));
            ports.push(from.port());
        }
        relay.rebind();
    }
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 6);
    assert_eq!((relay.counts(Direction::Up).datagrams, relay.counts(Direction::Down).bytes), (6, 6));
}

#[tokio::test]
async fn directions_have_settings_of_their_own() {
    let delay = Duration::from_millis(30);
    let lossy = Settings { loss_ppm: 500_000, seed: 3, ..Settings::default() };
    let (relay, entrance, server, client) = pair(lossy, Settings { delay, ..Settings::default() }).await;
    for byte in 0..50 {
        client.send_to(&[byte], entrance.address()).await.expect("sent");
    }
    let passed: Vec<u8> = (0..50).filter(|n| !lossy.loses(u64::from(*n))).collect();
    let mut from = None;
    for byte in &passed {
        let (got, port) = receive(&server).await;
        assert_eq!(got, *byte);
        from = Some(port);
    }
    assert_eq!(relay.counts(Direction::Up).lost, 50 - passed.len() as u64);

    // The hole is one way: what the client sends still arrives.
    let from = from.expect("half of them");
    relay.set_hole(Direction::Down, true);
    server.send_to(&[1], from).await.expect("sent");
    while relay.counts(Direction::Down).swallowed < 1 {
        tokio::task::yield_now().await;
    }
    relay.set_hole(Direction::Down, false);
    let sent = Instant::now();
    server.send_to(&[2], from).await.expect("sent");
    assert_eq!(receive(&client).await.0, 2);
    assert!(sent.elapsed() + EARLY >= delay, "never earlier than the timers allow");
}

#[tokio::test]
async fn entrances_forward_to_servers_of_their_own_over_one_link() {
    let (relay, _door, _server, client) = pair(Settings::default(), Settings::default()).await;
    let mut entrances = Vec::new();
    for byte in 0..3 {
        let (entrance, server) =
            (relay.entrance().await.expect("a port"), UdpSocket::bind("127.0.0.1:0").await.expect("a socket"));
        entrance.forward_to(server.local_addr().expect("bound"));
        client.send_to(&[byte], entrance.address()).await.expect("sent");
        let (got, from) = receive(&server).await;
        server.send_to(&[got], from).await.expect("sent");
        assert_eq!(receive(&client).await, (byte, entrance.address()));
        entrances.push((entrance, server));
    }
    assert_eq!(relay.counts(Direction::Down).datagrams, 3);
    relay.set(Direction::Down, Settings { loss_ppm: 1_000_000, ..Settings::default() });
    assert_eq!(relay.counts(Direction::Down), Counts::default());
}
