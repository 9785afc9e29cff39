//! `usher token keygen | mint | show`: tokens for operators without an identity provider. Tokens and claims go to standard
//! output, notes to standard error, a private key to neither.

use std::{
    fs,
    io::{self, ErrorKind, Read as _, Write},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, ensure};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rand::RngExt as _;
use rcgen::{KeyPair, PKCS_ED25519};
use usher_certs::files::{self, Exists};
use usher_files::{Draft, Existing};
use usher_proto::{Bitrate, Fault, title::MAX_BYTES};

use crate::core::{
    claims::{Action, Audience, TokenClaims, UsherClaims, viewing},
    error::LONGEST_LIFE,
    keys::{KeySet, KeySource},
    verifier::{MAX_TOKEN_BYTES, Verifier},
};

/// File name of the private key that signs tokens.
const PRIVATE: &str = "token.key";

/// File name of the public key that verifies them.
const PUBLIC: &str = "token.pem";

/// Audience of tokens when none is named, here and at the master.
pub const AUDIENCE: &str = "usher";

/// Arguments of `usher token`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory of the keys [default: usher/certs in the configuration directory]
    #[arg(long, global = true, env = "USHER_CERTS", value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Create the key that signs tokens: token.key, and token.pem for `usher master --token-keys`
    Keygen {
        /// Replace an existing key; every token that it signed becomes invalid
        #[arg(long)]
        force: bool,
    },
    Mint(Mint),
    /// Check a token with a public key and print its claims
    Show {
        /// File with the token, or - for standard input [default: the token in $USHER_TOKEN]
        #[arg(value_name = "FILE")]
        token: Option<PathBuf>,
        /// Public keys (PEM or JWKS) to check it with [default: token.pem in the --dir directory]
        #[arg(long, value_name = "FILE")]
        keys: Option<PathBuf>,
        /// Audience that it must be for
        #[arg(long, value_name = "NAME", default_value = AUDIENCE)]
        audience: String,
    },
}

/// Print a new token, signed with token.key
///
/// Example:
///   usher token mint --sub alice --prefix films/ --ttl 24h --max-sessions 2 > alice.token
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
struct Mint {
    /// The viewer's or the account's name; limits and revocations apply to it
    #[arg(long, value_name = "NAME", value_parser = name)]
    sub: String,
    /// Titles that start with this; repeat it for several, "" for all titles
    #[arg(long = "prefix", value_name = "PREFIX", required = true, value_parser = prefix)]
    prefixes: Vec<String>,
    /// Validity from now on, for example 30m or 7d
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = life)]
    ttl: Duration,
    /// Permitted action: play, fetch or publish; repeat it for several [default: play and fetch]
    #[arg(long = "action", value_name = "ACTION", value_parser = action)]
    actions: Vec<Action>,
    /// Highest rate of all sessions of the viewer together, for example 20mbit
    #[arg(long, value_name = "RATE")]
    max_rate: Option<Bitrate>,
    /// Most sessions of the viewer at once
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_sessions: Option<u32>,
    /// Zone of the viewer, in place of the one that its client states
    #[arg(long, value_name = "ZONE", value_parser = zone)]
    zone: Option<String>,
    /// Audience, as the master's --token-audience
    #[arg(long, value_name = "NAME", default_value = AUDIENCE)]
    audience: String,
    /// Issuer, as the master's --token-issuer
    #[arg(long, value_name = "NAME")]
    issuer: Option<String>,
}

fn name(text: &str) -> Result<String, String> {
    let good = (1..=255).contains(&text.len()) && !text.chars().any(char::is_control);
    if good { Ok(text.to_owned()) } else { Err("a name has 1 to 255 bytes and no control characters".to_owned()) }
}

fn prefix(text: &str) -> Result<String, String> {
    let good = text.len() <= MAX_BYTES && !text.chars().any(char::is_control);
    if good { Ok(text.to_owned()) } else { Err(format!("at most {MAX_BYTES} bytes, no control characters")) }
}

fn action(text: &str) -> Result<Action, String> {
    match text {
        "play" => Ok(Action::Play),
        "fetch" => Ok(Action::Fetch),
        "publish" => Ok(Action::Publish),
        _ => Err("write play, fetch or publish".to_owned()),
    }
}

fn zone(text: &str) -> Result<String, String> {
    usher_proto::id::zone(text).map(str::to_owned).map_err(|error| error.to_string())
}

