//! How many copies a title should have, by the beginning of its name. Refuses to know how many it has.

/// How many copies there should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Fewer are repaired.
    pub min: u32,
    /// Demand does not lead to more than this many; copies that are there stay.
    pub max: Option<u32>,
}

/// What holds for titles that begin alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefixRule {
    /// Of the title, for example `films/new/`.
    pub prefix: String,
    /// What holds for them.
    pub bounds: Bounds,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    otherwise: Bounds,
    /// The longest prefix first, so that the first match is the answer.
    rules: Vec<PrefixRule>,
}

impl Default for Policy {
    /// One copy is enough, and there may be any number.
    fn default() -> Self {
        Self::new(Bounds { min: 1, max: None }, Vec::new())
    }
}

impl Policy {
    /// Rules, of which the one with the longest prefix is in force (of equal ones the last), and what holds for titles
    /// that match none. A maximum below its minimum is taken for the minimum.
    pub fn new(otherwise: Bounds, mut rules: Vec<PrefixRule>) -> Self {
        rules.reverse();
        rules.sort_by_key(|rule| std::cmp::Reverse(rule.prefix.len()));
        for rule in &mut rules {
            rule.bounds = sane(rule.bounds);
        }
        Self { otherwise: sane(otherwise), rules }
    }

    /// What holds for a title; linear in the number of rules.
    pub fn of(&self, title: &str) -> Bounds {
        self.rules.iter().find(|rule| title.starts_with(&rule.prefix)).map_or(self.otherwise, |rule| rule.bounds)
    }
}

fn sane(bounds: Bounds) -> Bounds {
    Bounds { max: bounds.max.map(|max| max.max(bounds.min)), ..bounds }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_wins() {
        let rule = |prefix: &str, min, max| PrefixRule { prefix: prefix.to_owned(), bounds: Bounds { min, max } };
        let rules = vec![rule("a/", 2, None), rule("a/b/", 3, Some(1)), rule("a/c", 5, None), rule("a/c", 6, Some(9))];
        let policy = Policy::new(Bounds { min: 1, max: Some(0) }, rules);
        for (title, min, max) in
            [("x", 1, Some(1)), ("a/x", 2, None), ("a/b/x", 3, Some(3)), ("a/cx", 6, Some(9)), ("a", 1, Some(1))]
        {
            assert_eq!(policy.of(title), Bounds { min, max }, "{title}");
        }
        assert_eq!(Policy::default().of("x"), Bounds { min: 1, max: None });
    }
}
