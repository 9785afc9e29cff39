//! Wanted number of copies per title, by prefix.

/// Wanted number of copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Fewer copies are repaired.
    pub min: u32,
    /// Demand creates no more than this many; existing copies stay.
    pub max: Option<u32>,
}

/// Bounds of the titles with a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefixRule {
    /// Prefix of titles, for example `films/new/`.
    pub prefix: String,
    /// Bounds of these titles.
    pub bounds: Bounds,
}

/// Bounds for all titles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    otherwise: Bounds,
    /// Longest prefix first, so the first match applies.
    rules: Vec<PrefixRule>,
}

impl Default for Policy {
    /// At least one copy, without an upper limit.
    fn default() -> Self {
        Self::new(Bounds { min: 1, max: None }, Vec::new())
    }
}

impl Policy {
    /// The rule with the longest matching prefix applies (of equal ones the last); `otherwise` applies to titles that
    /// match none. A maximum below its minimum is raised to it.
    pub fn new(otherwise: Bounds, mut rules: Vec<PrefixRule>) -> Self {
        rules.reverse();
        rules.sort_by_key(|rule| std::cmp::Reverse(rule.prefix.len()));
        for rule in &mut rules {
            rule.bounds = sane(rule.bounds);
        }
        Self { otherwise: sane(otherwise), rules }
    }

    /// Bounds of a title. Linear in the number of rules.
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
