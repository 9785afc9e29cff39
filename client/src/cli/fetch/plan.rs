//! Which titles the URLs of a `fetch` mean, and which file each becomes.

use std::{
    collections::{HashMap, HashSet},
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use usher_proto::{Code, Fault, Title, model::What, pb::v1};

use crate::{
    cli::failure::Failure,
    client::Client,
    core::{
        table::clean,
        url::{Address, Url},
    },
};

/// Most titles of one pattern.
const MAX_JOBS: usize = 100_000;

/// Most titles that are compared with a pattern: several times those of the largest cluster.
const MAX_LISTED: usize = 10_000_000;

/// One title to fetch.
#[derive(Clone)]
pub(super) struct Job {
    pub(super) client: Arc<Client>,
    pub(super) what: What,
    pub(super) title: Title,
    /// Found by a pattern: its folders are kept.
    pub(super) nested: bool,
    pub(super) output: Output,
}

/// Where a title goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Output {
    Stdout,
    File(PathBuf),
    /// A device or a FIFO, which is written through to.
    Through(PathBuf),
}

/// The clients of the masters that the URLs name.
pub(super) type Clients = HashMap<Address, Arc<Client>>;

/// The titles that one URL means; none matching is [`Code::NotFound`].
pub(super) async fn titles(url: &Url, client: &Arc<Client>, from_id: bool) -> Result<Vec<Job>, Failure> {
    let usage = |error: &dyn std::fmt::Display| Failure::new(Code::Usage, format!("{url}: {error}"));
    let job = |what, title, nested| Job { client: Arc::clone(client), what, title, nested, output: Output::Stdout };
    let named = |title: Title, nested| job(What::Title(title.clone()), title, nested);
    if from_id {
        let content = url.content().map_err(|error| usage(&error))?;
        let what = What::Content(content);
        let versions = client.locate(&what).await?;
        let name = versions.iter().find_map(|version| version.title.as_ref()).map(|title| title.title.as_str());
        // A client trusts no master with a file name.
        let title = Title::parse(name.unwrap_or_default())
            .map_err(|error| Fault::new(Code::Internal, format!("the master's name of {content}: {error}")))?;
        return Ok(vec![job(what, title, false)]);
    }
    let Some(pattern) = url.pattern().map_err(|error| usage(&error))? else {
        return Ok(vec![named(url.title().map_err(|error| usage(&error))?, false)]);
    };
    // A title that looks like a pattern sorts first among those that begin with it.
    if let Ok(title) = url.title()
        && client.list(title.as_str(), 1).await?.first().is_some_and(|first| first.title == title.as_str())
    {
        return Ok(vec![named(title, false)]);
    }
    let (mut jobs, mut listed) = (Vec::new(), 0);
    let each = |page: Vec<v1::Title>| {
        listed += page.len();
        // A feed has no end: it is recorded by its name.
        // No node offers an unfinished file, and the name of one could be the part of another title.
        let is_part = |name: &str| name.ends_with(".part") || name.ends_with(".part.state");
        let wanted = |title: &&v1::Title| title.live.is_none() && !is_part(&title.title);
        let found = page.iter().filter(|title| wanted(title) && pattern.matches(&title.title));
        jobs.extend(found.filter_map(|title| Title::parse(&title.title).ok()).map(|title| named(title, true)));
        jobs.len() <= MAX_JOBS && listed <= MAX_LISTED
    };
    client.list_pages(&pattern.prefix, usize::MAX, each).await?;
    if jobs.len() > MAX_JOBS {
        return Err(usage(&format!("more than {MAX_JOBS} titles match; write a narrower pattern")));
    }
    if listed > MAX_LISTED {
        return Err(usage(&format!("more than {MAX_LISTED} titles begin like the pattern; write a longer beginning")));
    }
    if jobs.is_empty() {
        return Err(Failure::new(Code::NotFound, format!("no title matches {url}; `usher ls` lists what there is")));
    }
    Ok(jobs)
}

/// Gives every job its file. `output` is what the user wrote.
pub(super) fn outputs(jobs: &mut [Job], output: Option<&Path>) -> Result<(), Failure> {
    let usage = |text: String| Failure::new(Code::Usage, text);
    let single = jobs.len() == 1 && jobs.iter().all(|job| !job.nested);
    if output == Some(Path::new("-")) {
        if jobs.len() != 1 {
            return Err(usage(format!("standard output takes one title, not {}", jobs.len())));
        }
        jobs.iter_mut().for_each(|job| job.output = Output::Stdout);
        return Ok(());
    }
    let folder = match output {
        None => PathBuf::new(),
        Some(path) if single && !is_folder(path) => {
            let output = place(path)?;
            jobs.iter_mut().for_each(|job| job.output = output.clone());
            return Ok(());
        }
        Some(path) if path.exists() && !path.is_dir() => {
            return Err(usage(format!("{} is a file; several titles need a folder", path.display())));
        }
        Some(path) if !is_folder(path) => {
            let path = path.display();
            return Err(usage(format!("{path} does not exist; write {path}/ to make a folder for the titles")));
        }
        Some(path) => path.to_owned(),
    };
    let mut taken = HashSet::new();
    for job in jobs {
        // A title's parts are ordinary names, so joining one never leaves the folder.
        let name = if job.nested { job.title.as_str() } else { job.title.file_name() };
        let path = folder.join(name);
        if !taken.insert(path.clone()) {
            let text = format!(
                "two titles would become {}: fetch them into different folders",
                clean(&path.display().to_string())
            );
            return Err(usage(text));
        }
        job.output = Output::File(path);
    }
    Ok(())
}

