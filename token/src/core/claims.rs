//! The claims of a token as they are signed: the registered ones by their names, Usher's own in one object named `usher`.
//! Whether they are acceptable is the verifier's decision.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

/// An action on a title.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Watch it.
    Play,
    /// Download it.
    Fetch,
    /// Send it as a feed.
    Publish,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Play => "play",
            Self::Fetch => "fetch",
            Self::Publish => "publish",
        })
    }
}

/// The claims of a token. Other claims are ignored, as RFC 7519 asks.
#[derive(Clone, Serialize, Deserialize)]
pub struct TokenClaims {
    /// The issuer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iss: Option<String>,
    /// The subject: the viewer's or the account's name at the issuer.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sub: String,
    /// Services that the token is meant for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aud: Option<Audience>,
    /// Not valid from, Unix seconds.
    #[serde(deserialize_with = "numeric_date")]
    pub exp: u64,
    /// Not valid before, Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "numeric_date_or_none")]
    pub nbf: Option<u64>,
    /// Issued at, Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "numeric_date_or_none")]
    pub iat: Option<u64>,
    /// The token's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    /// Usher's claims; read after the others, for errors that name them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usher: Option<serde_json::Value>,
}

/// One service or several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Audience {
    /// A name.
    One(String),
    /// Names.
    Many(Vec<String>),
}

impl Audience {
    /// Whether `name` is among them.
    pub fn names(&self, name: &str) -> bool {
        match self {
            Self::One(one) => one == name,
            Self::Many(many) => many.iter().any(|one| one == name),
        }
    }
}

/// The object `usher` of a token. A field that this version does not know may be a restriction, so it is an error.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UsherClaims {
    /// Titles that start with one of these; `""` is every title.
    pub prefixes: Vec<String>,
    /// The permitted actions.
    #[serde(default = "viewing")]
    pub actions: Vec<Action>,
    /// Most bit/s of all sessions of the subject together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_rate_bps: Option<u64>,
    /// Most sessions of the subject at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_sessions: Option<u32>,
    /// The viewer's zone, in place of the one that the client states.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
}

/// The actions of a token that lists none.
pub fn viewing() -> Vec<Action> {
    vec![Action::Play, Action::Fetch]
}

/// A NumericDate of RFC 7519: seconds, perhaps with a fraction, which is dropped.
fn numeric_date<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let number = serde_json::Number::deserialize(from)?;
    let whole = || number.as_f64().filter(|seconds| (0.0..=9e15).contains(seconds)).map(|seconds| seconds as u64);
    number.as_u64().or_else(whole).ok_or_else(|| D::Error::custom("a time is a number of seconds since 1970"))
}

fn numeric_date_or_none<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    numeric_date(from).map(Some)
}
