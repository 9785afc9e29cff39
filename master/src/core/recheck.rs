//! Copies of which clients got wrong bytes, and which of them are looked at again. A client's word starts no more than a
//! look, and not many of those. Refuses to know what comes of it: the node takes a damaged copy out of its catalog.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::{NodeId, catalog::ContentKey};

/// How long a copy that was looked at is believed: a client that lies costs a node one reading of it a minute.
const AGAIN: Duration = Duration::from_secs(60);

/// Copies of one node that are looked at in that time: whoever names many has another reason.
const AT_ONCE: usize = 4;

/// See the module.
#[derive(Default)]
pub struct RecheckLimiter {
    asked: HashMap<(NodeId, ContentKey), Instant>,
}

impl RecheckLimiter {
    /// A client got wrong bytes of a copy: whether its node should hash it anew.
    pub fn ask(&mut self, now: Instant, node: NodeId, key: ContentKey) -> bool {
        self.asked.retain(|_, asked| now.saturating_duration_since(*asked) < AGAIN);
        let of_node = self.asked.keys().filter(|(of, _)| *of == node).count();
        if of_node >= AT_ONCE || self.asked.contains_key(&(node, key)) {
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
    fn a_copy_is_looked_at_once_a_minute_and_few_of_a_node_at_once() {
        let start = Instant::now();
        let mut catalog = Catalog::new();
        catalog.set(NodeId(1), &test_cluster::copy("a", 1, Origin::Operator));
        let found = catalog.versions("a", |_| true);
        let one = catalog.key(&found[0]);
        let key = |content| ContentKey { identity: ContentIdentity::Hashed(ContentId([content; 32])), ..one };
        let mut limiter = RecheckLimiter::default();
        let mut ask =
            |after, node, content| limiter.ask(start + Duration::from_secs(after), NodeId(node), key(content));
        assert!(ask(0, 1, 1) && ask(0, 2, 1), "by node");
        assert!(!ask(59, 1, 1) && ask(60, 1, 1) && !ask(61, 1, 1));
        assert!(ask(61, 1, 2) && ask(61, 1, 3) && ask(61, 1, 4));
        assert!(!ask(62, 1, 5) && ask(62, 2, 5), "enough of one node");
        assert!(ask(120, 1, 5) && !ask(120, 1, 6));
    }
}
