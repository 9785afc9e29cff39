//! Hashes titles in the background: those that someone waits for first, then the small ones, so that most titles have
//! a content id soon. Knows files by their copies only.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    fs::File,
    io,
    path::Path,
    sync::{Condvar, Mutex, PoisonError, atomic::Ordering},
};

use usher_proto::tree::{Builder, GROUP, Hashes};

use super::{
    catalog::{Key, lock},
    open::read_at,
    shared::Shared,
    volume::{Fingerprint, Node},
    watch::Message,
};

/// Bytes of one read.
const READ: usize = 1 << 20;

#[derive(Default)]
struct State {
    urgent: VecDeque<Key>,
    waiting: BinaryHeap<Reverse<(u64, Key)>>,
    stopped: bool,
}

/// Titles that wait to be hashed. What changed or went meanwhile is found out when its turn comes.
#[derive(Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    wake: Condvar,
}

impl Queue {
    /// Adds a title of `size` bytes.
    pub(crate) fn push(&self, key: Key, size: u64) {
        lock(&self.state).waiting.push(Reverse((size, key)));
        self.wake.notify_one();
    }

    /// Moves a title to the front.
    pub(crate) fn hurry(&self, key: Key) {
        let mut state = lock(&self.state);
        if !state.urgent.contains(&key) {
            state.urgent.push_back(key);
        }
        drop(state);
        self.wake.notify_one();
    }

    /// Ends [`Self::next`].
    pub(crate) fn stop(&self) {
        lock(&self.state).stopped = true;
        self.wake.notify_all();
    }

    /// Waits for a title; `None` when it is over. True for one that someone waits for.
    fn next(&self) -> Option<(Key, bool)> {
        let mut state = lock(&self.state);
        loop {
            if state.stopped {
                return None;
            }
            if let Some(key) = state.urgent.pop_front() {
                return Some((key, true));
            }
            if let Some(Reverse((_, key))) = state.waiting.pop() {
                return Some((key, false));
            }
            // A long list that was worked off leaves its room behind.
            state.waiting.shrink_to_fit();
            state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn urgent(&self) -> Option<Key> {
        lock(&self.state).urgent.pop_front()
    }
}

/// Hashes until the library is closed.
pub(crate) fn run(shared: &Shared) {
    let mut buf = vec![0; READ];
    while let Some((key, urgent)) = shared.queue.next() {
        title(shared, &key, urgent, &mut buf);
    }
}

fn title(shared: &Shared, key: &Key, urgent: bool, buf: &mut [u8]) {
    let Some(copy) = shared.catalog.copy(key).filter(|copy| copy.content.is_none()) else { return };
    let path = Path::new(key.0.as_str());
    let (Some(volume), Some(index_key)) = (shared.volume(key.1), shared.copy_key(key)) else { return };
    let unreadable = |error: &dyn std::fmt::Display| {
        let message = Message::Unreadable(key.1, path.to_owned(), copy.id, format!("cannot be read: {error}"));
        // Fails only when the keeper ended before.
        drop(shared.keeper.send(message));
    };
    let entry = match shared.index.entry(&index_key) {
        Ok(entry) => entry.filter(|entry| entry.id == copy.id),
        Err(error) => return tracing::error!(title = %key.0, error = format!("{error:#}"), "index cannot be read"),
    };
    let (Some(entry), node) = (entry, volume.open_node(path)) else { return };
    let file = match node {
        Ok(Node::File(file, fingerprint)) if fingerprint == entry.fingerprint => file,
        Ok(_) => return shared.look_again(key.1, path),
        Err(error) => return unreadable(&error),
    };
    let hashes = match hash(shared, key, (&file, entry.fingerprint), urgent, buf) {
        Ok(Some(hashes)) => hashes,
        Ok(None) if shared.stopping() => return,
        Ok(None) => return shared.look_again(key.1, path),
        Err(error) => return unreadable(&error),
    };
    match shared.index.hashed(&index_key, entry.id, &hashes) {
        Ok(true) => {
            shared.catalog.hashed(key, entry.id, hashes.content);
        }
        Ok(false) => {} // Another state of the file is in the index, and in the queue.
        Err(error) => tracing::error!(title = %key.0, error = format!("{error:#}"), "index cannot be written"),
    }
    shared.tick();
}

/// Hashes a file; `None` when it changed on the way, or the library is closed.
fn hash(
    shared: &Shared,
    key: &Key,
    (file, fingerprint): (&File, Fingerprint),
    mut urgent: bool,
    buf: &mut [u8],
) -> io::Result<Option<Hashes>> {
    let (mut builder, mut offset) = (Builder::default(), 0);
    while offset < fingerprint.size {
        // Who waits for a clip does not wait for the film before it. One level deep: the urgent do not overtake.
        while !urgent && let Some(wanted) = shared.queue.urgent() {
            if wanted == *key {
                urgent = true; // Half done is not begun again.
            } else {
                title(shared, &wanted, true, buf);
            }
        }
        if shared.stopping() {
            return Ok(None);
        }
        let got = read_at(file, offset, buf)?;
        if got == 0 {
            break;
        }
        buf[..got].chunks(GROUP as usize).for_each(|group| builder.push(group));
        offset += got as u64;
        shared.hashed_bytes.fetch_add(got as u64, Ordering::Relaxed);
    }
    let same = offset == fingerprint.size && Fingerprint::of(file)? == Some(fingerprint);
    Ok(same.then(|| builder.finish()))
}

#[cfg(test)]
mod tests {
    use usher_proto::Title;

    use super::*;

    #[test]
    fn the_urgent_then_the_small() {
        let key = |name: &str| (Title::parse(name).expect("a title"), 0);
        let queue = Queue::default();
        for (name, size) in [("film", 9), ("clip", 1), ("show", 5)] {
            queue.push(key(name), size);
        }
        queue.hurry(key("film"));
        queue.hurry(key("film"));
        let order: Vec<_> = (0..4).filter_map(|_| queue.next()).map(|(key, _)| key.0.to_string()).collect();
        assert_eq!(order, ["film", "clip", "show", "film"]);
        queue.stop();
        assert_eq!(queue.next(), None);
    }
}
