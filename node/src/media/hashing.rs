//! Hashes titles in the background: those that someone waits for first, then the small ones, so that most titles have
//! a content id soon; then once more those in doubt. Knows files by their copies only.

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
    catalog::{Copy, Key, lock},
    open::read_at,
    replicas,
    shared::Shared,
    volume::{Fingerprint, Node},
    watch::Message,
};

/// Bytes of one read.
const READ: usize = 1 << 20;

/// Copies in doubt that wait at most: whoever doubts more will do so again.
const DOUBTS: usize = 64;

/// What is to be done of a title.
#[derive(Debug, PartialEq, Eq)]
enum Task {
    /// Hash it; someone waits for that.
    Urgent(Key),
    /// Hash it.
    Hash(Key),
    /// Hash it again: someone got other bytes of it.
    Check(Key),
}

#[derive(Default)]
struct State {
    urgent: VecDeque<Key>,
    waiting: BinaryHeap<Reverse<(u64, Key)>>,
    doubted: VecDeque<Key>,
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

    /// Adds a title that was hashed before, behind all others; `false` when too many wait.
    pub(crate) fn check(&self, key: Key) -> bool {
        let mut state = lock(&self.state);
        let waits = state.doubted.contains(&key);
        let room = waits || state.doubted.len() < DOUBTS;
        if room && !waits {
            state.doubted.push_back(key);
        }
        drop(state);
        self.wake.notify_one();
        room
    }

    /// Ends [`Self::next`].
    pub(crate) fn stop(&self) {
        lock(&self.state).stopped = true;
        self.wake.notify_all();
    }

    /// Waits for something to do; `None` when it is over.
    fn next(&self) -> Option<Task> {
        let mut state = lock(&self.state);
        loop {
            if state.stopped {
                return None;
            }
            if let Some(key) = state.urgent.pop_front() {
                return Some(Task::Urgent(key));
            }
            if let Some(Reverse((_, key))) = state.waiting.pop() {
                return Some(Task::Hash(key));
            }
            if let Some(key) = state.doubted.pop_front() {
                return Some(Task::Check(key));
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
    while let Some(task) = shared.queue.next() {
        match task {
            Task::Urgent(key) => title(shared, &key, true, &mut buf),
            Task::Hash(key) => title(shared, &key, false, &mut buf),
            Task::Check(key) => check(shared, &key, &mut buf),
        }
    }
}

/// Hashes a copy again that someone got other bytes of.
fn check(shared: &Shared, key: &Key, buf: &mut [u8]) {
    let Some(copy) = shared.catalog.copy(key) else { return };
    if key.1 == replicas::VOLUME {
        let replicas = shared.replicas.iter();
        return replicas.for_each(|replicas| replicas.check(&copy, &|| shared.stopping()));
    }
    if copy.content.is_some() {
        whole(shared, &copy, false, buf);
    }
}

fn title(shared: &Shared, key: &Key, urgent: bool, buf: &mut [u8]) {
    if let Some(copy) = shared.catalog.copy(key).filter(|copy| copy.content.is_none()) {
        whole(shared, &copy, urgent, buf);
    }
}

/// Hashes all of a file. Where it was hashed before, it is damaged if the hash is another one now.
fn whole(shared: &Shared, copy: &Copy, urgent: bool, buf: &mut [u8]) {
    let key = &(copy.title.clone(), copy.volume);
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
    match entry.content {
        Some(before) if before != hashes.content => {
            // Fails only when the keeper ended before.
            return drop(shared.keeper.send(Message::Damaged(key.1, path.to_owned(), copy.id)));
        }
        Some(_) => tracing::info!(title = %key.0, "a client's word that a copy is damaged was not confirmed"),
        None => {}
    }
    // Also of one that was hashed before: its values may have been what was wrong.
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
        assert!(queue.check(key("doubt")) && queue.check(key("doubt")), "once is enough");
        queue.hurry(key("film"));
        queue.hurry(key("film"));
        let order: Vec<_> = (0..5).filter_map(|_| queue.next()).collect();
        let hash = |name| Task::Hash(key(name));
        assert_eq!(
            order,
            [Task::Urgent(key("film")), hash("clip"), hash("show"), hash("film"), Task::Check(key("doubt"))]
        );
        let taken = (0..1000).filter(|i| queue.check(key(&i.to_string()))).count();
        assert_eq!(taken, DOUBTS);
        queue.stop();
        assert_eq!(queue.next(), None);
    }
}
