//! Maximum flow by Dinic's algorithm (1970), in integers. Independent of titles and nodes.

/// A network of directed edges with capacities.
#[derive(Clone, Debug, Default)]
pub(crate) struct Network {
    /// Per vertex: its edges, by number.
    edges_of: Vec<Vec<u32>>,
    /// Per edge: where it leads and what it can still take. Edge `e ^ 1` is its reverse.
    to: Vec<u32>,
    left: Vec<u64>,
    level: Vec<u32>,
    next: Vec<u32>,
}

/// A level of a vertex that the source does not reach.
const FAR: u32 = u32::MAX;

impl Network {
    /// A network of `vertices` and no edge.
    pub(crate) fn new(vertices: usize) -> Self {
        Self { edges_of: vec![Vec::new(); vertices], ..Self::default() }
    }

    /// Adds an edge; returns its number.
    pub(crate) fn add(&mut self, from: usize, to: usize, capacity: u64) -> usize {
        let edge = self.to.len();
        self.to.extend([to as u32, from as u32]);
        self.left.extend([capacity, 0]);
        self.edges_of[from].push(edge as u32);
        self.edges_of[to].push(edge as u32 + 1);
        edge
    }

    /// Sets what `edge` can take and forgets the flow on it.
    pub(crate) fn set(&mut self, edge: usize, capacity: u64) {
        self.left[edge] = capacity;
        self.left[edge + 1] = 0;
    }

    /// Pushes as much as possible from `source` to `sink` on top of the present flow; returns how much.
    pub(crate) fn run(&mut self, source: usize, sink: usize) -> u64 {
        let mut total = 0;
        while self.rank(source, sink) {
            self.next.clear();
            self.next.resize(self.edges_of.len(), 0);
            loop {
                let pushed = self.push(source, sink, u64::MAX);
                if pushed == 0 {
                    break;
                }
                total += pushed;
            }
        }
        total
    }

    /// Numbers vertices by distance; whether the sink can be reached.
    fn rank(&mut self, source: usize, sink: usize) -> bool {
        self.level.clear();
        self.level.resize(self.edges_of.len(), FAR);
        self.level[source] = 0;
        let mut queue = vec![source as u32];
        let mut head = 0;
        while head < queue.len() {
            let at = queue[head] as usize;
            head += 1;
            for &edge in &self.edges_of[at] {
                let to = self.to[edge as usize];
                if self.left[edge as usize] > 0 && self.level[to as usize] == FAR {
                    self.level[to as usize] = self.level[at] + 1;
                    queue.push(to);
                }
            }
        }
        self.level[sink] != FAR
    }

    /// Pushes up to `limit` from `at` along falling distance. Depth is at most the number of levels: a few dozen here.
    fn push(&mut self, at: usize, sink: usize, limit: u64) -> u64 {
        if at == sink {
            return limit;
        }
        let mut pushed = 0;
        while (self.next[at] as usize) < self.edges_of[at].len() {
            let edge = self.edges_of[at][self.next[at] as usize] as usize;
            let to = self.to[edge] as usize;
            if self.left[edge] > 0 && self.level[to] == self.level[at] + 1 {
                let got = self.push(to, sink, (limit - pushed).min(self.left[edge]));
                self.left[edge] -= got;
                self.left[edge ^ 1] += got;
                pushed += got;
                if pushed == limit {
                    return pushed;
                }
            }
            self.next[at] += 1;
        }
        pushed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The least cut by trying every set of vertices with the source and without the sink.
    fn least_cut(vertices: usize, edges: &[(usize, usize, u64)]) -> u64 {
        let inner = vertices - 2;
        (0..1_u32 << inner)
            .map(|mask| {
                let inside = |vertex: usize| vertex == 0 || (vertex < vertices - 1 && mask >> (vertex - 1) & 1 == 1);
                edges.iter().filter(|edge| inside(edge.0) && !inside(edge.1)).map(|edge| edge.2).sum()
            })
            .min()
            .unwrap_or(0)
    }

    proptest! {
        #[test]
        fn flow_equals_the_least_cut(
            vertices in 2_usize..8,
            raw in prop::collection::vec((0_usize..8, 0_usize..8, 0_u64..20), 0..25),
        ) {
            let edges: Vec<_> = raw.into_iter().filter(|e| e.0 < vertices && e.1 < vertices && e.0 != e.1).collect();
            let mut network = Network::new(vertices);
            let numbers: Vec<_> = edges.iter().map(|&(from, to, capacity)| network.add(from, to, capacity)).collect();
            let flow = network.run(0, vertices - 1);
            prop_assert_eq!(flow, least_cut(vertices, &edges));
            // Set back, it is a new network; and what was pushed cannot be pushed again.
            prop_assert_eq!(network.run(0, vertices - 1), 0);
            numbers.iter().zip(&edges).for_each(|(&number, edge)| network.set(number, edge.2));
            prop_assert_eq!(network.run(0, vertices - 1), flow);
        }
    }
}
