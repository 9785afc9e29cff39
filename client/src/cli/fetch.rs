//! `usher fetch`: titles to files or to standard output, several at once, verified, resumable.

mod plan;

use std::{
    collections::VecDeque,
    io::Read as _,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use tokio::{sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;
use usher_proto::{Bitrate, Code, ContentId, Fault, Title, model::Range, ticket::Purpose, units, wire::MAX_STREAMS};
use usher_transport::Congestion;

use self::plan::{Clients, Job, Output};
use super::{
    Failure, Reach, interrupted,
    live::{self, LiveArgs, Recording},
    meter::{Board, Mode, outcome_json},
    print, tell_request, zone,
};
use crate::{
    client::Options,
    core::{range, url::Url},
    driver::{Order, Outcome, Sink},
    master::Answer,
    sink::{FileSink, ThroughSink},
};

/// Fetch titles and verify them.
#[derive(Clone, Debug, clap::Args)]
pub struct FetchArgs {
    /// Titles, or patterns of titles (`*` stays within a folder, `**` crosses folders)
    #[arg(required = true, value_name = "usher://HOST[:PORT]/TITLE", value_parser = live::url)]
    urls: Vec<Url>,
    /// The file, the folder, or `-` for standard output [default: the current folder]
    #[arg(short, long, value_name = "FILE|DIR|-")]
    output: Option<PathBuf>,
    /// Only these bytes: FIRST-LAST, both included and counted from 0, or FIRST-
    #[arg(long, value_name = "A-B", value_parser = range::parse)]
    range: Option<Range>,
    /// Rate of all titles together, for example 25mbit or 3MB/s
    #[arg(long, value_name = "RATE")]
    limit_rate: Option<Bitrate>,
    /// Titles at once; a node serves at most 100 on a connection
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_STREAMS)))]
    parallel: u16,
    /// The path of each URL is a content id, as `b3sum` prints it
    #[arg(long)]
    from_id: bool,
    /// Overwrite files that exist
    #[arg(long)]
    force: bool,
    /// How progress is shown on standard error
    #[arg(long, value_enum, default_value_t = Mode::Auto)]
    progress: Mode,
    /// Print a JSON array about the fetched titles at the end
    #[arg(long)]
    json: bool,
    /// Nodes that may send a title at once, 1 to 8, or `auto`: one more while that makes it clearly faster
    #[arg(long, value_name = "N|auto", default_value = "auto")]
    sources: SourceCount,
    /// How congestion is found and answered
    #[arg(long, env = "USHER_CONGESTION", value_enum, default_value_t)]
    congestion: Congestion,
    /// Tell the request id, for `usher explain --request` and to find it in logs
    #[arg(short, long)]
    verbose: bool,
    /// The zone that this client is in
    #[arg(long, value_name = "ZONE", default_value = "", value_parser = zone)]
    zone: String,
    #[command(flatten)]
    reach: Reach,
    /// Record so much of a feed; without it, until the feed or you end it
    #[arg(long, value_name = "TIME", value_parser = live::duration, allow_hyphen_values = true, help_heading = "Feeds (live/NAME)")]
    duration: Option<Duration>,
    #[command(flatten)]
    live: LiveArgs,
}

/// Nodes that may send one title at once; `None` for as many as help.
#[derive(Clone, Copy, Debug)]
struct SourceCount(Option<usize>);

impl FromStr for SourceCount {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match (text, text.parse()) {
            ("auto", _) => Ok(Self(None)),
            (_, Ok(count @ 1..=8)) => Ok(Self(Some(count))),
            _ => Err("write a number from 1 to 8, or auto"),
        }
    }
}

/// What a task of its own needs to fetch one title.
struct Task {
    job: Job,
    order: Order,
    first: Option<Result<Answer, Fault>>,
    force: bool,
    board: Board,
    stop: CancellationToken,
}

impl FetchArgs {
    /// What `usher fetch URL --output OUTPUT --ca CA` would parse to.
    pub fn one(url: Url, output: PathBuf, ca: PathBuf) -> Self {
        Self {
            urls: vec![url],
            output: Some(output),
            range: None,
            limit_rate: None,
            parallel: 1,
            from_id: false,
            force: false,
            progress: Mode::Auto,
            json: false,
            sources: SourceCount(None),
            congestion: Congestion::default(),
            verbose: false,
            zone: String::new(),
            reach: Reach { ca: Some(ca), timeout: Options::default().timeout },
            duration: None,
            live: LiveArgs::default(),
        }
    }

