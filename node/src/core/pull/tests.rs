//! Honest and dishonest sources, as lists of frames.

use usher_proto::{
    pb::wire::{Finish, Refused},
    tree::{Builder, Hashes, PAGE},
};

use super::*;

fn data(len: u64) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8 ^ (i >> 13) as u8).collect()
}

fn hashes(data: &[u8]) -> Hashes {
    let mut builder = Builder::default();
    data.chunks(GROUP as usize).for_each(|group| builder.push(group));
    builder.finish()
}

fn wanted(data: &[u8]) -> ReplicaSpec {
    let title = Title::parse("a.mp4").expect("a title");
    ReplicaSpec { title, content: hashes(data).content, size: data.len() as u64 }
}

/// The frames of an honest source of `a.mp4` from a group on.
pub(crate) fn frames(data: &[u8], from: u64) -> Vec<Frame> {
    let (hashes, size) = (hashes(data), data.len() as u64);
    let setup = Setup {
        title: "a.mp4".into(),
        content_id: hashes.content.to_string(),
        size,
        media_type: "video/mp4".into(),
        range: Some(ByteRange { start: from * GROUP, end: size }),
        page_groups: PAGE_GROUPS as u32,
        ..Setup::default()
    };
    let mut frames = vec![Frame::Setup(setup)];
    if !hashes.pages.is_empty() {
        frames.push(Frame::Pages(hashes.pages.clone()));
    }
    for (index, group) in (0..).zip(data.chunks(GROUP as usize)).skip(from as usize) {
        if !hashes.groups.is_empty() && (index == from || index % PAGE_GROUPS == 0) {
            let page = tree::page_groups(size, index / PAGE_GROUPS);
            frames.push(Frame::Hashes(hashes.groups[page.start as usize..page.end as usize].to_vec()));
        }
        frames.push(Frame::Group(Bytes::copy_from_slice(group)));
    }
    frames.push(Frame::Finish(Finish { content_id: hashes.content.0.to_vec(), ..Default::default() }));
    frames
}

/// The verified frames.
fn run(wanted: ReplicaSpec, from: u64, frames: Vec<Frame>) -> Result<Vec<VerifiedFrame>, Code> {
    let mut pull = Pull::new(wanted, from);
    let pieces = frames.into_iter().map(|frame| pull.handle_frame(frame));
    pieces.collect::<Result<Vec<_>, _>>().map(|pieces| pieces.into_iter().flatten().collect()).map_err(|f| f.code)
}

#[test]
fn an_honest_source_is_stored_completely() {
    for (len, from) in [(5, 0), (3 * GROUP + 7, 0), (3 * GROUP + 7, 2), (PAGE + 2 * GROUP, 0), (PAGE + 9, 256)] {
        let (data, mut got) = (data(len), Vec::new());
        let (hashes, mut groups, mut pages) = (hashes(&data), vec![[0; 32]; (len / PAGE_GROUPS) as usize], Vec::new());
        let pieces = run(wanted(&data), from, frames(&data, from)).expect("good");
        assert!(
            matches!(&pieces[0], VerifiedFrame::Setup(setup) if setup.range == Some(ByteRange { start: 0, end: len }))
        );
        assert_eq!(pieces.last(), Some(&VerifiedFrame::Finish));
        for piece in pieces {
            match piece {
                VerifiedFrame::Pages(values) => pages = values,
                VerifiedFrame::Hashes(page, values) => {
                    let start = (page * PAGE_GROUPS) as usize;
                    groups[start..start + values.len()].copy_from_slice(&values);
                }
                VerifiedFrame::Group(index, bytes) => {
                    assert_eq!(index * GROUP, from * GROUP + got.len() as u64);
                    got.extend_from_slice(&bytes);
                }
                VerifiedFrame::Setup(_) | VerifiedFrame::Finish => {}
            }
        }
        assert!(got == data[(from * GROUP) as usize..], "{len} from {from}");
        let first = (from / PAGE_GROUPS * PAGE_GROUPS) as usize;
        assert_eq!(pages, hashes.pages);
        assert!(hashes.groups.iter().skip(first).eq(groups.iter().skip(first).take(hashes.groups.len() - first)));
    }
}

#[test]
fn a_wrong_source_is_detected() {
    let data = data(3 * GROUP + 7);
    let change = |at: usize, frame: Frame| {
        let mut frames = frames(&data, 0);
        frames[at] = frame;
        frames
    };
    let Frame::Setup(setup) = frames(&data, 0).remove(0) else { panic!("Setup comes first") };
    let refused = Refused { reason: "DRAINING".into(), ..Refused::default() };
    let group = |byte| Frame::Group(Bytes::from(vec![byte; GROUP as usize]));
    let table = [
        ("no set-up", frames(&data, 0).split_off(1), Code::VerificationFailed),
        ("refusal", vec![Frame::Refused(refused.clone())], Code::Draining),
        ("refusal later", change(3, Frame::Refused(refused)), Code::Draining),
        ("moved", change(2, Frame::Moved(usher_proto::pb::wire::Moved::default())), Code::Unavailable),
        ("other title", change(0, Frame::Setup(Setup { title: "b".into(), ..setup.clone() })), Code::ContentChanged),
        ("other size", change(0, frames(&data[..9], 0).remove(0)), Code::ContentChanged),
        ("other range", change(0, frames(&data, 1).remove(0)), Code::VerificationFailed),
        ("not hashed", change(0, Frame::Setup(Setup { content_id: "".into(), ..setup.clone() })), Code::ContentChanged),
        (
            "other content",
            change(0, Frame::Setup(Setup { content_id: "00".repeat(32), ..setup })),
            Code::ContentChanged,
        ),
        ("wrong hashes", change(1, Frame::Hashes(vec![[0; 32]; 4])), Code::VerificationFailed),
        ("wrong group", change(3, group(9)), Code::VerificationFailed),
        ("early end", change(3, Frame::Finish(Finish::default())), Code::VerificationFailed),
    ];
    for (what, frames, code) in table {
        assert_eq!(run(wanted(&data), 0, frames), Err(code), "{what}");
    }
}
