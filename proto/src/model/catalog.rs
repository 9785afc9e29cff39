//! A node's catalog as it is sent to the master, validated.

use super::{
    MAX_PAGE_ENTRIES,
    invalid::{Check, Invalid},
};
use crate::{
    id::ContentId,
    pb::v1,
    title::Title,
    tree,
    units::{Bitrate, MAX_RATE},
};

/// One file of one volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogCopy {
    /// Its name.
    pub title: Title,
    /// Its volume, counted from 0.
    pub volume: u16,
    /// Its content, once hashed.
    pub content: Option<ContentId>,
    /// Bytes, at least 1.
    pub size: u64,
    /// Unix milliseconds.
    pub modified_ms: i64,
    /// Mean rate.
    pub bitrate: Bitrate,
    /// Milliseconds, 0 when unknown.
    pub duration_ms: u64,
    /// For example `video/mp4`.
    pub media_type: String,
    /// Whether playing can begin before all of it has arrived.
    pub streamable: bool,
    /// Origin of the copy.
    pub origin: Origin,
}

/// Origin of a copy on its node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Origin {
    /// Placed by the operator.
    #[default]
    Operator,
    /// Replica ordered by the master, complete.
    Replica,
    /// Replica ordered by the master, served from its start while the rest arrives.
    Growing,
}

impl Origin {
    /// Converts from a message. An unknown origin of a newer node counts as the operator's, which is never evicted.
    fn from_pb(origin: i32) -> Self {
        match v1::Origin::try_from(origin) {
            Ok(v1::Origin::Replica) => Self::Replica,
            Ok(v1::Origin::Growing) => Self::Growing,
            Ok(v1::Origin::Operator) | Err(_) => Self::Operator,
        }
    }

    fn to_pb(self) -> v1::Origin {
        match self {
            Self::Operator => v1::Origin::Operator,
            Self::Replica => v1::Origin::Replica,
            Self::Growing => v1::Origin::Growing,
        }
    }
}

impl CatalogCopy {
    /// As a message.
    pub fn to_pb(&self) -> v1::CatalogCopy {
        v1::CatalogCopy {
            title: self.title.to_string(),
            volume: self.volume.into(),
            content_id: self.content.map(|id| id.0.to_vec()).unwrap_or_default(),
            size: self.size,
            modified_ms: self.modified_ms,
            bitrate_bps: self.bitrate.0,
            duration_ms: self.duration_ms,
            media_type: self.media_type.clone(),
            streamable: self.streamable,
            origin: self.origin.to_pb().into(),
        }
    }
}

/// Whether a text is a media type: `type/subtype` in lower case, at most 64 bytes.
pub(crate) fn is_media_type(text: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.' | b'+'))
    };
    text.len() <= 64 && text.split_once('/').is_some_and(|(kind, sub)| part(kind) && part(sub))
}

impl TryFrom<v1::CatalogCopy> for CatalogCopy {
    type Error = Invalid;

    fn try_from(copy: v1::CatalogCopy) -> Result<Self, Invalid> {
        let mut check = Check::default();
        let title = check.take("title", Title::parse(&copy.title));
        let volume = check.take("volume", u16::try_from(copy.volume)).unwrap_or_default();
        let content = if copy.content_id.is_empty() {
            None
        } else {
            check.take("content_id", ContentId::try_from(copy.content_id.as_slice()))
        };
        check.require((1..=tree::MAX_SIZE).contains(&copy.size), "size", || {
            format!("1 to {} bytes, not {}", tree::MAX_SIZE, copy.size)
        });
        check.require(copy.bitrate_bps <= MAX_RATE, "bitrate_bps", || format!("at most {MAX_RATE} bit/s"));
        check.require(is_media_type(&copy.media_type), "media_type", || "expected type/subtype".to_owned());
        check.done(title.map(|title| Self {
            title,
            volume,
            content,
            size: copy.size,
            modified_ms: copy.modified_ms,
            bitrate: Bitrate(copy.bitrate_bps),
            duration_ms: copy.duration_ms,
            media_type: copy.media_type,
            streamable: copy.streamable,
            origin: Origin::from_pb(copy.origin),
        }))
    }
}

/// A page of a catalog, or of changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CatalogPage {
    /// Starts a whole new catalog.
    pub restart: bool,
    /// Ends a whole catalog; true on changes.
    pub complete: bool,
    /// New or changed copies.
    pub copies: Vec<CatalogCopy>,
    /// Copies that are gone: title and volume.
    pub removals: Vec<(Title, u16)>,
    /// Files that are not offered.
    pub rejected_files: u32,
    /// Files among them whose bytes have changed since they were hashed.
    pub damaged_files: u32,
}

impl TryFrom<v1::CatalogPage> for CatalogPage {
    type Error = Invalid;

    fn try_from(page: v1::CatalogPage) -> Result<Self, Invalid> {
        let mut check = Check::default();
        let entries = page.copies.len() + page.removals.len();
        if entries > MAX_PAGE_ENTRIES {
            return Err(Invalid::one("copies", format!("at most {MAX_PAGE_ENTRIES} a page, not {entries}")));
        }
        let copies = page.copies.into_iter().enumerate();
        let copies = copies.filter_map(|(i, copy)| check.take(&format!("copies[{i}]"), copy.try_into())).collect();
        let removals = page.removals.into_iter().enumerate();
        let removals = removals
            .filter_map(|(i, removal)| {
                let title = check.take(&format!("removals[{i}].title"), Title::parse(&removal.title))?;
                let volume = check.take(&format!("removals[{i}].volume"), u16::try_from(removal.volume))?;
                Some((title, volume))
            })
            .collect();
        check.done(Some(Self {
            restart: page.restart,
            complete: page.complete,
            copies,
            removals,
            rejected_files: page.rejected_files,
            damaged_files: page.damaged_files,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies() {
        let good = v1::CatalogCopy {
            title: "a".into(),
            size: 1,
            media_type: "video/mp4".into(),
            ..v1::CatalogCopy::default()
        };
        let copy = CatalogCopy::try_from(good.clone()).expect("valid");
        assert_eq!(copy.to_pb(), good);
        for (what, wrong) in [
            ("path", v1::CatalogCopy { title: "../a".into(), ..good.clone() }),
            ("empty", v1::CatalogCopy { size: 0, ..good.clone() }),
            ("huge", v1::CatalogCopy { size: u64::MAX, ..good.clone() }),
            ("volume", v1::CatalogCopy { volume: 70_000, ..good.clone() }),
            ("content", v1::CatalogCopy { content_id: vec![1; 5], ..good.clone() }),
            ("type", v1::CatalogCopy { media_type: "<script>".into(), ..good.clone() }),
            ("rate", v1::CatalogCopy { bitrate_bps: u64::MAX, ..good.clone() }),
        ] {
            assert!(CatalogCopy::try_from(wrong).is_err(), "{what}");
        }
    }
}
