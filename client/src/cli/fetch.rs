//! `usher fetch`: titles to files or to standard output, several at once, verified and resumable; or a feed to a recording.

mod plan;
mod task;

use std::{collections::VecDeque, path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use usher_proto::{Bitrate, Code, Fault, Title, model::Range, ticket::Purpose, wire::MAX_STREAMS};
use usher_transport::Congestion;

use self::{
    plan::{Clients, Job},
    task::{FetchTask, refusal},
};
use super::{
    failure::Failure,
    live::{self, LiveArgs, Recording},
    options::{DefaultMaster, Reach, TransferOptions, interrupted, interruption, url_or_title},
    output::print_json,
    progress::{ProgressMode, ProgressView, outcome_json},
};
use crate::{
    client::Options,
    core::{range, url::Url},
    driver::Order,
    master::Answer,
};

/// Fetch titles to files and verify them, or record a live feed
///
/// Examples:
///   usher fetch films/dune.mp4
///   usher fetch 'usher://media.example.org/films/*' -o films/
///   usher fetch films/dune.mp4 --range 0-999999 -o - | head -c 100 | xxd
///   usher fetch live/cam1 --duration 30m -o cam1.ts
#[derive(Clone, Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct FetchArgs {
    /// Titles, or patterns of titles (`*` stays within a folder, `**` crosses folders)
    ///
    /// Each is usher://HOST[:PORT]/TITLE, or a title at the default master.
    #[arg(required = true, value_name = "URL|TITLE")]
    what: Vec<String>,
    /// File or folder to write to, or `-` for standard output [default: the current folder]
    #[arg(short, long, value_name = "FILE|DIR|-")]
    output: Option<PathBuf>,
    /// Bytes to fetch: FIRST-LAST, both included and counted from 0, or FIRST-, for example 0-999999 [default: all]
    #[arg(long, value_name = "A-B", value_parser = range::parse)]
    range: Option<Range>,
    /// Highest rate of all titles together, for example 25mbit or 3MB/s [default: no limit]
    #[arg(long, value_name = "RATE")]
    limit_rate: Option<Bitrate>,
    /// Titles to fetch at once, 1 to 100
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_STREAMS)))]
    parallel: u16,
    /// Read the path of each URL as a content id, as `b3sum` prints it
    #[arg(long)]
    from_id: bool,
    /// Overwrite existing files
    #[arg(long)]
    force: bool,
    /// Progress format on standard error
    #[arg(long, value_enum, default_value_t = ProgressMode::Auto)]
    progress: ProgressMode,
    /// Print a JSON array about the fetched titles at the end
    #[arg(long)]
    json: bool,
    /// Nodes that send a title at once, 1 to 8; `auto` adds nodes while that makes the fetch clearly faster
    #[arg(long, value_name = "N|auto", default_value = "auto")]
    sources: SourceCount,
    /// Let the master prepare each title on its node before it answers, so that a title that cannot be served fails earlier
    #[arg(long)]
    brokered: bool,
    #[command(flatten)]
    master: DefaultMaster,
    #[command(flatten)]
    transfer: TransferOptions,
    /// Record this length of a feed; without it, until the feed ends or Ctrl-C
    #[arg(long, value_name = "TIME", value_parser = live::duration, allow_hyphen_values = true, help_heading = "Feeds (live/NAME)")]
    duration: Option<Duration>,
    #[command(flatten)]
    live: LiveArgs,
}

/// Time after an interruption in which the states of unfinished files are written.
const INTERRUPT: Duration = Duration::from_secs(5);

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

impl FetchArgs {
    /// The arguments of `usher fetch URL --output OUTPUT --ca CA`.
    pub fn one(url: &Url, output: PathBuf, ca: PathBuf) -> Self {
        Self {
            what: vec![url.to_string()],
            master: DefaultMaster { master: url.master.clone() },
            output: Some(output),
            range: None,
            limit_rate: None,
            parallel: 1,
            from_id: false,
            force: false,
            progress: ProgressMode::Auto,
            json: false,
            sources: SourceCount(None),
            brokered: false,
            transfer: TransferOptions {
                congestion: Congestion::default(),
                verbose: false,
                zone: String::new(),
                reach: Reach { ca: Some(ca), token: None, timeout: Options::default().timeout },
            },
            duration: None,
            live: LiveArgs::default(),
        }
    }