    /// Fetches. With several titles one that fails does not end the others; the first failure names the exit code.
    ///
    /// # Errors
    /// What to print and exit with.
    pub async fn run(self) -> Result<(), Failure> {
        if self.json && self.output.as_deref().is_some_and(|path| path.as_os_str() == "-") {
            return Err(Failure::new(Code::Usage, "--json and `-o -` both want standard output; drop one of them"));
        }
        if let Some(title) = self.urls.iter().find_map(live::feed) {
            return self.record(&title).await;
        }
        self.live.none()?;
        if self.duration.is_some() {
            return Err(Failure::new(
                Code::Usage,
                "--duration is for feeds, `live/NAME`; a part of a title is --range",
            ));
        }
        let mut clients = Clients::new();
        for url in &self.urls {
            if !clients.contains_key(&url.master) {
                let options = Options {
                    zone: self.zone.clone(),
                    limit: self.limit_rate,
                    congestion: self.congestion,
                    sources: self.sources.0,
                    ..Options::default()
                };
                let client = self.reach.client(url.master.clone(), options)?;
                if self.verbose {
                    tell_request(&client);
                }
                clients.insert(url.master.clone(), Arc::new(client));
            }
        }
        let stop = CancellationToken::new();
        let result = {
            let work = Box::pin(self.work(&clients, &stop));
            tokio::pin!(work);
            tokio::select! {
                result = &mut work => result,
                () = interrupted() => {
                    stop.cancel();
                    tokio::select! {
                        result = &mut work => result,
                        // A second one does not wait for the disk.
                        () = interrupted() => Err(Failure::new(Code::Interrupted, "interrupted twice")),
                    }
                }
            }
        };
        for client in clients.values() {
            client.close().await;
        }
        result
    }

    /// Records a feed.
    async fn record(&self, title: &Title) -> Result<(), Failure> {
        let usage = |text: &str| Err(Failure::new(Code::Usage, format!("{title}: {text}")));
        let [url] = self.urls.as_slice() else { return usage("a feed is recorded by a command of its own") };
        if self.range.is_some() || self.from_id {
            return usage("a feed has no bytes to choose from and no content id; --from and --duration choose");
        }
        if url.pattern().is_ok_and(|pattern| pattern.is_some()) {
            return usage("a feed is recorded by its name; `usher ls` lists those on the air");
        }
        if self.limit_rate.is_some() {
            return usage("a feed comes at its own rate; --limit-rate is for titles");
        }
        let output = match self.output.clone() {
            Some(path) if path.as_os_str() == "-" => None,
            Some(path) if path.is_dir() => Some(path.join(title.file_name())),
            Some(path) => Some(path),
            None => Some(PathBuf::from(title.file_name())),
        };
        let options = Options { zone: self.zone.clone(), congestion: self.congestion, ..Options::default() };
        let client = self.reach.client(url.master.clone(), options)?;
        if self.verbose {
            tell_request(&client);
        }
        let recording = Recording {
            title,
            args: &self.live,
            duration: self.duration,
            output,
            force: self.force,
            progress: self.progress,
        };
        let done = Box::pin(live::record(&client, recording, interrupted())).await;
        client.close().await;
        let done = done?;
        if self.json { print(&format!("{:#}\n", serde_json::Value::Array(vec![done]))) } else { Ok(()) }
    }

