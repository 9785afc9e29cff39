//! Every honest stream is taken, and no other.

use crate::{Bitrate, Title, pb, tree::PAGE};
use proptest::prelude::*;

use super::*;

/// Every group differs from its neighbours, and every byte of the last few from the one before.
fn sample(len: u64) -> Vec<u8> {
    let mut data = vec![0; len as usize];
    data.chunks_mut(GROUP as usize).enumerate().for_each(|(index, group)| group.fill(index as u8));
    data.iter_mut().rev().take(300).enumerate().for_each(|(at, byte)| *byte ^= at as u8);
    data
}

fn hash(data: &[u8]) -> tree::Hashes {
    let mut builder = tree::Builder::default();
    data.chunks(GROUP as usize).for_each(|group| builder.push(group));
    builder.finish()
}

fn setup(size: u64, groups: Range<u64>, content: Option<ContentId>) -> SetupInfo {
    SetupInfo {
        title: Title::parse("a.mp4").expect("valid"),
        content,
        size,
        media_type: "video/mp4".into(),
        duration_ms: 0,
        bitrate: Bitrate(1),
        streamable: true,
        range: groups.start * GROUP..(groups.end * GROUP).min(size),
    }
}

/// The stream of an honest node after `Setup`.
fn honest(data: &[u8], groups: Range<u64>, hashed: bool) -> Vec<Frame> {
    let (size, hashes) = (data.len() as u64, hash(data));
    let group = |index: u64| {
        let start = (index * GROUP) as usize;
        Frame::Group(Bytes::copy_from_slice(&data[start..data.len().min(start + GROUP as usize)]))
    };
    let page_of = |page: u64| {
        let range = tree::page_groups(size, page);
        Frame::Hashes(hashes.groups[range.start as usize..range.end as usize].to_vec())
    };
    let pages = (groups.start / PAGE_GROUPS)..groups.end.div_ceil(PAGE_GROUPS);
    let mut frames = Vec::new();
    if !hashed {
        frames.extend(groups.clone().map(group));
    }
    if !hashes.pages.is_empty() {
        frames.push(Frame::Pages(hashes.pages.clone()));
    }
    for page in pages {
        if !hashes.groups.is_empty() {
            frames.push(page_of(page));
        }
        if hashed {
            let of_page = tree::page_groups(size, page);
            frames.extend((groups.start.max(of_page.start)..groups.end.min(of_page.end)).map(group));
        }
    }
    frames.push(Frame::Finish(pb::wire::Finish { content_id: hashes.content.0.to_vec(), ..Default::default() }));
    frames
}

fn run(setup: &SetupInfo, expected: Option<ContentId>, frames: Vec<Frame>) -> Result<(Vec<Group>, bool), VerifyError> {
    let mut verifier = Verifier::new(setup, expected)?;
    let (mut groups, mut done) = (Vec::new(), false);
    for frame in frames {
        match verifier.take(frame)? {
            Step::More => {}
            Step::Group(group) => groups.push(group),
            Step::Done(_) => done = true,
        }
    }
    Ok((groups, done))
}

/// The groups of ranges asked for in one session, and what an honest node sends of them.
fn several(data: &[u8], ranges: &[Range<u64>]) -> Vec<Frame> {
    let mut frames = Vec::new();
    for (at, range) in ranges.iter().enumerate() {
        let mut part = honest(data, range.clone(), true);
        part.retain(|frame| !(matches!(frame, Frame::Finish(_)) || at > 0 && matches!(frame, Frame::Pages(_))));
        frames.append(&mut part);
    }
    frames.push(Frame::Finish(pb::wire::Finish { content_id: hash(data).content.0.to_vec(), ..Default::default() }));
    frames
}

