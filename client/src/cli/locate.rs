//! `usher locate`: every content and copy of one title.

use usher_proto::{Title, model::What, pb::v1, units};

use super::{
    failure::Failure,
    options::{DefaultMaster, Reach, url_or_title, what},
    output::{print, print_json, state, title_json},
};
use crate::core::table::{self, Align, clean};

/// Show which nodes hold a title
///
/// Examples:
///   usher locate films/dune.mp4
///   usher locate usher://media.example.org/films/dune.mp4
#[derive(Clone, Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct LocateArgs {
    /// usher://HOST[:PORT]/TITLE, or a title at the default master
    #[arg(value_name = "URL|TITLE")]
    what: String,
    /// Read the path as a content id (BLAKE3 in hex)
    #[arg(long)]
    from_id: bool,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    master: DefaultMaster,
    #[command(flatten)]
    reach: Reach,
}

impl LocateArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// The exit code and the message.
    pub async fn run(self) -> Result<(), Failure> {
        let url = url_or_title(&self.what, &self.master.master)?;
        let what = what(&url, self.from_id, &self.what)?;
        let versions = self.reach.querying(url.master)?.locate(&what).await?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_in_a_table() {
        let copy = |node: &str, volume, state: v1::NodeState| v1::Copy {
            node: node.into(),
            volume,
            state: state.into(),
            ..v1::Copy::default()
        };
        let title = v1::Title {
            title: "films/dune.mp4".into(),
            size: 1_500_000_000,
            content_id: "0a1b2c".into(),
            ..v1::Title::default()
        };
        let hashed = v1::Version {
            title: Some(title),
            copies: vec![copy("north-1", 0, v1::NodeState::Serving), copy("south-1", 1, v1::NodeState::Draining)],
        };
        let unhashed = v1::Version { title: None, copies: vec![copy("east-1", 0, v1::NodeState::Stale)] };
        let what = What::Title(Title::parse("films/dune.mp4").expect("a title"));
        let expected = "\
NODE     STATE     VOLUME    SIZE  TITLE           CONTENT
north-1  serving        0  1.5 GB  films/dune.mp4  0a1b2c
south-1  draining       1  1.5 GB  films/dune.mp4  0a1b2c
east-1   stale          0     0 B  films/dune.mp4  not hashed yet
";
        assert_eq!(table(&[hashed, unhashed], &what), expected);
    }
}
