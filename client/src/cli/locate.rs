//! `usher locate`: every content and copy of one title.

use usher_proto::{Title, model::What, pb::v1, units};

use super::{DefaultMaster, Failure, Reach, print, print_json, state, title_json};
use crate::core::{
    table::{self, Align, clean},
    url::{Url, UrlError},
};

/// Tell which nodes hold a title.
#[derive(Clone, Debug, clap::Args)]
pub struct LocateArgs {
    /// usher://HOST[:PORT]/TITLE, or a title at the default master
    #[arg(value_name = "URL|TITLE")]
    what: String,
    /// The path is a content id
    #[arg(long)]
    from_id: bool,
    /// Print one JSON array
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    master: DefaultMaster,
    #[command(flatten)]
    reach: Reach,
}

impl LocateArgs {
    /// Locates.
    ///
    /// # Errors
    /// What to print and exit with.
    pub async fn run(self) -> Result<(), Failure> {
        let usage =
            |error: UrlError| Failure::new(usher_proto::Code::Usage, format!("`{}`: {error}", clean(&self.what)));
        let url = if self.what.starts_with("usher://") {
            self.what.parse::<Url>().map_err(usage)?
        } else {
            Url { master: self.master.master.clone(), path: self.what.clone() }
        };
        let what = if self.from_id { url.content().map(What::Content) } else { url.title().map(What::Title) };
        let what = what.map_err(usage)?;
        let versions = self.reach.asking(url.master.clone())?.locate(&what).await?;
        if self.json { print_json(&versions.iter().map(json).collect()) } else { print(&table(&versions, &what)) }
    }
}

fn table(versions: &[v1::Version], what: &What) -> String {
    let columns = [
        ("NODE", Align::Left),
        ("STATE", Align::Left),
        ("VOLUME", Align::Right),
        ("SIZE", Align::Right),
        ("TITLE", Align::Left),
        ("CONTENT", Align::Left),
    ];
    let asked: Option<&Title> = if let What::Title(title) = what { Some(title) } else { None };
    let mut rows = Vec::new();
    for version in versions {
        let title = version.title.clone().unwrap_or_default();
        let name =
            if title.title.is_empty() { asked.map(ToString::to_string).unwrap_or_default() } else { title.title };
        let live = title.live.is_some();
        let content = if live {
            "live".to_owned()
        } else if title.content_id.is_empty() {
            "not hashed yet".to_owned()
        } else {
            clean(&title.content_id)
        };
        rows.extend(version.copies.iter().map(|copy| {
            vec![
                clean(&copy.node),
                state(copy.state).to_owned(),
                if live { "-".to_owned() } else { copy.volume.to_string() },
                if live { "-".to_owned() } else { units::bytes(title.size) },
                clean(&name),
                content.clone(),
            ]
        }));
    }
    table::render(&columns, &rows)
}

fn json(version: &v1::Version) -> serde_json::Value {
    let copies = version.copies.iter().map(|copy| {
        let modified = copy
            .modified_at
            .as_ref()
            .map(|at| at.seconds.saturating_mul(1000).saturating_add(i64::from(at.nanos) / 1_000_000));
        serde_json::json!({
            "node": copy.node,
            "volume": copy.volume,
            "modified_ms": modified,
            "state": state(copy.state),
        })
    });
    serde_json::json!({
        "title": version.title.as_ref().map(title_json),
        "copies": copies.collect::<Vec<_>>(),
    })
}
