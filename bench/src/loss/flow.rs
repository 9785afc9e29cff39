//! One fetch by the real binary, watched by its own progress and ended by a signal.

use std::{process::Stdio, time::Instant};

use anyhow::{Context as _, ensure};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{ChildStderr, Command},
    time,
};
use usher_proto::Bitrate;

use super::Span;
use crate::{cluster::usher, far::Far};

/// Fetches a title for a while; the rate of its verified bytes while it was watched.
pub(super) async fn run(far: &Far, title: String, span: Span) -> anyhow::Result<Bitrate> {
    let url = format!("usher://{}/{title}", far.master());
    let mut command = Command::new(usher()?);
    command.args(["fetch", &url, "-o", "-", "--progress", "json", "--timeout", "60s"]).env("USHER_CA", far.ca());
    command.stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().context("start usher")?;
    let mut lines = BufReader::new(child.stderr.take().context("piped")?).lines();
    let first = next(&mut lines).await?.with_context(|| format!("usher fetch {url} moves nothing"))?;
    let (from, until) = (first.0 + span.before, first.0 + span.before + span.watched);
    let (mut start, mut end) = (first, first);
    while let Ok(sample) = time::timeout_at(until.into(), next(&mut lines)).await {
        let Some(sample) = sample? else { break };
        if sample.0 <= from {
            start = sample;
        }
        end = sample;
    }
    // Its pid is known while it was not waited for.
    let pid = child.id().and_then(|id| rustix::process::Pid::from_raw(id.cast_signed()));
    if let Some(pid) = pid {
        rustix::process::kill_process(pid, rustix::process::Signal::INT).context("interrupt usher")?;
    }
    while next(&mut lines).await?.is_some() {}
    let status = child.wait().await.context("wait for usher")?;
    ensure!(status.code().is_some_and(|code| code == 0 || code == 7), "usher fetch {url}: {status}");
    Ok(Bitrate::over(end.1 - start.1, end.0 - start.0))
}

/// The next count of verified bytes, and when it came.
async fn next(lines: &mut Lines<BufReader<ChildStderr>>) -> anyhow::Result<Option<(Instant, u64)>> {
    while let Some(line) = lines.next_line().await.context("read the progress")? {
        let event: serde_json::Value = match serde_json::from_str(&line) {
            Ok(event) => event,
            Err(_) => continue,
        };
        ensure!(event["event"] != "lost", "the session was lost: {line}");
        if event["event"] == "progress" {
            return Ok(event["bytes"].as_u64().map(|bytes| (Instant::now(), bytes)));
        }
    }
    Ok(None)
}
