//! Limits the rechecks of copies for which clients reported wrong bytes. A client's report triggers only a recheck, and
//! rarely. The result does not come back here: the node removes a damaged copy from its catalog.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::{NodeId, catalog::ContentKey};

/// Interval between rechecks of one copy: a client with false reports costs a node one read of the copy per minute.
const INTERVAL: Duration = Duration::from_secs(60);

/// Rechecks of one node per interval.
const MAX_PER_NODE: usize = 4;

/// Recent rechecks.
#[derive(Default)]
pub struct RecheckLimiter {
    asked: HashMap<(NodeId, ContentKey), Instant>,
}

impl RecheckLimiter {
    /// Whether the node should hash the copy again after a client's report.
    pub fn allow(&mut self, now: Instant, node: NodeId, key: ContentKey) -> bool {
        self.asked.retain(|_, asked| now.saturating_duration_since(*asked) < INTERVAL);
        let of_node = self.asked.keys().filter(|(of, _)| *of == node).count();
        if of_node >= MAX_PER_NODE || self.asked.contains_key(&(node, key)) {
            return false;
        }
        self.asked.insert((node, key), now);
        true
    }
}

#[cfg(test)]
mod tests {
    use usher_proto::{ContentId, model::Origin};

    use super::*;
    use crate::core::{
        catalog::{Catalog, ContentIdentity},
        test_cluster,
    };

    #[test]
    fn rechecks_are_limited_per_copy_and_per_node() {
        let start = Instant::now();
        let mut catalog = Catalog::new();
        catalog.set(NodeId(1), &test_cluster::copy("a", 1, Origin::Operator));
        let found = catalog.versions("a", |_| true);
        let one = catalog.key(&found[0]);
        let key = |content| ContentKey { identity: ContentIdentity::Hashed(ContentId([content; 32])), ..one };
        let mut limiter = RecheckLimiter::default();
        let mut ask =
            |after, node, content| limiter.allow(start + Duration::from_secs(after), NodeId(node), key(content));
        assert!(ask(0, 1, 1) && ask(0, 2, 1), "by node");
        assert!(!ask(59, 1, 1) && ask(60, 1, 1) && !ask(61, 1, 1));
        assert!(ask(61, 1, 2) && ask(61, 1, 3) && ask(61, 1, 4));
        assert!(!ask(62, 1, 5) && ask(62, 2, 5), "enough of one node");
        assert!(ask(120, 1, 5) && !ask(120, 1, 6));
    }
}
