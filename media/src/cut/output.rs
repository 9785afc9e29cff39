//! Collects media into pieces and counts the bytes of a group.

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use usher_proto::feed::{MAX_GROUP, MAX_PIECE};

use super::{Cut, Cuts, LARGEST, LONGEST, Warning};

/// Events that were not taken yet, and the present group.
#[derive(Debug, Default)]
pub(super) struct Output {
    pub(super) cuts: Cuts,
    /// Media of the present group.
    buffer: BytesMut,
    /// The last position in it where a group may end.
    boundary: usize,
    /// When the present group began.
    began: Option<Instant>,
    /// Its media so far.
    bytes: u64,
    warned: Vec<Warning>,
}

impl Output {
    /// Whether a group has begun.
    pub(super) fn has_begun(&self) -> bool {
        self.began.is_some()
    }

    /// Whether the present group should end at the next possible position.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.bytes >= LARGEST || self.began.is_some_and(|began| now.saturating_duration_since(began) >= LONGEST)
    }

    /// Whether `bytes` more would exceed the largest group.
    pub(super) fn is_too_much(&self, bytes: u64) -> bool {
        self.bytes.saturating_add(bytes) > MAX_GROUP
    }

    pub(super) fn begin(&mut self, now: Instant, head: Bytes) {
        self.flush();
        (self.began, self.bytes) = (Some(now), 0);
        self.cuts.push_back(Cut::Group(head));
    }

    /// Adds media to the present group, which must have begun.
    pub(super) fn media(&mut self, mut media: &[u8]) {
        self.bytes += media.len() as u64;
        while self.buffer.len() + media.len() > MAX_PIECE {
            if self.boundary > 0 {
                self.part(self.boundary);
                continue;
            }
            let (some, rest) = media.split_at(MAX_PIECE - self.buffer.len());
            self.buffer.extend_from_slice(some);
            self.part(MAX_PIECE);
            media = rest;
        }
        self.buffer.extend_from_slice(media);
    }

    /// Marks that a group may end here.
    pub(super) fn mark_boundary(&mut self) {
        self.boundary = self.buffer.len();
    }

    pub(super) fn flush(&mut self) {
        if self.boundary > 0 {
            self.part(self.boundary);
        }
        if !self.buffer.is_empty() {
            self.part(self.buffer.len());
        }
    }

    pub(super) fn warn(&mut self, warning: Warning) {
        if !self.warned.contains(&warning) {
            self.warned.push(warning);
            self.cuts.push_back(Cut::Warning(warning));
        }
    }

    fn part(&mut self, len: usize) {
        let media = self.buffer.split_to(len).freeze();
        let is_boundary = std::mem::take(&mut self.boundary) == len;
        self.cuts.push_back(Cut::Piece { media, is_boundary });
    }
}
