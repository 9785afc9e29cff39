//! Feeds on a stage.
