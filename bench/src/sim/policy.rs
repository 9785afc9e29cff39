//! Inputs of a policy and the orders that it may give. Owns the types between it and the simulation, and the list of policies.
//!
//! A policy is one master: with several masters there are several instances, and each gets the reports of all nodes but only the
//! requests that came to it. It has no other access to the simulation. After every call the simulation takes the
//! orders; every call comes with the present time, which never goes back.

mod baseline;
mod least;
mod ledger;
mod p2c;
mod patent;
mod random;
mod usher;

use super::units::Time;

/// A node's number.
pub(crate) type NodeIndex = u32;

/// A title's number.
pub(crate) type Title = u32;

/// A session's number; a session's tickets all carry it.
pub(crate) type SessionNumber = u64;

/// Bit/s.
pub(crate) type Rate = u64;

/// One way to choose, as one master runs it.
pub(crate) trait Policy {
    /// A node attached and can be chosen; a new boot number means that it has no sessions any more.
    fn joined(&mut self, now: Time, node: NodeIndex, join: &Join<'_>);

    /// A node left in order, or its channel broke. A crash is not reported: the node falls silent.
    fn left(&mut self, now: Time, node: NodeIndex);

    /// A node accepts no new session from now on.
    fn draining(&mut self, now: Time, node: NodeIndex);

    /// A periodic report came. Reports can come late, out of order, or not at all.
    fn report(&mut self, now: Time, node: NodeIndex, report: &Report);

    /// A batch of changes came: complete and in order per node. Only if `flags` asks for them.
    fn delta(&mut self, _now: Time, _node: NodeIndex, _delta: &Delta) {}

    /// A client asks for a seat.
    fn resolve(&mut self, now: Time, ask: &Ask<'_>) -> Answer;

    /// A client reports that it could not reach a node. `client` is the client's number.
    fn hint(&mut self, _now: Time, _node: NodeIndex, _client: u64) {}

    /// Time passed: at least every 250 ms, and at `deadline`.
    fn tick(&mut self, now: Time);

    /// When `tick` is needed next, if that is before the regular one.
    fn deadline(&self) -> Option<Time> {
        None
    }

    /// Outcome of a `Move` of this instance.
    fn moved(&mut self, _now: Time, _session: SessionNumber, _ok: bool) {}

    /// Progress of a copy; every instance gets it, whichever ordered it.
    fn copied(&mut self, _now: Time, _copy: &Copied) {}

    /// The answer to a `Probe` of this instance.
    fn probed(&mut self, _now: Time, _node: NodeIndex, _alive: bool) {}

    /// Returns the orders since the last call.
    fn orders(&mut self, _orders: &mut Vec<Order>) {}
}

/// Properties of a policy that the simulation needs before it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flags {
    /// Nodes refuse what would overload them.
    pub(crate) guard: bool,
    /// Nodes send batches of begun, ended and refused sessions beside their reports.
    pub(crate) deltas: bool,
}

/// Inputs of a policy before it runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    /// The run's seed.
    pub(crate) seed: u64,
    /// Number of this master, from 0.
    pub(crate) index: u32,
    /// Number of masters.
    pub(crate) masters: u32,
    /// Number of titles.
    pub(crate) titles: u32,
    /// Time between two reports of a node.
    pub(crate) report_interval: Time,
}

/// A node as it attaches.
#[derive(Clone, Debug)]
pub(crate) struct Join<'a> {
    /// Bit/s that it claims.
    pub(crate) capacity: Rate,
    /// Its zone.
    pub(crate) zone: u32,
    /// Counts its starts, from 1.
    pub(crate) boot: u64,
    /// Titles that it can serve.
    pub(crate) titles: &'a [Held],
    /// Bytes for copies that a policy orders.
    pub(crate) replica_bytes: u64,
}

/// A title on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    /// Which.
    pub(crate) title: Title,
    /// Its bitrate in bit/s.
    pub(crate) rate: Rate,
    /// Its size in bytes.
    pub(crate) bytes: u64,
    /// Whether an order created it.
    pub(crate) replica: bool,
}

/// Measurements of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// The node's start that this is from.
    pub(crate) boot: u64,
    /// Counts reports of this start, from 1.
    pub(crate) sequence: u64,
    /// Milliseconds since that start when this was measured.
    pub(crate) uptime_ms: u64,
    /// Milliseconds that the means below are over.
    pub(crate) window_ms: u64,
    /// Bit/s of the running sessions.
    pub(crate) committed: Rate,
    /// Number of running sessions.
    pub(crate) sessions: u32,
    /// Mean bit/s on the link, without what copies took.
    pub(crate) egress: Rate,
    /// Mean bit/s of it that were others' traffic.
    pub(crate) background: Rate,
    /// Mean bit/s that the sessions wanted.
    pub(crate) demand: Rate,
    /// Mean bit/s of it that they got.
    pub(crate) delivered: Rate,
    /// Mean bit/s that copies from here took of what was left.
    pub(crate) elastic: Rate,
    /// Summed bit/s of the sessions that ended by themselves in the window.
    pub(crate) ended: Rate,
    /// Sessions that began or were refused here since the last report that got through.
    pub(crate) acknowledged: Vec<SessionNumber>,
    /// Bytes of `replica_bytes` that are free.
    pub(crate) replica_free: u64,
}

