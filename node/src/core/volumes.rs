//! Which copy of a title is opened: the one on the volume with the lowest reserved rate. Knows numbers of volumes, not
//! folders.

use std::collections::HashMap;

use usher_proto::{Bitrate, ContentId};

/// Bit/s reserved by active sessions, by volume.
#[derive(Clone, Debug, Default)]
pub struct VolumeLoads(HashMap<u16, u64>);

impl VolumeLoads {
    /// Adds a session that reads from a volume.
    pub fn add(&mut self, volume: u16, rate: Bitrate) {
        let load = self.0.entry(volume).or_insert(0);
        *load = load.saturating_add(rate.0);
    }

    /// Removes a session.
    pub fn remove(&mut self, volume: u16, rate: Bitrate) {
        if let Some(load) = self.0.get_mut(&volume) {
            *load = load.saturating_sub(rate.0);
        }
    }

    /// Bit/s reserved on a volume.
    pub fn of(&self, volume: u16) -> u64 {
        self.0.get(&volume).copied().unwrap_or(0)
    }
}

/// Sorts copies, which come best first: those with the same content as the best one by the load of their volumes, then
/// the rest in their order. Copies that are not hashed count as different.
pub fn spread<T>(copies: &mut [T], content: impl Fn(&T) -> Option<ContentId>, load: impl Fn(&T) -> u64) {
    let Some(best) = copies.first().and_then(&content) else { return };
    // Stable: copies with equal load keep their order.
    copies.sort_by_key(|copy| if content(copy) == Some(best) { (false, load(copy)) } else { (true, 0) });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_loaded_volume_of_the_same_bytes_comes_first() {
        let mut loads = VolumeLoads::default();
        loads.add(0, Bitrate(9));
        loads.add(1, Bitrate(5));
        loads.add(2, Bitrate(7));
        loads.remove(2, Bitrate(3));
        loads.remove(8, Bitrate(3));
        assert_eq!([0, 1, 2, 3].map(|volume| loads.of(volume)), [9, 5, 4, 0]);
        let (a, b) = (Some(ContentId([1; 32])), Some(ContentId([2; 32])));
        for (copies, order) in [
            (vec![(0, a), (1, a), (2, a)], vec![2, 1, 0]),
            // Other content and copies that are not hashed keep their places at the end.
            (vec![(0, a), (3, b), (1, a), (2, None)], vec![1, 0, 3, 2]),
            (vec![(0, None), (3, None)], vec![0, 3]),
            (vec![(3, a), (4, a)], vec![3, 4]),
            (vec![], vec![]),
        ] {
            let mut spread_out = copies.clone();
            spread(&mut spread_out, |copy| copy.1, |copy| loads.of(copy.0));
            assert_eq!(spread_out.iter().map(|copy| copy.0).collect::<Vec<_>>(), order, "{copies:?}");
        }
    }
}