/// Asks for the first range with the Open, and for each of the others after so many frames.
fn extended(
    data: &[u8],
    ranges: &[Range<u64>],
    frames: &[Frame],
    after: &[usize],
) -> Result<(Vec<u64>, bool), VerifyError> {
    let (size, content) = (data.len() as u64, hash(data).content);
    let mut verifier = Verifier::new(&setup(size, ranges[0].clone(), Some(content)), Some(content))?;
    let (mut out, mut done) = (Vec::new(), false);
    for (at, frame) in frames.iter().enumerate() {
        for (range, _) in ranges[1..].iter().zip(after).filter(|(_, after)| **after == at) {
            // Not rounded: the wanted bytes begin within a group.
            let (start, end) = (range.start * GROUP, (range.end * GROUP).min(size));
            assert_eq!(verifier.extend(start + u64::from(end - start > 1)..end), Ok(()));
        }
        match verifier.take(frame.clone())? {
            Step::More => {}
            Step::Group(group) => {
                let start = (group.index * GROUP) as usize;
                assert!(!group.pending && data[start..].starts_with(&group.data));
                out.push(group.index);
            }
            Step::Done(_) => done = true,
        }
    }
    Ok((out, done))
}

#[test]
fn further_ranges_come_one_after_the_other() {
    for (size, ranges) in [
        (9, vec![0..1, 0..1]),
        (5 * GROUP, vec![3..5, 0..1, 0..5, 2..3]),
        (PAGE + 5 * GROUP, vec![250..258, 0..1, 255..257, 260..261]),
    ] {
        let data = sample(size);
        let frames = several(&data, &ranges);
        let wanted: Vec<u64> = ranges.iter().flat_map(Clone::clone).collect();
        // All at once, each when the one before is over, and the last just before the end.
        let before_end: Vec<usize> =
            (1..=ranges.len()).map(|many| several(&data, &ranges[..many]).len() - 1).take(ranges.len() - 1).collect();
        for after in [vec![0; ranges.len()], vec![1; ranges.len()], before_end] {
            assert_eq!(extended(&data, &ranges, &frames, &after), Ok((wanted.clone(), true)), "{size} {after:?}");
        }
    }
}

#[test]
fn a_further_range_needs_its_own_hashes_and_no_pages() {
    let data = sample(PAGE + 5 * GROUP);
    let ranges = [0..2, 1..3];
    let frames = several(&data, &ranges);
    let run = |frames: &[Frame]| extended(&data, &ranges, frames, &[0]);
    let at = frames.iter().rposition(|frame| matches!(frame, Frame::Hashes(_))).expect("hashes");
    let mut missing = frames.clone();
    missing.remove(at);
    assert!(matches!(run(&missing), Err(VerifyError::Order { got: "a group", .. })));
    let mut again = frames.clone();
    again.insert(at, frames[0].clone());
    assert!(matches!(run(&again), Err(VerifyError::Order { got: "page values", .. })));
    let mut early = frames.clone();
    early.drain(at..frames.len() - 1);
    assert!(matches!(run(&early), Err(VerifyError::Order { got: "Finish", .. })));
}

#[test]
fn an_old_node_is_distinguished_from_a_forger() {
    for size in [9, 5 * GROUP] {
        let data = sample(size);
        let content = Some(hash(&data).content);
        let mut verifier = Verifier::new(&setup(size, 0..1, content), content).expect("agrees");
        let mut awaited = Vec::new();
        assert_eq!(verifier.extend(0..1), Ok(()));
        for frame in several(&data, &[0..1, 0..1]) {
            awaited.push(verifier.awaits_range());
            assert!(verifier.take(frame).is_ok());
        }
        let between = if size == 9 { 1 } else { 2 };
        assert!(awaited.iter().enumerate().all(|(at, awaits)| *awaits == (at == between)), "{awaited:?}");
        assert!(!verifier.awaits_range());
    }
}