/// The output at a path that is not a folder: a device or FIFO is never replaced by a file.
fn place(path: &Path) -> Result<Output, Failure> {
    let Ok(kind) = path.metadata().map(|meta| meta.file_type()) else { return Ok(Output::File(path.to_owned())) };
    if kind.is_fifo() || kind.is_char_device() || kind.is_block_device() {
        return Ok(Output::Through(path.to_owned()));
    }
    if kind.is_file() {
        return Ok(Output::File(path.to_owned()));
    }
    let text = format!("{} is neither a file, a device nor a FIFO; choose another -o", path.display());
    Err(Failure::new(Code::Usage, text))
}

fn is_folder(path: &Path) -> bool {
    path.is_dir() || path.as_os_str().as_encoded_bytes().ends_with(b"/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Authority, Options};

    fn jobs(titles: &[(&str, bool)]) -> Vec<Job> {
        let issuer = usher_certs::Authority::create("test", std::time::SystemTime::now()).expect("authority");
        let authority = Authority { pem: issuer.ca_pem().to_owned(), source: PathBuf::from("test") };
        let client = Client::new(Address::default(), authority, Options::default()).expect("client");
        let client = Arc::new(client);
        let job = |(title, nested): &(&str, bool)| {
            let title = Title::parse(title).expect("valid");
            let (client, what) = (Arc::clone(&client), What::Title(title.clone()));
            Job { client, what, title, nested: *nested, output: Output::Stdout }
        };
        titles.iter().map(job).collect()
    }

    #[tokio::test]
    async fn files() {
        let folder = tempfile::tempdir().expect("temp");
        let (here, file) = (folder.path(), folder.path().join("file"));
        std::fs::write(&file, b"").expect("file");
        let paths = |titles: &[(&str, bool)], output: Option<&Path>| {
            let mut jobs = jobs(titles);
            outputs(&mut jobs, output)?;
            Ok::<_, Failure>(jobs.into_iter().map(|job| job.output).collect::<Vec<_>>())
        };
        let at = |path: PathBuf| Output::File(path);
        let one = [("films/a.mp4", false)];
        assert_eq!(paths(&one, None), Ok(vec![at("a.mp4".into())]));
        assert_eq!(paths(&one, Some(&here.join("new"))), Ok(vec![at(here.join("new"))]));
        assert_eq!(paths(&one, Some(here)), Ok(vec![at(here.join("a.mp4"))]));
        assert_eq!(paths(&one, Some(&here.join("new/"))), Ok(vec![at(here.join("new/a.mp4"))]));
        assert_eq!(paths(&one, Some(&file)), Ok(vec![at(file.clone())]), "overwriting is refused later");
        assert_eq!(paths(&one, Some(Path::new("-"))), Ok(vec![Output::Stdout]));
        assert_eq!(
            paths(&one, Some(Path::new("/dev/null"))),
            Ok(vec![Output::Through("/dev/null".into())]),
            "a device is no file to replace"
        );
        let socket = here.join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("binds");
        assert!(paths(&one, Some(&socket)).is_err_and(|failure| failure.code == Code::Usage));
        let found = [("films/a.mp4", true)];
        assert_eq!(paths(&found, Some(&here.join("new/"))), Ok(vec![at(here.join("new/films/a.mp4"))]));
        let two = [("x/a.mp4", false), ("y/b.mp4", false)];
        assert_eq!(paths(&two, Some(here)), Ok(vec![at(here.join("a.mp4")), at(here.join("b.mp4"))]));
        let usage = |result: Result<Vec<Output>, Failure>| result.is_err_and(|failure| failure.code == Code::Usage);
        assert!(usage(paths(&two, Some(Path::new("-")))));
        assert!(usage(paths(&two, Some(&file))));
        assert!(usage(paths(&two, Some(&here.join("one.mp4")))), "a folder is made of `one.mp4/` only");
        assert!(usage(paths(&[("x/a", false), ("y/a", false)], Some(here))));
        assert!(paths(&[("x/a", true), ("y/a", true)], Some(here)).is_ok());
    }
}
