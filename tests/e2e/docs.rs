//! The documentation: its commands run as a newcomer would run them, its options and links exist.
//!
//! A fenced block marked `sh` is executed, all blocks of a page in order in one shell, against a cluster with the demo's
//! titles. In a block marked `sh no_run` (servers, players, other machines) the options are compared with `--help`. A
//! `toml` block that starts with the name of a configuration file is checked with `--check-config`.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use usher_kit::run;

use crate::{
    cluster::Cluster,
    parts::{real_part, usher},
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every page for users, in order.
fn pages() -> Vec<PathBuf> {
    let mut pages: Vec<PathBuf> = ["README.md", "CONTRIBUTING.md"].map(|page| root().join(page)).into();
    for folder in ["docs", "docs/design"] {
        let entries = fs::read_dir(root().join(folder)).expect("the folder can be listed");
        let files = entries.map(|entry| entry.expect("an entry").path());
        pages.extend(files.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    }
    pages.sort();
    pages
}

/// The fenced blocks of a page whose info string is `info`.
fn blocks(page: &Path, info: &str) -> Vec<String> {
    let text = fs::read_to_string(page).expect("the page can be read");
    let mut blocks = Vec::new();
    let mut open: Option<(bool, String)> = None;
    for line in text.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(found), None) => open = Some((found == info, String::new())),
            (Some(_), Some(_)) => {
                let (wanted, block) = open.take().expect("a block is open");
                blocks.extend(wanted.then_some(block));
            }
            (None, Some((_, block))) => {
                block.push_str(line);
                block.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "{}: a code block is not closed", page.display());
    blocks
}

/// Runs the `sh` blocks of a page in one shell, in a home folder of its own.
fn run_page(cluster: &Cluster, page: &Path) {
    let script = blocks(page, "sh").concat();
    let name = page.file_name().expect("a page has a name");
    let home = cluster.path().join("homes").join(name);
    let certs = home.join(".config/usher/certs");
    fs::create_dir_all(&certs).expect("a home folder");
    // A page that shows how to create an authority starts without one.
    if !script.contains("certs init") {
        for entry in fs::read_dir(cluster.certs()).expect("the certificates can be listed") {
            let entry = entry.expect("an entry");
            fs::copy(entry.path(), certs.join(entry.file_name())).expect("a certificate can be copied");
        }
    }
    let here =
        |text: &str| text.replace("localhost:7440", &cluster.address).replace("usher://localhost/", &cluster.url(""));
    let [_, cert, _, key] = cluster.operator();
    let program = usher().get_program().to_owned();
    let folders = [Path::new(&program).to_owned(), real_part("grpcurl")];
    let folders = folders.iter().filter_map(|path| path.parent().map(Path::to_path_buf));
    let inherited = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(folders.chain(std::env::split_paths(&inherited))).expect("a search path");
    let mut shell = Command::new("bash");
    shell.args(["-euo", "pipefail", "-c", &here(&script)]).current_dir(&home);
    shell.env("HOME", &home).env_remove("XDG_CONFIG_HOME").env("PATH", path);
    shell.env("USHER_MASTER", &cluster.address).env("USHER_CA", cluster.ca());
    shell.env("USHER_CERT", cert).env("USHER_KEY", key);
    run(&mut shell).expect(0);
}

#[test]
fn the_commands_of_every_page_run() {
    let cluster = Cluster::figure_4();
    let mut ran = 0;
    for page in pages() {
        if !blocks(&page, "sh").is_empty() {
            run_page(&cluster, &page);
            ran += 1;
        }
    }
    assert!(ran >= 4, "README, operating, live and api have commands; {ran} pages were run");
}

/// The words of a command line, without what follows a `#`; quotes and continuation lines are not needed here.
fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().take_while(|word| !word.starts_with('#')).collect()
}

/// The output of `usher SUBCOMMAND --help` for the subcommands at the start of `words`, and the words after them.
fn help<'a>(words: &'a [&'a str]) -> (String, &'a [&'a str]) {
    let names = words.iter().take_while(|word| word.chars().all(|c| c.is_ascii_lowercase())).count();
    // `usher fetch live` would be two names; the longest that has help of its own is meant.
    for count in (1..=names).rev() {
        let said = run(usher().args(&words[..count]).arg("--help"));
        if said.code == 0 {
            return (said.out, &words[count..]);
        }
    }
    panic!("no such command: usher {}", words.join(" "));
}

#[test]
fn the_options_of_commands_that_are_not_run_exist() {
    let mut checked = 0;
    for page in pages() {
        for line in blocks(&page, "sh no_run").iter().flat_map(|block| block.lines()) {
            for part in line.split('|') {
                let words = words(part);
                let Some(("usher", rest)) = words.split_first().map(|(first, rest)| (*first, rest)) else { continue };
                let (help, rest) = help(rest);
                for option in rest.iter().filter(|word| word.starts_with('-') && word.len() > 1) {
                    let known = help.split([' ', ',', '\n']).any(|word| word == *option);
                    assert!(known, "{}: `{option}` of `{}` is not in its help", page.display(), part.trim());
                }
                checked += 1;
            }
        }
    }
    assert!(checked >= 8, "{checked} commands were checked");
}

#[test]
fn the_configuration_files_of_the_pages_are_valid() {
    let cluster = Cluster::empty();
    let folder = cluster.path().join("etc");
    for title in ["films", "series"] {
        fs::create_dir_all(folder.join("srv").join(title)).expect("a media folder");
    }
    run(usher().args(["certs", "issue", "node", "north-1", "--dir"]).arg(cluster.certs())).expect(0);
    let mut checked = BTreeSet::new();
    for page in pages() {
        for block in blocks(&page, "toml") {
            let Some(role) = block.strip_prefix("# /etc/usher/").and_then(|rest| rest.split_once(".toml")) else {
                continue;
            };
            let (role, file) = (role.0, folder.join(format!("{}.toml", role.0)));
            let media = format!("{}/", folder.join("srv").display());
            fs::write(&file, block.replace("/srv/", &media)).expect("written");
            let mut check = usher();
            check.args([role, "--check-config", "--config"]).arg(&file).arg("--certs").arg(cluster.certs());
            check.arg("--state").arg(folder.join("state"));
            run(&mut check).expect(0);
            checked.insert(role.to_owned());
        }
    }
    assert!(checked.contains("node") && checked.contains("master"), "{checked:?}");
}

#[test]
fn the_links_and_source_paths_of_the_pages_exist() {
    let architecture = root().join("ARCHITECTURE.md");
    for page in pages().into_iter().chain([architecture]) {
        let text = fs::read_to_string(&page).expect("the page can be read");
        let folder = page.parent().expect("a page lies in a folder");
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap_or_default();
            let local = !link.contains("://") && !file.is_empty();
            assert!(!local || folder.join(file).exists(), "{}: {link} leads nowhere", page.display());
        }
        // Every other part between backticks is code; a source file's path is named from the root.
        for path in
            text.split('`').skip(1).step_by(2).filter(|code| code.contains("/src/") && !code.contains(['{', '*', ' ']))
        {
            assert!(root().join(path).exists(), "{}: there is no {path}", page.display());
        }
    }
}