#[test]
fn a_range_that_cannot_come_is_refused() {
    let (data, content) = (sample(3 * GROUP), hash(&sample(3 * GROUP)).content);
    let size = data.len() as u64;
    let mut verifier = Verifier::new(&setup(size, 0..1, Some(content)), None).expect("agrees");
    for (start, end) in [(5, 5), (7, 5), (size, size + 1), (0, u64::MAX)] {
        assert_eq!(verifier.extend(start..end), Err(ExtendError::Outside));
    }
    for frame in honest(&data, 0..1, true) {
        assert!(verifier.take(frame).is_ok());
    }
    assert_eq!(verifier.extend(0..1), Err(ExtendError::Ended));
    let mut unhashed = Verifier::new(&setup(size, 0..1, None), None).expect("agrees");
    assert_eq!(unhashed.extend(0..1), Err(ExtendError::NotHashed));
}

fn check_honest(size: u64, groups: Range<u64>, hashed: bool) {
    let data = sample(size);
    let content = hash(&data).content;
    let setup = setup(size, groups.clone(), hashed.then_some(content));
    let expected = hashed.then_some(content);
    let (out, done) = run(&setup, expected, honest(&data, groups.clone(), hashed)).expect("honest");
    let bytes: Vec<u8> = out.iter().flat_map(|group| group.data.to_vec()).collect();
    assert!(bytes == data[setup.range.start as usize..setup.range.end as usize], "{size} {groups:?}");
    assert!(done && out.iter().map(|group| group.index).eq(groups));
    assert!(out.iter().all(|group| group.pending != hashed));
}

#[test]
fn honest_streams_at_the_edges() {
    for hashed in [true, false] {
        for (size, range) in [
            (1, 0..1),
            (GROUP, 0..1),
            (GROUP + 1, 0..2),
            (GROUP + 1, 1..2),
            (PAGE, 255..256),
            (PAGE + 1, 256..257),
            (PAGE + 5 * GROUP, 250..260),
            (2 * PAGE + 7, 300..513),
        ] {
            check_honest(size, range, hashed);
        }
    }
}

#[test]
fn errors_say_which_group() {
    let data = sample(3 * GROUP);
    let content = Some(hash(&data).content);
    let setup = setup(data.len() as u64, 0..3, content);
    let run = |change: &dyn Fn(&mut Vec<Frame>)| {
        let mut frames = honest(&data, 0..3, true);
        change(&mut frames);
        run(&setup, content, frames).map(|(groups, done)| (groups.len(), done))
    };
    let order = |got, expected: &str| Err(VerifyError::Order { got, expected: expected.into() });
    assert_eq!(run(&|_| ()), Ok((3, true)));
    assert_eq!(run(&|frames| frames.swap(2, 3)), Err(VerifyError::Group { index: 1, groups: 3 }));
    assert_eq!(run(&|frames| frames.swap(0, 1)), order("a group", "the group values of page 0"));
    assert_eq!(run(&|frames| drop(frames.remove(3))), order("Finish", "group 2 of 3"));
    assert_eq!(run(&|frames| frames.insert(4, frames[3].clone())), order("a group", "the end"));
    assert_eq!(run(&|frames| frames.push(frames[3].clone())), order("a group", "nothing more"));
    assert_eq!(run(&|frames| frames.truncate(3)), Ok((2, false)));
    let short = VerifyError::Length { what: "group 0".into(), got: 1, expected: GROUP, unit: "bytes" };
    assert_eq!(run(&|frames| frames[1] = Frame::Group(Bytes::from_static(b"x"))), Err(short));
    assert_eq!(run(&|frames| frames[0] = Frame::Hashes(vec![[0; 32]; 3])), Err(VerifyError::Page(0)));
    assert!(matches!(run(&|frames| frames[0] = Frame::Hashes(vec![[0; 32]; 4])), Err(VerifyError::Length { .. })));
    let other = Frame::Finish(pb::wire::Finish { content_id: vec![0; 32], ..Default::default() });
    assert!(matches!(run(&|frames| frames[4] = other.clone()), Err(VerifyError::Content { .. })));
}

#[test]
fn the_content_asked_for_is_the_content_that_comes() {
    let (asked, other) = (ContentId([1; 32]), ContentId([2; 32]));
    assert!(Verifier::new(&setup(9, 0..1, Some(asked)), Some(asked)).is_ok());
    for has in [Some(other), None] {
        let refused = Verifier::new(&setup(9, 0..1, has), Some(asked)).err();
        assert!(matches!(refused, Some(VerifyError::Content { expected, .. }) if expected == asked));
    }
}

