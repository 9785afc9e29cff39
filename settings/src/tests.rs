//! Precedence, lists, flags and groups of one small struct of settings.

use std::time::Duration;

use super::*;

#[derive(Clone, Debug, PartialEq, Eq, Args, serde::Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct Server {
    #[arg(long)]
    queue: usize,
    #[arg(long, value_delimiter = ',')]
    names: Vec<String>,
    #[arg(long, value_parser = humantime::parse_duration)]
    #[serde(deserialize_with = "de::duration")]
    max_age: Duration,
    #[arg(long, value_parser = size)]
    #[serde(deserialize_with = "de::size_or_none")]
    quota: Option<u64>,
    #[arg(long, action = clap::ArgAction::Set, num_args = 0, default_missing_value = "true")]
    quiet: bool,
    #[arg(long)]
    key: Option<String>,
    #[arg(long)]
    keys: Option<String>,
    #[arg(skip)]
    only_in_file: Vec<u8>,
}

impl Default for Server {
    fn default() -> Self {
        let (names, max_age) = (vec!["a".to_owned()], Duration::from_secs(5));
        Self { queue: 7, names, max_age, quota: None, quiet: false, key: None, keys: None, only_in_file: Vec::new() }
    }
}

impl Settings for Server {
    fn replace_groups(&mut self, given: &dyn Fn(&str) -> bool) {
        if given("keys") {
            self.key = None;
        }
    }
}

fn load(file: &str, words: &[&str]) -> anyhow::Result<Server> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("server.toml");
    fs::write(&path, file)?;
    let path = path.to_str().context("a path")?;
    let command = Layered::<Server>::augment_args(Command::new("server"));
    let matches = command.try_get_matches_from([&["server", "--config", path], words].concat())?;
    Layered::<Server>::from_arg_matches(&matches)?.load()
}

#[test]
fn options_override_the_file_which_overrides_the_default() {
    assert_eq!(load("", &[]).expect("good"), Server::default());
    let file =
        "queue = 8\nnames = ['b', 'c']\nmax-age = '1m'\nquota = '2kB'\nquiet = true\nonly-in-file = [1]\nkey = 'k'";
    let in_file = Server {
        queue: 8,
        names: vec!["b".into(), "c".into()],
        max_age: Duration::from_secs(60),
        quota: Some(2000),
        quiet: true,
        key: Some("k".into()),
        keys: None,
        only_in_file: vec![1],
    };
    assert_eq!(load(file, &[]).expect("good"), in_file);
    let given = load(file, &["--queue", "9", "--names", "d,e", "--keys", "x", "--max-age", "2s"]).expect("good");
    let (names, keys) = (vec!["d".into(), "e".into()], Some("x".into()));
    assert_eq!(given, Server { queue: 9, names, max_age: Duration::from_secs(2), key: None, keys, ..in_file });
    assert!(load("", &["--quiet"]).expect("good").quiet);
}

#[test]
fn errors_name_the_option_or_the_file() {
    for (file, words, part) in [
        ("qeue = 1", &[][..], "unknown field `qeue`"),
        ("max-age = 'soon'", &[], "max-age"),
        ("quota = '5'", &[], "no size"),
        ("", &["--queue", "x"], "--queue"),
        ("", &["--quota", "5"], "no size"),
    ] {
        let error = format!("{:#}", load(file, words).expect_err(part));
        assert!(error.contains(part), "{error}");
        assert!(file.is_empty() || error.contains("server.toml"), "{error}");
    }
}
