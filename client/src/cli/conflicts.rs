//! `usher conflicts` and `usher resolve-conflict`: titles under which nodes list different contents, and an operator's
//! choice among them.

use usher_proto::{ContentId, Title, pb::v1, units};

use super::{
    failure::Failure,
    options::Operator,
    output::{note, print, print_json},
};
use crate::core::table::{self, Align, clean};

/// List titles under which nodes hold different contents
///
/// A request by name gets the content of the node that listed the title first, marked with *.
#[derive(Clone, Debug, clap::Args)]
pub struct ConflictsArgs {
    /// Print a JSON array
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    operator: Operator,
}

/// Choose the content that requests for a title get
///
/// The choice holds for as long as a node has the content, also after a restart of the master. Example:
///   usher resolve-conflict films/dune.mp4 af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262
#[derive(Clone, Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct ResolveConflictArgs {
    /// The title
    title: Title,
    /// The content's id (BLAKE3 in hex), as `usher conflicts` lists it
    #[arg(value_name = "CONTENT-ID")]
    content: ContentId,
    #[command(flatten)]
    operator: Operator,
}

impl ConflictsArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// The exit code and the message.
    pub async fn run(self) -> Result<(), Failure> {
        let client = self.operator.of_default()?;
        let v1::ListConflictsResponse { conflicts, more } = client.conflicts().await.map_err(Failure::for_operator)?;
        if self.json {
            return print_json(&conflicts.iter().map(json).collect());
        }
        if conflicts.is_empty() {
            note("no title has more than one content");
            return Ok(());
        }
        print(&table(&conflicts))?;
        if more {
            note("there are more conflicts; these are the first by name");
        }
        Ok(())
    }
}

impl ResolveConflictArgs {
    /// Runs the command.
    ///
    /// # Errors
    /// The exit code and the message.
    pub async fn run(self) -> Result<(), Failure> {
        let client = self.operator.of_default()?;
        client.resolve_conflict(&self.title, self.content).await.map_err(Failure::for_operator)?;
        note(&format!("requests for {} get content {}", clean(self.title.as_str()), self.content));
        Ok(())
    }
}

/// Names of the nodes with a copy, each once.
fn nodes(version: &v1::Version) -> Vec<&str> {
    let mut nodes: Vec<&str> = version.copies.iter().map(|copy| copy.node.as_str()).collect();
    nodes.sort_unstable();
    nodes.dedup();
    nodes
}

fn table(conflicts: &[v1::Conflict]) -> String {
    let columns = [
        ("", Align::Left),
        ("TITLE", Align::Left),
        ("SIZE", Align::Right),
        ("NODES", Align::Left),
        ("CONTENT", Align::Left),
    ];
    let mut rows = Vec::new();
    for conflict in conflicts {
        rows.extend(conflict.versions.iter().enumerate().map(|(at, version)| {
            let title = version.title.clone().unwrap_or_default();
            let content = if title.content_id.is_empty() { "not hashed yet" } else { &title.content_id };
            vec![
                if at == 0 { "*" } else { "" }.to_owned(),
                clean(&conflict.title),
                units::bytes(title.size),
                clean(&nodes(version).join(",")),
                clean(content),
            ]
        }));
    }
    table::render(&columns, &rows)
}

fn json(conflict: &v1::Conflict) -> serde_json::Value {
    let version = |(at, version): (usize, &v1::Version)| {
        let title = version.title.clone().unwrap_or_default();
        serde_json::json!({
            "content_id": title.content_id,
            "size": title.size,
            "nodes": nodes(version),
            "chosen": at == 0,
        })
    };
    let versions: Vec<_> = conflict.versions.iter().enumerate().map(version).collect();
    serde_json::json!({ "title": conflict.title, "versions": versions })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_in_a_table() {
        let copy = |node: &str| v1::Copy { node: node.into(), ..v1::Copy::default() };
        let version = |content: &str, size, nodes: &[&str]| v1::Version {
            title: Some(v1::Title { content_id: content.into(), size, ..v1::Title::default() }),
            copies: nodes.iter().map(|node| copy(node)).collect(),
        };
        let versions =
            vec![version("0a1b", 1_500_000_000, &["north-2", "north-1", "north-1"]), version("", 5, &["east-1"])];
        let conflict = v1::Conflict { title: "films/dune.mp4".into(), versions };
        let expected = "   TITLE             SIZE  NODES            CONTENT
*  films/dune.mp4  1.5 GB  north-1,north-2  0a1b
   films/dune.mp4     5 B  east-1           not hashed yet
";
        assert_eq!(table(std::slice::from_ref(&conflict)), expected);
        let json = json(&conflict);
        assert_eq!(json["versions"][0]["nodes"], serde_json::json!(["north-1", "north-2"]));
        assert_eq!([&json["versions"][0]["chosen"], &json["versions"][1]["chosen"]], [true, false]);
    }
}
