//! `usher ls`: the titles of a cluster.

use std::time::{SystemTime, UNIX_EPOCH};

use usher_proto::{Bitrate, pb::v1, units};

use super::{DefaultMaster, Failure, Reach, duration, print, print_json, title_json};
use crate::core::{
    table::{self, Align, clean},
    url::{Address, Url},
};

/// List titles.
#[derive(Clone, Debug, clap::Args)]
pub struct LsArgs {
    /// The master, and a prefix or pattern of titles (`*` stays within a folder, `**` crosses folders)
    #[arg(value_name = "usher://HOST[:PORT][/PREFIX]")]
    url: Option<Url>,
    /// Print one JSON array
    #[arg(long)]
    json: bool,
    /// Also media type, whether it plays while it comes, and content id
    #[arg(short)]
    long: bool,
    #[command(flatten)]
    master: DefaultMaster,
    #[command(flatten)]
    reach: Reach,
}

impl LsArgs {
    /// Lists.
    ///
    /// # Errors
    /// What to print and exit with.
    pub async fn run(self) -> Result<(), Failure> {
        let none = |master: Address| Url { master, path: String::new() };
        let url = self.url.unwrap_or_else(|| none(self.master.master));
        let client = self.reach.asking(url.master.clone())?;
        // A title may have the characters of a pattern: the literal prefix is tried first.
        let mut titles = client.list(&url.path, usize::MAX).await?;
        if titles.is_empty()
            && let Ok(Some(pattern)) = url.pattern()
        {
            titles = client.list(&pattern.prefix, usize::MAX).await?;
            titles.retain(|title| pattern.matches(&title.title));
        }
        if self.json {
            return print_json(&titles.iter().map(title_json).collect());
        }
        let mut columns = vec![
            ("TITLE", Align::Left),
            ("SIZE", Align::Right),
            ("DURATION", Align::Right),
            ("RATE", Align::Right),
            ("NODES", Align::Left),
        ];
        let live = titles.iter().any(|title| title.live.is_some());
        if live {
            columns.insert(4, ("VIEWERS", Align::Right));
        }
        if self.long {
            columns.extend([("TYPE", Align::Left), ("STREAMABLE", Align::Left), ("CONTENT", Align::Left)]);
        }
        let rows = titles.iter().map(|title| {
            let rate = if title.bitrate_bps > 0 { Bitrate(title.bitrate_bps).to_string() } else { "-".to_owned() };
            let conflict = if title.conflict { " (other contents elsewhere: see `usher locate`)" } else { "" };
            let mut row = vec![
                clean(&title.title),
                if title.live.is_some() { "-".to_owned() } else { units::bytes(title.size) },
                title.live.as_ref().map_or_else(|| duration(title.duration_ms), on_air),
                rate,
                clean(&title.nodes.join(",")) + conflict,
            ];
            if live {
                row.insert(4, title.live.as_ref().map_or_else(|| "-".to_owned(), |live| live.viewers.to_string()));
            }
            if self.long {
                let content = if title.content_id.is_empty() { "-" } else { &title.content_id };
                let streamable = if title.streamable { "yes" } else { "no" };
                row.extend([clean(&title.media_type), streamable.to_owned(), clean(content)]);
            }
            row
        });
        print(&table::render(&columns, &rows.collect::<Vec<_>>()))
    }
}

/// For how long a feed has been on the air.
fn on_air(live: &v1::Live) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let since = units::millis(now).saturating_sub(u64::try_from(live.started_ms).unwrap_or_default());
    let state = if live.interrupted { "interrupted" } else { "live" };
    format!("{state} {}", duration(since.max(1)))
}