/// Flips one bit of one frame's payload; false if the frame has none.
fn flip(frame: &mut Frame, at: usize, bit: u8) -> bool {
    let flip = |bytes: &mut [u8]| {
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
    };
    match frame {
        Frame::Pages(values) | Frame::Hashes(values) => flip(values.as_flattened_mut()),
        Frame::Group(data) => {
            let mut copy = data.to_vec();
            flip(&mut copy);
            *data = copy.into();
        }
        Frame::Finish(finish) => flip(&mut finish.content_id),
        _ => return false,
    }
    true
}

fn sizes() -> impl Strategy<Value = u64> {
    let group = (0_u64..5, -2_i64..3).prop_map(|(groups, off)| (groups * GROUP).saturating_add_signed(off).max(1));
    let page = (0_u64..3, -2_i64..3).prop_map(|(groups, off)| (PAGE + groups * GROUP).saturating_add_signed(off));
    prop_oneof![8 => 1_u64..400_000, 8 => group, 1 => page]
}

/// A size and some of its groups.
fn shapes() -> impl Strategy<Value = (u64, Range<u64>)> {
    (sizes(), any::<u64>(), any::<u64>()).prop_map(|(size, a, b)| {
        let groups = tree::groups(size);
        let start = a % groups;
        (size, start..start + 1 + b % (groups - start))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_honest_stream_is_taken((size, groups) in shapes(), hashed in any::<bool>()) {
        check_honest(size, groups, hashed);
    }

    #[test]
    fn every_flipped_bit_is_seen(
        (size, groups) in shapes(), hashed in any::<bool>(), which in any::<usize>(), at in any::<usize>(), bit in 0_u8..8,
    ) {
        let data = sample(size);
        let content = hash(&data).content;
        let setup = setup(size, groups.clone(), hashed.then_some(content));
        let mut frames = honest(&data, groups, hashed);
        let which = which % frames.len();
        prop_assert!(flip(&mut frames[which], at, bit));
        let result = run(&setup, setup.content, frames);
        prop_assert!(result.is_err(), "frame {which} of {size} bytes");
    }

    #[test]
    fn any_further_ranges_are_taken(
        size in sizes(), ranges in proptest::collection::vec((any::<u64>(), any::<u64>()), 1..5), after in 0_usize..3,
        flipped in proptest::option::of((any::<usize>(), any::<usize>(), 0_u8..8)),
    ) {
        let (data, groups) = (sample(size), tree::groups(size));
        let ranges: Vec<_> = ranges.iter().map(|(a, b)| (a % groups, b)).map(|(a, b)| a..a + 1 + b % (groups - a)).collect();
        let mut frames = several(&data, &ranges);
        let changed = flipped.is_some_and(|(which, at, bit)| {
            let which = which % frames.len();
            flip(&mut frames[which], at, bit)
        });
        let result = extended(&data, &ranges, &frames, &vec![after.min(1); ranges.len()]);
        let wanted: Vec<u64> = ranges.iter().flat_map(Clone::clone).collect();
        prop_assert_eq!(result.is_err(), changed);
        prop_assert!(changed || result == Ok((wanted, true)));
    }

    #[test]
    fn no_order_of_frames_panics(
        (size, groups) in shapes(), hashed in any::<bool>(),
        order in proptest::collection::vec((any::<usize>(), any::<bool>()), 1..12),
    ) {
        let data = sample(size);
        let setup = setup(size, groups.clone(), hashed.then_some(hash(&data).content));
        let frames = honest(&data, groups, hashed);
        let mut verifier = Verifier::new(&setup, None).expect("agrees");
        for (at, in_order) in order {
            let frame = if in_order { &frames[0] } else { &frames[at % frames.len()] };
            if verifier.take(frame.clone()).is_err() {
                break;
            }
        }
    }
}
