//! `usher://host[:port]/title`: the address of a master, and a title, content id or pattern there.

use std::{fmt, str::FromStr};

use globset::{GlobBuilder, GlobMatcher};
use thiserror::Error;
use usher_proto::{
    ContentId, MASTER_PORT, Title,
    id::IdError,
    text::{is_invisible, printable_within},
    title::{MAX_BYTES, TitleError},
};

/// Longest URL in bytes: a title with every byte written as `%XX`, and space for the host.
const MAX_URL: usize = 3 * MAX_BYTES + 512;

/// Why a text is no `usher://` URL.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UrlError {
    /// Another scheme, or none.
    #[error("expected usher://HOST[:PORT]/TITLE")]
    Scheme,
    /// Longer than any title can make it.
    #[error("a URL has at most {MAX_URL} bytes")]
    TooLong,
    /// No host, or one with characters that no host has.
    #[error("`{0}` is no host: write a name, an IPv4 address, or an IPv6 address in brackets")]
    Host(String),
    /// A port that is no number from 1 to 65535.
    #[error("`{0}` is no port: write a number from 1 to 65535")]
    Port(String),
    /// A path that is not UTF-8 once its `%XX` are decoded.
    #[error("the path is not UTF-8 once its %XX are decoded")]
    NotUtf8,
    /// No path where a title is needed.
    #[error("no title: write usher://HOST[:PORT]/TITLE, or list the titles with `usher ls`")]
    NoTitle,
    /// A path that cannot be a title.
    #[error(transparent)]
    Title(#[from] TitleError),
    /// A path that should be a content id.
    #[error("the path is no content id: {0}")]
    Content(#[from] IdError),
    /// A pattern that does not parse.
    #[error("`{0}` is no pattern: {1}")]
    Pattern(String, String),
}

/// The address of a master.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// A DNS name or an IP address, without brackets.
    pub host: String,
    /// The gRPC port.
    pub port: u16,
}

impl Address {
    /// The host as in a URL: IPv6 in brackets.
    fn bracketed(&self) -> String {
        if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() }
    }

    /// The URI that gRPC dials.
    pub fn https(&self) -> String {
        format!("https://{}:{}", self.bracketed(), self.port)
    }
}

impl Default for Address {
    fn default() -> Self {
        Self { host: "localhost".to_owned(), port: MASTER_PORT }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.bracketed(), self.port)
    }
}

impl FromStr for Address {
    type Err = UrlError;

    /// `HOST`, `HOST:PORT`, `[IPv6]:PORT`, each with or without `usher://` in front and a slash behind.
    fn from_str(text: &str) -> Result<Self, UrlError> {
        let text = text.strip_prefix("usher://").unwrap_or(text);
        let text = text.strip_suffix('/').unwrap_or(text);
        let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, rest)) => {
                host.parse::<std::net::Ipv6Addr>().map_err(|_| UrlError::Host(shown(text)))?;
                match rest.strip_prefix(':') {
                    Some(port) => (host, Some(port)),
                    None if rest.is_empty() => (host, None),
                    None => return Err(UrlError::Host(shown(text))),
                }
            }
            None => match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | ':');
        if host.is_empty() || host.len() > 253 || !host.chars().all(fits) {
            return Err(UrlError::Host(shown(host)));
        }
        let port = match port {
            None => MASTER_PORT,
            Some(port) => port.parse().ok().filter(|number| *number > 0).ok_or_else(|| UrlError::Port(shown(port)))?,
        };
        Ok(Self { host: host.to_owned(), port })
    }
}

/// A master and a path there, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// The master.
    pub master: Address,
    /// The text after the slash, with its `%XX` decoded; may be empty.
    pub path: String,
}

impl Url {
    /// The path as a title.
    pub fn title(&self) -> Result<Title, UrlError> {
        if self.path.is_empty() {
            return Err(UrlError::NoTitle);
        }
        Ok(Title::parse(&self.path)?)
    }

    /// The path as a content id.
    pub fn content(&self) -> Result<ContentId, UrlError> {
        Ok(self.path.parse()?)
    }

    /// The path as a pattern, if it has a character that makes it one: `*`, `?`, `[` or `{`.
    pub fn pattern(&self) -> Result<Option<Pattern>, UrlError> {
        if self.path.contains(SPECIAL) { Pattern::parse(&self.path).map(Some) } else { Ok(None) }
    }
}

impl FromStr for Url {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        if text.len() > MAX_URL {
            return Err(UrlError::TooLong);
        }
        let rest = text.strip_prefix("usher://").ok_or(UrlError::Scheme)?;
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let path = percent_encoding::percent_decode_str(path).decode_utf8().map_err(|_| UrlError::NotUtf8)?;
        Ok(Self { master: host.parse()?, path: path.into_owned() })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "usher://{}/", self.master)?;
        // Encodes only characters that would not survive copying and parsing, so that the result stays readable.
        for c in self.path.chars() {
            if is_invisible(c) || matches!(c, '%' | ' ' | '"' | '\'') {
                let mut bytes = [0; 4];
                c.encode_utf8(&mut bytes).bytes().try_for_each(|byte| write!(f, "%{byte:02X}"))?;
            } else {
                write!(f, "{c}")?;
            }
        }
        Ok(())
    }
}

const SPECIAL: [char; 4] = ['*', '?', '[', '{'];

/// Titles by pattern: `*` and `?` stay between two slashes, `**` crosses them.
#[derive(Clone, Debug)]
pub struct Pattern {
    /// The literal text that every match begins with.
    pub prefix: String,
    matcher: GlobMatcher,
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, UrlError> {
        let matcher = GlobBuilder::new(text)
            .literal_separator(true)
            .backslash_escape(false)
            .build()
            .map_err(|error| UrlError::Pattern(shown(text), error.kind().to_string()))?
            .compile_matcher();
        let end = text.find(SPECIAL).unwrap_or(text.len());
        // `films/**` also means what lies directly in `films/`, and globset reads `films/**/x` as `films/x` too, so the
        // literal part is a true prefix of every match.
        Ok(Self { prefix: text[..end].to_owned(), matcher })
    }

    /// Whether a title fits.
    pub fn matches(&self, title: &str) -> bool {
        title.starts_with(&self.prefix) && self.matcher.is_match(title)
    }
}

/// At most 60 characters of the user's text, for a message.
fn shown(text: &str) -> String {
    printable_within(text, 60)
}

#[cfg(test)]
mod tests;