fn life(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| format!("{error}; write for example 30m or 7d"))?;
    let range = Duration::from_secs(1)..=LONGEST_LIFE;
    if range.contains(&time) { Ok(time) } else { Err("1s to 400d".to_owned()) }
}

/// Runs `usher token`.
///
/// # Errors
/// A file could not be created or read; [`Exists`] is in the chain when a key is in the way, a [`Fault`] when a token is
/// not valid.
pub fn run(args: Args) -> anyhow::Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    execute(args, now, &mut io::stdout().lock(), &mut io::stderr().lock())
}

fn execute(args: Args, now: u64, out: &mut impl Write, notes: &mut impl Write) -> anyhow::Result<()> {
    let dir = args.dir.map_or_else(files::default_dir, Ok)?;
    match args.command {
        Command::Keygen { force } => keygen(&dir, force, out, notes),
        Command::Mint(mint) => {
            let token = mint.sign(&dir.join(PRIVATE), now)?;
            writeln!(out, "{token}").context("write to standard output")
        }
        Command::Show { token, keys, audience } => {
            let verifier = Verifier::new(audience, None, Duration::ZERO);
            show(&read_token(token.as_deref())?, &keys.unwrap_or_else(|| dir.join(PUBLIC)), &verifier, now, out)
        }
    }
}

fn keygen(dir: &Path, force: bool, out: &mut impl Write, notes: &mut impl Write) -> anyhow::Result<()> {
    let (private, public) = (dir.join(PRIVATE), dir.join(PUBLIC));
    let there = [&private, &public].into_iter().find(|path| path.symlink_metadata().is_ok());
    if let Some(path) = there.filter(|_| !force) {
        return Err(Exists(path.clone()).into());
    }
    let key = KeyPair::generate_for(&PKCS_ED25519).context("make a key")?;
    let made = fs::DirBuilder::new();
    make_private(made, dir)?;
    place(&private, 0o600, &key.serialize_pem(), force)?;
    place(&public, 0o644, &key.public_key_pem(), force)?;
    writeln!(notes, "created a key for tokens; keep {} secret", private.display())?;
    writeln!(notes, "next: usher master --viewers token --token-keys {}", public.display())?;
    for path in [private, public] {
        writeln!(out, "{}", path.display()).context("write to standard output")?;
    }
    Ok(())
}

/// Creates a directory that only its owner can read; an existing one keeps its mode.
fn make_private(mut builder: fs::DirBuilder, dir: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    builder.recursive(true).mode(0o700).create(dir).with_context(|| format!("create directory {}", dir.display()))
}

fn place(path: &Path, mode: u32, text: &str, force: bool) -> anyhow::Result<()> {
    let existing = if force { Existing::Replace } else { Existing::Keep };
    let written = Draft::write(path, mode, text.as_bytes()).and_then(|draft| draft.place(path, existing));
    match written {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(Exists(path.to_owned()).into()),
        written => written.with_context(|| format!("write {}", path.display())),
    }
}

impl Mint {
    fn sign(self, key: &Path, now: u64) -> anyhow::Result<String> {
        let pem = fs::read(key).with_context(|| {
            format!("read {}: `usher token keygen` creates it; --dir names another directory", key.display())
        })?;
        let signer = EncodingKey::from_ed_pem(&pem)
            .with_context(|| format!("read {}: not an Ed25519 key of `usher token keygen`", key.display()))?;
        let usher = UsherClaims {
            prefixes: self.prefixes,
            actions: if self.actions.is_empty() { viewing() } else { self.actions },
            max_rate_bps: self.max_rate.map(|rate| rate.0),
            max_sessions: self.max_sessions,
            zone: self.zone,
        };
        let claims = TokenClaims {
            iss: self.issuer,
            sub: self.sub,
            aud: Some(Audience::One(self.audience)),
            exp: now.saturating_add(self.ttl.as_secs()),
            nbf: None,
            iat: Some(now),
            jti: Some(format!("{:032x}", rand::rng().random::<u128>())),
            usher: Some(serde_json::to_value(usher).context("write the claims")?),
        };
        let token = jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &claims, &signer).context("sign the token")?;
        ensure!(token.len() <= MAX_TOKEN_BYTES, "the token would have {} bytes; name fewer prefixes", token.len());
        Ok(token)
    }
}

