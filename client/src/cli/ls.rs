//! `usher ls`: the titles of a cluster.

use std::time::{SystemTime, UNIX_EPOCH};

use usher_proto::{Bitrate, pb::v1, units};

use super::{
    failure::Failure,
    options::{DefaultMaster, Reach, url_or_title},
    output::{JsonArray, duration, print, title_json},
};
use crate::core::table::{self, Align, clean};

/// List titles
///
/// Examples:
///   usher ls
///   usher ls usher://media.example.org/films/
///   usher ls 'films/**/*.mp4'
#[derive(Clone, Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct LsArgs {
    /// usher://HOST[:PORT][/PREFIX], or a prefix at the default master; also a pattern (`*` stays within a folder, `**`
    /// crosses folders)
    #[arg(value_name = "URL|PREFIX", default_value = "", hide_default_value = true)]
    what: String,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
    /// Add columns: media type, whether the title plays while it is fetched, and content id
    #[arg(short)]
    long: bool,
    #[command(flatten)]
    master: DefaultMaster,
    #[command(flatten)]
    reach: Reach,
}

impl LsArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// The exit code and the message.
    pub async fn run(self) -> Result<(), Failure> {
        let url = url_or_title(&self.what, &self.master.master)?;
        let client = self.reach.querying(url.master.clone())?;
        let mut listing =
            if self.json { Listing::Json(JsonArray::default()) } else { Listing::Table(Table::new(self.long)) };
        // A title may have the characters of a pattern: the literal prefix is tried first.
        let (mut none, mut printed) = (true, Ok(()));
        let each = |page: Vec<v1::Title>| {
            none &= page.is_empty();
            printed = listing.show(page);
            printed.is_ok()
        };
        client.list_pages(&url.path, usize::MAX, each).await?;
        printed?;
        if none && let Ok(Some(pattern)) = url.pattern() {
            let mut printed = Ok(());
            let each = |mut page: Vec<v1::Title>| {
                page.retain(|title| pattern.matches(&title.title));
                printed = listing.show(page);
                printed.is_ok()
            };
            client.list_pages(&pattern.prefix, usize::MAX, each).await?;
            printed?;
        }
        listing.finish()
    }
}

/// The titles on their way to standard output.
enum Listing {
    Json(JsonArray),
    Table(Table),
}

impl Listing {
    fn show(&mut self, titles: Vec<v1::Title>) -> Result<(), Failure> {
        match self {
            Self::Json(array) => titles.iter().try_for_each(|title| array.print(&title_json(title))),
            Self::Table(table) => table.show(titles),
        }
    }

    fn finish(self) -> Result<(), Failure> {
        match self {
            Self::Json(array) => array.finish(),
            Self::Table(mut table) => table.print(),
        }
    }
}

/// Titles in tables of many rows, each printed when it is full: a table's widths need all of its rows.
struct Table {
    long: bool,
    titles: Vec<v1::Title>,
    /// The header of the last table.
    header: String,
}

impl Table {
    /// Rows of a table: enough for most clusters to see one, and few megabytes.
    const ROWS: usize = 10_000;

    fn new(long: bool) -> Self {
        Self { long, titles: Vec::new(), header: String::new() }
    }

    fn show(&mut self, titles: Vec<v1::Title>) -> Result<(), Failure> {
        self.titles.extend(titles);
        if self.titles.len() < Self::ROWS { Ok(()) } else { self.print() }
    }

    /// Prints the titles gathered so far, or an empty table if there was none.
    fn print(&mut self) -> Result<(), Failure> {
        if self.titles.is_empty() && !self.header.is_empty() {
            return Ok(());
        }
        let text = table(&std::mem::take(&mut self.titles), self.long);
        let (header, rows) = text.split_once('\n').unwrap_or((&text, ""));
        let columns = |header: &str| header.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let repeated = columns(header) == columns(&self.header);
        self.header = header.to_owned();
        print(if repeated { rows } else { &text })
    }
}

fn table(titles: &[v1::Title], long: bool) -> String {
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
    if long {
        columns.extend([("TYPE", Align::Left), ("STREAMABLE", Align::Left), ("CONTENT", Align::Left)]);
    }
    let rows = titles.iter().map(|title| {
        let rate = if title.bitrate_bps > 0 { Bitrate(title.bitrate_bps).to_string() } else { "-".to_owned() };
        let conflict = if title.conflict { " (nodes hold different contents: see `usher locate`)" } else { "" };
        let mut row = vec![
            clean(&title.title),
            if title.live.is_some() { "-".to_owned() } else { units::bytes(title.size) },
            title.live.as_ref().map_or_else(|| duration(title.duration_ms), feed_state),
            rate,
            clean(&title.nodes.join(",")) + conflict,
        ];
        if live {
            row.insert(4, title.live.as_ref().map_or_else(|| "-".to_owned(), |live| live.viewers.to_string()));
        }
        if long {
            let content = if title.content_id.is_empty() { "-" } else { &title.content_id };
            let streamable = if title.streamable { "yes" } else { "no" };
            row.extend([clean(&title.media_type), streamable.to_owned(), clean(content)]);
        }
        row
    });
    table::render(&columns, &rows.collect::<Vec<_>>())
}

/// The state of a feed and the time since it started.
fn feed_state(live: &v1::Live) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let since = units::millis(now).saturating_sub(u64::try_from(live.started_ms).unwrap_or_default());
    let state = if live.interrupted { "interrupted" } else { "live" };
    format!("{state} {}", duration(since.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_and_feeds_in_a_table() {
        let film = v1::Title {
            title: "films/dune.mp4".into(),
            size: 1_500_000_000,
            duration_ms: 9_330_000,
            bitrate_bps: 1_286_000,
            nodes: vec!["north-1".into(), "south-1".into()],
            media_type: "video/mp4".into(),
            streamable: true,
            ..v1::Title::default()
        };
        let clip = v1::Title { title: "a.ts".into(), size: 7, conflict: true, ..v1::Title::default() };
        let feed = v1::Title {
            title: "live/cam1".into(),
            bitrate_bps: 4_000_000,
            nodes: vec!["north-1".into()],
            live: Some(v1::Live { viewers: 3, started_ms: i64::MAX, ..v1::Live::default() }),
            ..v1::Title::default()
        };
        let expected = "\
TITLE             SIZE  DURATION        RATE  NODES
films/dune.mp4  1.5 GB   2:35:30  1.2 Mbit/s  north-1,south-1
a.ts               7 B         -           -   (nodes hold different contents: see `usher locate`)
";
        assert_eq!(table(&[film.clone(), clip], false), expected);
        let expected = "\
TITLE             SIZE   DURATION        RATE  VIEWERS  NODES            TYPE       STREAMABLE  CONTENT
films/dune.mp4  1.5 GB    2:35:30  1.2 Mbit/s        -  north-1,south-1  video/mp4  yes         -
live/cam1            -  live 0:00    4 Mbit/s        3  north-1                     no          -
";
        assert_eq!(table(&[film, feed], true), expected);
    }
}