/// Changes on a node since the batch before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Delta {
    /// The node's start that this is from.
    pub(crate) boot: u64,
    /// Milliseconds since that start when all of this was true.
    pub(crate) uptime_ms: u64,
    /// Bit/s of the running sessions at that time.
    pub(crate) committed: Rate,
    /// Changes, in order.
    pub(crate) changes: Vec<Change>,
}

/// One change on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// A session began, by a ticket or a move.
    Begun {
        /// Which.
        session: SessionNumber,
        /// The title.
        title: Title,
        /// Its rate, bit/s.
        rate: Rate,
    },
    /// A session is over here: at its end, or moved away.
    Ended {
        /// Which.
        session: SessionNumber,
    },
    /// A ticket was refused.
    Refused {
        /// The session.
        session: SessionNumber,
        /// For a full node: bit/s that it can reserve in total.
        limit: Option<Rate>,
    },
}

/// A client's request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask<'a> {
    /// The session that it is for.
    pub(crate) session: SessionNumber,
    /// The title.
    pub(crate) title: Title,
    /// The client's zone.
    pub(crate) zone: u32,
    /// Nodes that it excludes.
    pub(crate) exclude: &'a [NodeIndex],
    /// Those of them that refused it because they were full.
    pub(crate) full: &'a [NodeIndex],
}

/// The answer to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The node, and others that it may try without asking again.
    Seat {
        /// The node where the rate was reserved.
        node: NodeIndex,
        /// The next nodes to try, in order.
        alternates: Vec<NodeIndex>,
        /// A guard may let it in up to a tenth above the node's capacity.
        burst: bool,
    },
    /// No node has capacity.
    Refused,
}

/// An order of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Move a session.
    Move {
        /// Which.
        session: SessionNumber,
        /// The node that serves it.
        from: NodeIndex,
        /// The new node.
        to: NodeIndex,
    },
    /// Copy a title.
    Replicate {
        /// Which.
        title: Title,
        /// The source.
        from: NodeIndex,
        /// The target.
        to: NodeIndex,
        /// Upper limit, bit/s.
        rate: Rate,
    },
    /// Remove a copy; the last copy of a title stays.
    Evict {
        /// The node.
        node: NodeIndex,
        /// Which.
        title: Title,
    },
    /// Probe a node.
    Probe {
        /// Which.
        node: NodeIndex,
    },
}

/// Progress of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Copied {
    /// The title.
    pub(crate) title: Title,
    /// The source.
    pub(crate) from: NodeIndex,
    /// The target.
    pub(crate) to: NodeIndex,
    /// The new stage.
    pub(crate) stage: CopyStage,
}

/// Stage of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CopyStage {
    /// Its first bytes have arrived: sessions may begin.
    Serving,
    /// It is complete.
    Whole,
    /// It failed: no room, or its source or target is gone. Its sessions end.
    Failed,
    /// It was evicted.
    Evicted,
}

/// A policy that can be asked for by name.
#[derive(Clone, Copy)]
pub(crate) struct Named {
    /// Its name for `--policy`.
    pub(crate) name: &'static str,
    /// Properties that the simulation needs.
    pub(crate) flags: Flags,
    /// Creates one master.
    pub(crate) make: fn(Setup) -> Box<dyn Policy>,
}

/// All policies. `usher`, `margin` and `moves` are names of the cluster core and its ablations.
const NAMED: [Named; 7] = [
    Named { name: "random", flags: Flags { guard: false, deltas: false }, make: random::make },
    Named { name: "patent", flags: Flags { guard: false, deltas: false }, make: patent::make },
    Named { name: "p2c", flags: Flags { guard: false, deltas: false }, make: p2c::make },
    Named { name: "least", flags: Flags { guard: false, deltas: false }, make: least::make },
    Named { name: "margin", flags: Flags { guard: true, deltas: true }, make: usher::margin },
    Named { name: "moves", flags: Flags { guard: true, deltas: true }, make: usher::moves },
    Named { name: "usher", flags: Flags { guard: true, deltas: true }, make: usher::make },
];

/// The policy called `name`; the error lists all names.
pub(crate) fn named(name: &str) -> Result<Named, String> {
    NAMED.iter().find(|policy| policy.name == name).copied().ok_or_else(|| {
        let names: Vec<_> = NAMED.iter().map(|policy| policy.name).collect();
        format!("there is no policy `{name}`: choose from {}", names.join(", "))
    })
}