    async fn work(&self, clients: &Clients, stop: &CancellationToken) -> Result<(), Failure> {
        let board = Board::new(self.progress);
        let planned = tokio::select! {
            planned = self.plan(clients) => planned?,
            () = stop.cancelled() => return Err(Failure::new(Code::Interrupted, "interrupted before anything was fetched")),
        };
        let (mut jobs, mut failures) = planned;
        let single = jobs.len() + failures.len() == 1;
        plan::outputs(&mut jobs, self.output.as_deref())?;
        let several = jobs.len() > 1;
        let first = if several { self.resolve_first(&jobs, stop).await? } else { VecDeque::new() };
        let mut first = first.into_iter();

        let slots = Arc::new(Semaphore::new(usize::from(self.parallel)));
        let mut tasks = JoinSet::new();
        for job in jobs {
            let order = self.order(&job);
            let first = first.next().flatten();
            let (board, stop, slots) = (board.clone(), stop.clone(), Arc::clone(&slots));
            let task = Task { job, order, first, force: self.force, board, stop };
            tasks.spawn(async move {
                // The semaphore is never closed; were it, the title would simply not wait.
                let _slot = slots.acquire_owned().await.ok();
                Box::pin(task.run()).await
            });
        }
        let mut done = Vec::new();
        for failure in &failures {
            if !single {
                board.note(&format!("error: {failure}"));
            }
        }
        while let Some(result) = tasks.join_next().await {
            match result {
                Ok(Ok(outcome)) => done.push(outcome_json("done", &outcome.0, &outcome.1)),
                Ok(Err(failure)) => {
                    if !single {
                        board.note(&format!("error: {failure}"));
                    }
                    failures.push(failure);
                }
                Err(error) => failures.push(Failure::new(Code::Internal, format!("a transfer died: {error}"))),
            }
        }
        let all = done.len() + failures.len();
        if self.json {
            print(&format!("{:#}\n", serde_json::Value::Array(done)))?;
        }
        // An interruption names the exit code, whatever failed before it: what is missing can be resumed.
        let first = failures.iter().position(|failure| failure.code == Code::Interrupted).unwrap_or_default();
        match failures.into_iter().nth(first) {
            None => Ok(()),
            // A reader that has seen enough, as `head` has, is no failure, and wants no message.
            Some(failure) if failure.code == Code::Cancelled => Ok(()),
            Some(failure) if single => Err(failure),
            Some(failure) if failure.code == Code::Interrupted => Err(failure),
            Some(first) => {
                Err(Failure::new(first.code, format!("not all of {all} titles were fetched; the first: {first}")))
            }
        }
    }

    /// The titles to fetch, and the URLs that mean none.
    async fn plan(&self, clients: &Clients) -> Result<(Vec<Job>, Vec<Failure>), Failure> {
        let (mut jobs, mut failures) = (Vec::new(), Vec::new());
        for url in &self.urls {
            let Some(client) = clients.get(&url.master) else { continue };
            match plan::titles(url, client, self.from_id).await {
                Ok(found) => jobs.extend(found),
                Err(failure) if failure.code == Code::Usage || self.urls.len() == 1 => return Err(failure),
                Err(failure) => failures.push(failure),
            }
        }
        Ok((jobs, failures))
    }

    fn order(&self, job: &Job) -> Order {
        job.client.order(job.what.clone(), Purpose::Fetch, self.range.unwrap_or_default())
    }

    /// Asks for the titles that start at once together, so that one node may serve them all. Later ones are asked for
    /// when their turn comes: a seat is kept for a short time only.
    async fn resolve_first(
        &self,
        jobs: &[Job],
        stop: &CancellationToken,
    ) -> Result<VecDeque<Option<Result<Answer, Fault>>>, Failure> {
        let mut answers = VecDeque::new();
        let Some(client) = jobs.first().map(|job| &job.client) else { return Ok(answers) };
        let here = jobs.iter().take(usize::from(self.parallel)).take_while(|job| Arc::ptr_eq(&job.client, client));
        // A title whose file exists will not be fetched, and must not take up anyone's capacity.
        let orders: Vec<Option<Order>> =
            here.map(|job| refused(&job.output, self.force).is_none().then(|| self.order(job))).collect();
        let wanted: Vec<&Order> = orders.iter().flatten().collect();
        let resolved = tokio::select! {
            resolved = client.resolve_many(&wanted) => resolved,
            () = stop.cancelled() => return Ok(answers),
        };
        match resolved {
            Ok(resolved) => {
                let mut resolved = resolved.into_iter();
                answers.extend(orders.iter().map(|order| order.as_ref().and_then(|_| resolved.next())));
            }
            // The master was waited for already: no title would find it.
            Err(fault) if matches!(fault.code, Code::Network | Code::Timeout | Code::Denied) => {
                return Err(fault.into());
            }
            // Each title will say for itself what is wrong with it.
            Err(fault) => tracing::debug!(%fault, "titles could not be resolved together"),
        }
        Ok(answers)
    }
}

