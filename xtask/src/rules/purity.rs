//! The rule of purity: a core does no input or output, reads no clock and draws no randomness of its own. Reads the
//! paths that a source names, through `use` trees and aliases; macros that hide a path escape it.

use std::collections::HashMap;

use super::paths::{path, tokens, use_tree};
use super::source::Source;

/// Paths a core may not name, nor anything below them, and what to do instead.
const FORBIDDEN: [(&str, &str); 34] = [
    ("tokio", SHELL),
    ("tokio_stream", SHELL),
    ("tokio_util", SHELL),
    ("quinn", SHELL),
    ("quinn_proto", SHELL),
    ("tonic", SHELL),
    ("notify", SHELL),
    ("redb", SHELL),
    ("rustix", SHELL),
    ("std::fs", SHELL),
    ("std::env", SHELL),
    ("std::process", SHELL),
    ("std::thread", SHELL),
    ("std::io::stdin", SHELL),
    ("std::io::stdout", SHELL),
    ("std::io::stderr", SHELL),
    ("std::net::TcpStream", SHELL),
    ("std::net::TcpListener", SHELL),
    ("std::net::UdpSocket", SHELL),
    ("std::net::ToSocketAddrs", SHELL),
    ("std::net::*", "name the address types one by one: the glob brings sockets too"),
    ("std::os::unix::net", SHELL),
    ("std::time::SystemTime::now", CLOCK),
    ("std::time::Instant::now", CLOCK),
    ("SystemTime::now", CLOCK),
    ("Instant::now", CLOCK),
    ("rand::rng", RANDOM),
    ("rand::random", RANDOM),
    ("rand::thread_rng", RANDOM),
    ("rand::rngs::ThreadRng", RANDOM),
    ("rand::rngs::OsRng", RANDOM),
    ("rand::rngs::SysRng", RANDOM),
    ("getrandom", RANDOM),
    ("thread_rng", RANDOM),
];

const SHELL: &str = "that belongs to a shell";
const CLOCK: &str = "time is an argument";
const RANDOM: &str = "randomness is a passed `&mut impl Rng`";

/// The lines of a core's source that name a forbidden path, and a message for each.
pub(super) fn check(source: &Source) -> Vec<(usize, String)> {
    let tokens = tokens(&source.shipped());
    let mut aliases = HashMap::new();
    let mut named = Vec::new();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        if token.text == "use" {
            let (paths, end) = use_tree(&tokens, at + 1);
            for import in paths {
                aliases.insert(import.alias, import.path.clone());
                named.push((import.line, import.path));
            }
            at = end;
        } else if token.is_name() {
            let (path, end) = path(&tokens, at);
            named.push((token.line, path));
            at = end;
        } else {
            // `instant.elapsed()` reads the clock without naming it.
            let texts = [at, at + 1, at + 2, at + 3].map(|index| tokens.get(index).map(|token| token.text.as_str()));
            if texts == [Some("."), Some("elapsed"), Some("("), Some(")")] {
                named.push((token.line, vec!["Instant".to_owned(), "now".to_owned()]));
            }
            at += 1;
        }
    }
    let mut findings: Vec<(usize, String)> = named
        .into_iter()
        .filter_map(|(line, path)| {
            let (forbidden, why) = verdict(&resolve(path, &aliases))?;
            Some((line, format!("a core names {forbidden}: {why}")))
        })
        .collect();
    findings.sort();
    findings.dedup();
    findings
}

/// The forbidden path that `path` is or lies below.
fn verdict(path: &str) -> Option<(&'static str, &'static str)> {
    let below =
        |forbidden: &str| path.strip_prefix(forbidden).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
    FORBIDDEN.into_iter().find(|(forbidden, _)| below(forbidden))
}

/// `path` in full, its first name replaced by what a `use` made it stand for. An import may build on another one.
fn resolve(mut path: Vec<String>, aliases: &HashMap<String, Vec<String>>) -> String {
    // Two steps suffice for any sane source; a cycle of aliases must not hold us.
    for _ in 0..2 {
        let Some(full) = path.first().and_then(|first| aliases.get(first)) else { break };
        if full.first() == path.first() {
            break;
        }
        path = full.iter().cloned().chain(path.into_iter().skip(1)).collect();
    }
    path.join("::")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<usize> {
        check(&Source::new(text.to_owned())).into_iter().map(|(line, _)| line).collect()
    }

    #[test]
    fn what_a_core_may_not_name_is_found_however_it_is_named() {
        let impure = [
            "use tokio::sync::mpsc;",
            "use tokio_util::sync::CancellationToken;",
            "use ::quinn::Connection;",
            "fn f() -> tonic::Status {}",
            "use std::fs;",
            "use std::{collections::HashMap, fs::File};",
            "use std::{io::{self, Read, stdin}};",
            "fn f() { std::env::var(key) }",
            "use std::{env as world};",
            "use std::net::{SocketAddr, UdpSocket};",
            "use std::net::*;",
            "use std::net; fn f() { net::TcpStream::connect(a) }",
            "use std::time::{Duration, Instant}; fn f() { Instant::now() }",
            "use std::time::Instant as Moment; fn f() { Moment::now() }",
            "use std::time; fn f() { time::SystemTime::now() }",
            "fn f(start: Instant) { start.elapsed() }",
            "fn f() { rand::rng() }",
            "use rand::{Rng, random};",
            "fn f() { std::thread::spawn(g) }",
            "fn f() { std::process::exit(1) }",
        ];
        for text in impure {
            assert_eq!(lines(text), [1], "{text}");
        }
    }

    #[test]
    fn what_a_core_may_name_is_left_alone() {
        let pure = [
            "use std::net::{IpAddr, SocketAddr};",
            "use std::time::{Duration, Instant, SystemTime};",
            "use rand::{Rng, RngExt}; fn f(rng: &mut impl Rng) { rng.random_range(0..3) }",
            "use crate::core::quinn_like::tonic_water;",
            "// use tokio::sync;\n/* std::fs */ const S: &str = \"std::fs::read\";",
            "#[cfg(test)]\nmod tests {\n    use std::fs;\n    fn f() { Instant::now() }\n}",
            "fn f(env: Env, fs: u8) { env::home(); fs + 1; self.process.thread }",
            "const V: &str = env!(\"CARGO_PKG_VERSION\");",
            "fn f(timer: Timer, now: Instant) { timer.elapsed(now); now.duration_since(then) }",
        ];
        for text in pure {
            assert_eq!(lines(text), Vec::<usize>::new(), "{text}");
        }
    }

    #[test]
    fn findings_name_their_line_and_what_to_do() {
        let text = "//! doc\n\nuse std::{\n    collections::HashMap,\n    fs,\n};\n\nfn f() {\n    Instant::now()\n}\n";
        let found = check(&Source::new(text.to_owned()));
        assert_eq!(
            found,
            [
                (5, "a core names std::fs: that belongs to a shell".to_owned()),
                (9, "a core names Instant::now: time is an argument".to_owned()),
            ]
        );
    }
}