fn read_token(path: Option<&Path>) -> anyhow::Result<String> {
    let mut text = String::new();
    match path {
        None => {
            text = std::env::var("USHER_TOKEN").context("name a file with a token, or set USHER_TOKEN")?;
        }
        Some(path) if path == Path::new("-") => {
            io::stdin().lock().take(MAX_TOKEN_BYTES as u64 + 2).read_to_string(&mut text).context("read a token")?;
        }
        Some(path) => {
            let file = fs::File::open(path).with_context(|| format!("open {}", path.display()))?;
            let read = file.take(MAX_TOKEN_BYTES as u64 + 2).read_to_string(&mut text);
            read.with_context(|| format!("read {}", path.display()))?;
        }
    }
    Ok(text.trim().to_owned())
}

fn show(token: &str, keys: &Path, verifier: &Verifier, now: u64, out: &mut impl Write) -> anyhow::Result<()> {
    let text =
        fs::read_to_string(keys).with_context(|| format!("read {}: name the keys with --keys", keys.display()))?;
    let set = KeySet::parse(&text, KeySource::File).with_context(|| format!("read {}", keys.display()))?;
    // Claims are shown before they are judged: the reason of a refusal is in them.
    let claims = crate::core::verifier::signed(&set, token).map_err(|error| Fault::from(&error))?;
    let shown = serde_json::to_string_pretty(&claims).context("write the claims")?;
    writeln!(out, "{shown}").context("write to standard output")?;
    verifier.verify(&set, now, token).map_err(|error| Fault::from(&error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn token(dir: &Path, now: u64, words: &[&str]) -> (anyhow::Result<()>, String) {
        let dir = dir.to_str().expect("UTF-8");
        let words = ["token"].into_iter().chain(words.iter().copied()).chain(["--dir", dir]);
        let args = Cli::try_parse_from(words).expect("a command").args;
        let mut out = Vec::new();
        let done = execute(args, now, &mut out, &mut Vec::new());
        (done, String::from_utf8(out).expect("text"))
    }

    #[test]
    fn a_minted_token_is_shown_until_it_expires() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().expect("a directory");
        let (missing, _) = token(dir.path(), 0, &["mint", "--sub", "a", "--prefix", ""]);
        assert!(format!("{:#}", missing.expect_err("no key")).contains("usher token keygen"));
        token(dir.path(), 0, &["keygen"]).0.expect("made");
        let mode = |name: &str| fs::metadata(dir.path().join(name)).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode(PRIVATE), 0o600);
        let (again, _) = token(dir.path(), 0, &["keygen"]);
        assert!(again.expect_err("exists").is::<Exists>());

        let words = ["mint", "--sub", "alice", "--prefix", "films/", "--ttl", "60s", "--max-rate", "8mbit"];
        let (done, minted) = token(dir.path(), 1000, &words);
        done.expect("minted");
        let file = dir.path().join("alice.token");
        fs::write(&file, &minted).expect("written");
        let file = file.to_str().expect("UTF-8");
        let (shown, text) = token(dir.path(), 1059, &["show", file]);
        shown.expect("valid");
        let claims: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let expected = serde_json::json!({
            "prefixes": ["films/"], "actions": ["play", "fetch"], "max_rate_bps": 8_000_000,
        });
        assert_eq!((&claims["sub"], &claims["exp"], &claims["usher"]), (&"alice".into(), &1060.into(), &expected));
        let (late, text) = token(dir.path(), 1060, &["show", file]);
        let late = late.expect_err("expired");
        assert!(late.downcast_ref::<Fault>().is_some_and(|fault| fault.message.contains("expired")), "{late}");
        assert!(text.contains("alice"));
        // Another key.
        token(dir.path(), 0, &["keygen", "--force"]).0.expect("made");
        let (foreign, text) = token(dir.path(), 1000, &["show", file]);
        assert!(foreign.expect_err("foreign").to_string().contains("signature") && text.is_empty());
    }

    #[test]
    fn wrong_options() {
        for words in [
            &["mint", "--sub", "a"][..],
            &["mint", "--prefix", "a"],
            &["mint", "--sub", "", "--prefix", "a"],
            &["mint", "--sub", "a", "--prefix", "a", "--ttl", "0s"],
            &["mint", "--sub", "a", "--prefix", "a", "--ttl", "401d"],
            &["mint", "--sub", "a", "--prefix", "a", "--action", "rule"],
            &["mint", "--sub", "a", "--prefix", "a", "--max-sessions", "0"],
        ] {
            let words = ["token"].into_iter().chain(words.iter().copied());
            assert!(Cli::try_parse_from(words).is_err());
        }
    }
}
