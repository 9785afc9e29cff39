//! One title of a `fetch`: checks its output, fetches it, and shows its progress and its result.

use std::{io::Read as _, path::Path};

use tokio_util::sync::CancellationToken;
use usher_proto::{Bitrate, Code, ContentId, Fault, model::Range, units};

use super::plan::{Job, Output};
use crate::{
    cli::{
        failure::Failure,
        options::interruption,
        progress::{ProgressView, TitleProgress},
    },
    driver::{FetchEvent, Order, Outcome, Sink},
    master::Answer,
    sink::{FileSink, ThroughSink, open_device},
};

/// One title to fetch, with everything that its task needs.
pub(super) struct FetchTask {
    pub(super) job: Job,
    pub(super) order: Order,
    /// The master's answer, if it was asked already.
    pub(super) first: Option<Result<Answer, Fault>>,
    pub(super) force: bool,
    pub(super) view: ProgressView,
    pub(super) stop: CancellationToken,
}

/// Why a title cannot be written to `output`, if that is known before it is fetched.
pub(super) fn refusal(output: &Output, force: bool) -> Option<Fault> {
    match output {
        Output::Stdout | Output::Through(_) => None,
        Output::File(path) => FileSink::new(path.clone(), force).check().err(),
    }
}

impl FetchTask {
    /// Fetches the title; the text is where it went.
    pub(super) async fn run(self) -> Result<(Outcome, String), Failure> {
        let title = self.job.title.clone();
        let progress = self.view.title(title.as_str());
        let output = match &self.job.output {
            Output::Stdout => "-".to_owned(),
            Output::File(path) | Output::Through(path) => path.display().to_string(),
        };
        let result = match refusal(&self.job.output, self.force) {
            Some(fault) => match Box::pin(self.already_there()).await {
                Ok(Some(outcome)) => {
                    let content = outcome.content;
                    let line = format!("{title}: already there, verified BLAKE3 {content} -> {output}");
                    progress.done(&outcome, &line, &output);
                    return Ok((outcome, output));
                }
                Ok(None) => Err(fault),
                Err(other) => Err(other),
            },
            None => Box::pin(self.transfer(&progress)).await,
        };
        match result {
            Ok(Some(outcome)) => {
                progress.done(&outcome, &line(&outcome, &output), &output);
                Ok((outcome, output))
            }
            Ok(None) => Err(Failure::new(Code::Cancelled, "the reader of the output left")),
            Err(fault) => {
                progress.failed(&fault);
                // Messages of a master or a file name it already.
                let plain =
                    matches!(fault.code, Code::Exists | Code::Interrupted) || fault.message.contains(title.as_str());
                let message = if plain { fault.message } else { format!("{title}: {}", fault.message) };
                Err(Failure::new(fault.code, message))
            }
        }
    }

    /// The outcome for a file that exists and holds the whole title, as after an earlier run.
    async fn already_there(&self) -> Result<Option<Outcome>, Fault> {
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
            () = self.stop.cancelled() => return Err(interruption(&self.job.title)),
        };
        let versions = match versions {
            // The file is still in the way.
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

    /// Fetches into a pipe or device; `None` when its reader left.
    async fn stream(
        &self,
        mut sink: impl Sink,
        observer: &(dyn Fn(&FetchEvent) + Send + Sync),
    ) -> Result<Option<Outcome>, Fault> {
        let run = self.job.client.fetch_order(&self.order, &mut sink, observer, self.first.clone());
        tokio::select! {
            result = run => match result {
                Err(fault) if fault.code == Code::Cancelled => Ok(None),
                result => result.map(Some),
            },
            () = self.stop.cancelled() => {
                Err(interruption(&self.job.title))
            }
        }
    }

    /// Fetches into the output; `None` when its reader left.
    async fn transfer(&self, progress: &TitleProgress) -> Result<Option<Outcome>, Fault> {
        let Self { job, order, first, stop, .. } = self;
        let observer = |event: &FetchEvent| progress.show(event);
        let title = &job.title;
        match &job.output {
            Output::Stdout => self.stream(ThroughSink::stdout()?, &observer).await,
            Output::Through(path) => {
                let file = tokio::select! {
                    file = open_device(path.clone()) => file?,
                    () = stop.cancelled() => return Err(interruption(title)),
                };
                self.stream(ThroughSink::new(file), &observer).await
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
                sink.notices().iter().for_each(|notice| self.view.note(notice));
                result.map_err(|fault| match fault.code {
                    Code::Interrupted if sink.resumable() => {
                        let text = format!("{title}: interrupted; run the same command again to resume");
                        Fault::new(Code::Interrupted, text)
                    }
                    Code::Interrupted => interruption(title),
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
            return Err(interruption(path.display()));
        }
        let count = file.read(&mut buffer).map_err(failed)?;
        match buffer.get(..count) {
            Some(bytes) if count > 0 => hasher.update(bytes),
            _ => return Ok(ContentId(*hasher.finalize().as_bytes())),
        };
    }
}

/// The line about a finished title.
fn line(outcome: &Outcome, output: &str) -> String {
    let Outcome { title, content, bytes, resumed, node, reason, elapsed, .. } = outcome;
    let rate = Bitrate::over(bytes.saturating_sub(*resumed), *elapsed);
    let earlier =
        if *resumed > 0 { format!(", {} of it from an earlier run", units::bytes(*resumed)) } else { String::new() };
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