/// Why a title will not be written.
fn refused(output: &Output, force: bool) -> Option<Fault> {
    match output {
        Output::Stdout | Output::Through(_) => None,
        Output::File(path) => FileSink::new(path.clone(), force).check().err(),
    }
}

impl Task {
    async fn run(self) -> Result<(Outcome, String), Failure> {
        let title = self.job.title.clone();
        let meter = self.board.meter(title.as_str());
        let output = match &self.job.output {
            Output::Stdout => "-".to_owned(),
            Output::File(path) | Output::Through(path) => path.display().to_string(),
        };
        let result = match refused(&self.job.output, self.force) {
            Some(fault) => match Box::pin(self.there_already()).await {
                Ok(Some(outcome)) => {
                    let content = outcome.content;
                    let line = format!("{title}: already there, verified BLAKE3 {content} -> {output}");
                    meter.done(&outcome, &line, &output);
                    return Ok((outcome, output));
                }
                Ok(None) => Err(fault),
                Err(other) => Err(other),
            },
            None => Box::pin(self.transfer(&meter)).await,
        };
        match result {
            Ok(Some(outcome)) => {
                meter.done(&outcome, &line(&outcome, &output), &output);
                Ok((outcome, output))
            }
            Ok(None) => Err(Failure::new(Code::Cancelled, "the reader of the output left")),
            Err(fault) => {
                meter.failed(&fault);
                let plain = matches!(fault.code, Code::Exists | Code::Interrupted);
                let message = if plain { fault.message } else { format!("{title}: {}", fault.message) };
                Err(Failure::new(fault.code, message))
            }
        }
    }

    /// A file that exists and holds the whole title, as one that an earlier run has finished.
    async fn there_already(&self) -> Result<Option<Outcome>, Fault> {
        let started = std::time::Instant::now();
        let Output::File(path) = &self.job.output else { return Ok(None) };
        let Some(size) = path.metadata().ok().filter(std::fs::Metadata::is_file).map(|meta| meta.len()) else {
            return Ok(None);
        };
        if self.order.range != Range::default() {
            return Ok(None);
        }
        let versions = tokio::select! {
            versions = self.job.client.locate(&self.order.what) => versions,
            () = self.stop.cancelled() => return Err(Fault::new(Code::Interrupted, format!("{}: interrupted", self.job.title))),
        };
        let versions = match versions {
            // That the file is in the way is still true.
            Err(fault) if fault.code == Code::NotFound => return Ok(None),
            versions => versions?,
        };
        let same_size = versions.iter().filter_map(|version| version.title.as_ref()).filter(|title| title.size == size);
        let contents: Vec<ContentId> = same_size.filter_map(|title| title.content_id.parse().ok()).collect();
        if contents.is_empty() {
            return Ok(None);
        }
        let (path, stop) = (path.clone(), self.stop.clone());
        let hashed = tokio::task::spawn_blocking(move || hash(&path, &stop)).await;
        let content = match hashed {
            Ok(hashed) => hashed?,
            Err(error) => return Err(Fault::new(Code::Internal, format!("hash a file: {error}"))),
        };
        Ok(contents.contains(&content).then(|| Outcome {
            title: self.job.title.clone(),
            content,
            bytes: size,
            resumed: size,
            node: None,
            reason: String::new(),
            request_id: String::new(),
            elapsed: started.elapsed(),
        }))
    }

    /// Writes in order to something that is no file; `None` when its reader left.
    async fn pour(
        &self,
        mut sink: impl Sink,
        observer: &(dyn Fn(&crate::driver::FetchEvent) + Send + Sync),
    ) -> Result<Option<Outcome>, Fault> {
        let run = self.job.client.fetch_order(&self.order, &mut sink, observer, self.first.clone());
        tokio::select! {
            result = run => match result {
                Err(fault) if fault.code == Code::Cancelled => Ok(None),
                result => result.map(Some),
            },
            () = self.stop.cancelled() => {
                Err(Fault::new(Code::Interrupted, format!("{}: interrupted", self.job.title)))
            }
        }
    }

