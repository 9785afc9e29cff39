//! wip
pub(super) const CASE: &str = "lost";
pub(super) const LONGEST: &str = "a";
pub(super) const AGAIN: &str = "b";
pub(super) const BACK: &str = "c";
pub(super) const MISSED: &str = "d";
pub(super) const FAILED: &str = "e";
pub(super) async fn run(
    _plan: &super::Plan,
    _dir: &std::path::Path,
    _reps: usize,
    _book: &mut crate::peers::table::Book,
) -> anyhow::Result<()> {
    Ok(())
}