    /// Fetches. A title that fails does not end the others; the first failure names the exit code.
    ///
    /// # Errors
    /// The exit code and the message.
    pub async fn run(self, requests: fn() -> mpsc::Receiver<()>) -> Result<(), Failure> {
        if self.json && self.output.as_deref().is_some_and(|path| path.as_os_str() == "-") {
            return Err(Failure::usage("--json and `-o -` both write to standard output; drop one of them"));
        }
        let urls: Vec<Url> =
            self.what.iter().map(|text| url_or_title(text, &self.master.master)).collect::<Result<_, _>>()?;
        if let Some(title) = urls.iter().find_map(live::feed) {
            return self.record(&urls, &title, requests).await;
        }
        self.live.refuse()?;
        if self.duration.is_some() {
            return Err(Failure::usage("--duration is for feeds, `live/NAME`; use --range for a part of a title"));
        }
        let mut clients = Clients::new();
        for url in &urls {
            if !clients.contains_key(&url.master) {
                let (limit, sources, brokered) = (self.limit_rate, self.sources.0, self.brokered);
                let options = Options { limit, sources, brokered, ..Options::default() };
                let client = self.transfer.client(url.master.clone(), options)?;
                clients.insert(url.master.clone(), Arc::new(client));
            }
        }
        let mut stop = requests();
        let cancel = CancellationToken::new();
        let result = {
            let work = Box::pin(self.work(&urls, &clients, &cancel));
            tokio::pin!(work);
            tokio::select! {
                result = &mut work => result,
                () = interrupted(&mut stop) => {
                    cancel.cancel();
                    tokio::select! {
                        result = &mut work => result,
                        // A second interruption does not wait for the disk, nor does the first for ever.
                        () = interrupted(&mut stop) => Err(Failure::new(Code::Interrupted, "interrupted twice")),
                        () = tokio::time::sleep(INTERRUPT) => {
                            let text = "interrupted; files may lack their last bytes, because the disk does not answer";
                            Err(Failure::new(Code::Interrupted, text))
                        }
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
    async fn record(&self, urls: &[Url], title: &Title, requests: fn() -> mpsc::Receiver<()>) -> Result<(), Failure> {
        let usage = |text: &str| Err(Failure::usage(format!("{title}: {text}")));
        let [url] = urls else { return usage("record each feed with a command of its own") };
        if self.range.is_some() || self.from_id {
            return usage("a feed has no byte ranges and no content id; choose a part with --from and --duration");
        }
        if url.pattern().is_ok_and(|pattern| pattern.is_some()) {
            return usage("a feed is recorded by its name, not by a pattern; `usher ls` lists the feeds");
        }
        if self.limit_rate.is_some() || self.brokered {
            return usage("--limit-rate and --brokered are for titles, not for feeds");
        }
        let client = self.transfer.client(url.master.clone(), Options::default())?;
        let stop = &mut requests();
        let mut name = async || {
            tokio::select! {
                name = live::file_name(&client, title) => name,
                () = interrupted(stop) => Err(interruption(title)),
            }
        };
        let output = match self.output.clone() {
            Some(path) if path.as_os_str() == "-" => None,
            Some(path) if path.is_dir() => Some(path.join(name().await?)),
            Some(path) => Some(path),
            None => Some(name().await?),
        };
        let recording = Recording {
            title,
            args: &self.live,
            duration: self.duration,
            output,
            force: self.force,
            progress: self.progress,
        };
        let done = Box::pin(recording.run(&client, interrupted(stop))).await;
        client.close().await;
        let done = done?;
        if self.json { print_json(&serde_json::Value::Array(vec![done])) } else { Ok(()) }
    }

    async fn work(&self, urls: &[Url], clients: &Clients, stop: &CancellationToken) -> Result<(), Failure> {
        let view = ProgressView::new(self.progress);
        let planned = tokio::select! {
            planned = self.plan(urls, clients) => planned?,
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
            let (view, stop, slots) = (view.clone(), stop.clone(), Arc::clone(&slots));
            let task = FetchTask { job, order, first, force: self.force, view, stop };
            tasks.spawn(async move {
                // The semaphore is never closed; if it were, the title would not wait.
                let _slot = slots.acquire_owned().await.ok();
                Box::pin(task.run()).await
            });
        }
        let mut done = Vec::new();
        for failure in &failures {
            if !single {
                view.note(&format!("error: {failure}"));
            }
        }
        while let Some(result) = tasks.join_next().await {
            match result {
                Ok(Ok(outcome)) => done.push(outcome_json("done", &outcome.0, &outcome.1)),
                Ok(Err(failure)) => {
                    if !single {
                        view.note(&format!("error: {failure}"));
                    }
                    failures.push(failure);
                }
                Err(error) => {
                    failures.push(Failure::new(Code::Internal, format!("the task of a transfer panicked: {error}")))
                }
            }
        }
        let all = done.len() + failures.len();
        if self.json {
            match print_json(&serde_json::Value::Array(done)) {
                // The exit code still tells how the fetch went.
                Err(failure) if failure.code == Code::Cancelled => {}
                printed => printed?,
            }
        }
        // An interruption names the exit code, whatever failed before it: the missing titles can be resumed.
        let first = failures.iter().position(|failure| failure.code == Code::Interrupted).unwrap_or_default();
        match failures.into_iter().nth(first) {
            None => Ok(()),
            // A reader that has seen enough, such as `head`, is no failure and gets no message.
            Some(failure) if failure.code == Code::Cancelled => Ok(()),
            Some(failure) if single => Err(failure),
            Some(failure) if failure.code == Code::Interrupted => Err(failure),
            Some(first) => {
                Err(Failure::new(first.code, format!("not all of {all} titles were fetched; the first: {first}")))
            }
        }
    }

    /// The titles to fetch, and the failures of URLs that name none.
    async fn plan(&self, urls: &[Url], clients: &Clients) -> Result<(Vec<Job>, Vec<Failure>), Failure> {
        let (mut jobs, mut failures) = (Vec::new(), Vec::new());
        for url in urls {
            let Some(client) = clients.get(&url.master) else { continue };
            match plan::titles(url, client, self.from_id).await {
                Ok(found) => jobs.extend(found),
                Err(failure) if failure.code == Code::Usage || urls.len() == 1 => return Err(failure),
                Err(failure) => failures.push(failure),
            }
        }
        Ok((jobs, failures))
    }

    fn order(&self, job: &Job) -> Order {
        job.client.order(job.what.clone(), Purpose::Fetch, self.range.unwrap_or_default())
    }

    /// Resolves the titles that start at once together, so that one node may serve them all. Later titles are resolved when
    /// they start, because the master keeps a seat for a short time only.
    async fn resolve_first(
        &self,
        jobs: &[Job],
        stop: &CancellationToken,
    ) -> Result<VecDeque<Option<Result<Answer, Fault>>>, Failure> {
        let mut answers = VecDeque::new();
        let Some(client) = jobs.first().map(|job| &job.client) else { return Ok(answers) };
        let here = jobs.iter().take(usize::from(self.parallel)).take_while(|job| Arc::ptr_eq(&job.client, client));
        // A title whose file exists is not fetched, and must reserve no capacity.
        let orders: Vec<Option<Order>> =
            here.map(|job| refusal(&job.output, self.force).is_none().then(|| self.order(job))).collect();
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
            // The master was waited for already; no title would reach it.
            Err(fault) if matches!(fault.code, Code::Network | Code::Timeout | Code::Denied) => {
                return Err(fault.into());
            }
            // Each title reports its own failure later.
            Err(fault) => tracing::debug!(%fault, "titles could not be resolved together"),
        }
        Ok(answers)
    }
}