    /// `None` when the reader of the output left.
    async fn transfer(&self, meter: &super::meter::Meter) -> Result<Option<Outcome>, Fault> {
        let Self { job, order, first, stop, .. } = self;
        let observer = |progress: &crate::driver::FetchEvent| meter.show(progress);
        let title = &job.title;
        match &job.output {
            Output::Stdout => self.pour(ThroughSink::stdout()?, &observer).await,
            Output::Through(path) => {
                let file = tokio::select! {
                    file = open_through(path.clone()) => file?,
                    () = stop.cancelled() => return Err(Fault::new(Code::Interrupted, format!("{title}: interrupted"))),
                };
                self.pour(ThroughSink::new(file), &observer).await
            }
            Output::File(path) => {
                let mut sink = FileSink::new(path.clone(), self.force);
                let result = tokio::select! {
                    result = job.client.fetch_order(order, &mut sink, &observer, first.clone()) => result.map(Some),
                    () = stop.cancelled() => Err(Fault::new(Code::Interrupted, "")),
                };
                if result.as_ref().is_err_and(|fault| fault.code == Code::Interrupted) {
                    sink.pause().await?;
                }
                sink.notices().iter().for_each(|notice| self.board.note(notice));
                result.map_err(|fault| match fault.code {
                    Code::Interrupted if sink.resumable() => {
                        let text =
                            format!("{title}: interrupted; run the same command again to go on from where it stopped");
                        Fault::new(Code::Interrupted, text)
                    }
                    Code::Interrupted => Fault::new(Code::Interrupted, format!("{title}: interrupted")),
                    _ => fault,
                })
            }
        }
    }
}

/// The content id of a file, or [`Code::Interrupted`] once `stop` is cancelled.
fn hash(path: &Path, stop: &CancellationToken) -> Result<ContentId, Fault> {
    let failed = |error: std::io::Error| Fault::new(Code::Disk, format!("read {}: {error}", path.display()));
    let mut file = std::fs::File::open(path).map_err(failed)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        if stop.is_cancelled() {
            return Err(Fault::new(Code::Interrupted, format!("{}: interrupted", path.display())));
        }
        let count = file.read(&mut buffer).map_err(failed)?;
        match buffer.get(..count) {
            Some(bytes) if count > 0 => hasher.update(bytes),
            _ => return Ok(ContentId(*hasher.finalize().as_bytes())),
        };
    }
}

/// Opens a device or FIFO for writing, on a thread that the end of the process does not wait for: a FIFO opens when its
/// reader comes, which may be never.
async fn open_through(path: PathBuf) -> Result<std::fs::File, Fault> {
    let (told, opened) = tokio::sync::oneshot::channel();
    let name = path.display().to_string();
    std::thread::spawn(move || {
        if told.send(std::fs::OpenOptions::new().write(true).open(path)).is_err() {
            tracing::debug!("nobody waits for the output any more");
        }
    });
    let failed = |why: &dyn std::fmt::Display| Fault::new(Code::Disk, format!("open {name}: {why}"));
    match opened.await {
        Ok(Ok(file)) => Ok(file),
        Ok(Err(error)) => Err(failed(&error)),
        Err(_) => Err(failed(&"the thread that opens it died")),
    }
}

/// The last line about a title, for people.
fn line(outcome: &Outcome, output: &str) -> String {
    let Outcome { title, content, bytes, resumed, node, reason, elapsed, .. } = outcome;
    let rate = Bitrate::over(bytes.saturating_sub(*resumed), *elapsed);
    let earlier =
        if *resumed > 0 { format!(", {} of it by an earlier run", units::bytes(*resumed)) } else { String::new() };
    let from = match node {
        Some(node) if reason.is_empty() => format!(" from {node}"),
        Some(node) => format!(" from {node} ({reason})"),
        None => String::new(),
    };
    let to = if output == "-" { String::new() } else { format!(" -> {output}") };
    format!(
        "{title}: {} in {:.1} s at {rate}{earlier}{from}, verified BLAKE3 {content}{to}",
        units::bytes(*bytes),
        elapsed.as_secs_f64()
    )
}
