//! Drivers of our own, a plain socket at the other end, and wakers pulled from without.

use std::{future::poll_fn, net::UdpSocket, time::Duration};

use quinn::{AsyncUdpSocket as _, udp::Transmit};

use super::*;
use crate::Offload;

/// What a plain socket receives of datagrams that a driver sends over several turns, each after the other at once.
async fn received(offload: Offload, sizes: &[usize]) -> Vec<Vec<u8>> {
    let receiver = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    receiver.set_read_timeout(Some(Duration::from_secs(30))).expect("set");
    let to = receiver.local_addr().expect("an address");
    let socket = Socket::new(UdpSocket::bind("127.0.0.1:0").expect("a socket"), offload).expect("a socket");
    // Until the reactor has looked at it, a new socket seems to have no room: the first of what is sent waits for that.
    let mut poller = socket.clone().poller();
    let mut left: Vec<(usize, usize)> = sizes.iter().copied().enumerate().rev().collect();
    let count = left.len();
    let driver = poll_fn(move |cx| {
        // Two a turn, as one that gives way to others.
        for _ in 0..2 {
            let Some((number, size)) = left.last().copied() else { return Poll::Ready(()) };
            let contents = vec![u8::try_from(number).expect("few"); size];
            let sent = Transmit { destination: to, ecn: None, contents: &contents, segment_size: None, src_ip: None };
            while socket.try_send(&sent).is_err() {
                if poller.as_mut().poll_writable(cx).is_pending() {
                    return Poll::Pending;
                }
            }
            left.pop();
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    });
    tokio::spawn(Driver::new(Box::pin(driver))).await.expect("runs");
    let mut buffer = [0; 2000];
    (0..count).map(|_| receiver.recv(&mut buffer).map(|len| buffer[..len].to_vec()).expect("arrives")).collect()
}

#[tokio::test]
async fn every_datagram_leaves_as_it_was_and_in_order() {
    let sizes: Vec<usize> = (0..60).map(|number| if number % 7 == 6 { 700 } else { 1200 }).collect();
    let expected: Vec<Vec<u8>> = sizes.iter().zip(0..).map(|(size, number)| vec![number; *size]).collect();
    for offload in [Offload::Auto, Offload::Off] {
        assert_eq!(received(offload, &sizes).await, expected, "{offload:?}");
    }
}

#[tokio::test]
async fn a_driver_that_is_woken_while_it_works_is_asked_again() {
    let (wakers, taken) = std::sync::mpsc::channel::<Waker>();
    let mut turns = 0;
    let driver = poll_fn(move |cx| {
        turns += 1;
        wakers.send(cx.waker().clone()).expect("taken");
        // More often than it may go on at once.
        if turns < 20 {
            cx.waker().wake_by_ref();
            Poll::Pending
        } else if turns < 22 {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    });
    let driver = tokio::spawn(Driver::new(Box::pin(driver)));
    while !driver.is_finished() {
        // From without, at any time.
        taken.try_iter().for_each(|waker| waker.wake());
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn many_are_made_at_once_while_calls_are_filled() {
    let receiver = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let to = receiver.local_addr().expect("an address");
    let socket = Socket::new(UdpSocket::bind("127.0.0.1:0").expect("a socket"), Offload::Auto).expect("a socket");
    let most = socket.max_transmit_segments();
    let mut poller = socket.clone().poller();
    poll_fn(|cx| poller.as_mut().poll_writable(cx)).await.expect("has room");
    // What one turn after the other sends, and how many it is to make at once.
    let mut turns = [0, 60, 60, 5, 0].into_iter();
    let (told, said) = std::sync::mpsc::channel();
    let driver = poll_fn(move |cx| {
        let Some(count) = turns.next() else { return Poll::Ready(()) };
        told.send(socket.max_transmit_segments()).expect("taken");
        for _ in 0..count {
            let contents = &[0; 1200];
            let sent = Transmit { destination: to, ecn: None, contents, segment_size: None, src_ip: None };
            socket.try_send(&sent).expect("has room");
        }
        // Later, so that this turn is over.
        let waker = cx.waker().clone();
        tokio::spawn(async move { waker.wake() });
        Poll::Pending
    });
    tokio::spawn(Driver::new(Box::pin(driver))).await.expect("runs");
    let few = most.min(FEW);
    assert_eq!(said.iter().collect::<Vec<_>>(), [few, few, most, most, few]);
}
