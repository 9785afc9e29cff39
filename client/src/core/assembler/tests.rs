//! Ranges are cut to the byte, failures are recovered from, and changes are detected.

use proptest::prelude::*;

use super::*;

fn group(index: u64, size: u64, pending: bool) -> Group {
    let start = index * GROUP;
    let data: Bytes = (start..size.min(start + GROUP)).map(|i| (i % 251) as u8).collect();
    let value = tree::group_value(index, &data);
    Group { index, data, value, pending }
}

#[test]
fn a_whole_title_in_two_sessions() {
    let size = 3 * GROUP + 5;
    let mut assembler = Assembler::new(size, 0..size, 0);
    assert_eq!((assembler.start_session(), assembler.session_bytes()), (Some(0..size), 0..size));
    for index in 0..2 {
        let chunk = assembler.handle_group(group(index, size, false)).expect("fits").expect("new");
        assert_eq!((chunk.number, chunk.offset, chunk.data.len()), (index, index * GROUP, GROUP as usize));
    }
    assert_eq!((assembler.progress(), assembler.total(), assembler.is_complete()), (2 * GROUP, size, false));
    assert_eq!(assembler.start_session(), Some(2 * GROUP..size));
    assert_eq!(assembler.handle_group(group(0, size, false)), Err(AssembleError::Order { got: 0, expected: 2 }));
    assert!(assembler.handle_group(group(2, size, false)).is_ok_and(|chunk| chunk.is_some()));
    assert!(
        assembler
            .handle_group(group(3, size, false))
            .is_ok_and(|chunk| chunk.is_some_and(|chunk| chunk.data.len() == 5))
    );
    assert_eq!((assembler.progress(), assembler.is_complete(), assembler.start_session()), (size, true, None));
    let surplus = Group { index: 4, ..group(3, size, false) };
    assert_eq!(assembler.handle_group(surplus), Err(AssembleError::Order { got: 4, expected: 4 }));
}

#[test]
fn a_move_at_an_absurd_byte_leaves_nothing_missing() {
    let assembler = Assembler::new(3 * GROUP, 0..3 * GROUP, 0);
    assert_eq!(assembler.missing_from(2 * GROUP), Some((2 * GROUP..3 * GROUP, 2 * GROUP..3 * GROUP)));
    for until in [3 * GROUP, u64::MAX - GROUP, u64::MAX] {
        assert_eq!(assembler.missing_from(until), None);
    }
}

#[test]
fn unverified_groups_are_received_again_but_not_written_again() {
    let size = 4 * GROUP;
    let mut assembler = Assembler::new(size, 0..size, 0);
    assert!(assembler.start_session().is_some());
    for index in 0..2 {
        assert!(
            assembler
                .handle_group(group(index, size, true))
                .is_ok_and(|chunk| chunk.is_some_and(|chunk| chunk.pending))
        );
    }
    assert_eq!(assembler.progress(), 0);
    // A failure: the next node has hashed the title.
    assert_eq!(assembler.start_session(), Some(0..size));
    assert_eq!(assembler.handle_group(group(0, size, false)), Ok(None));
    assert_eq!(assembler.progress(), GROUP);
    // Another failure, and a node that has not.
    assert_eq!(assembler.start_session(), Some(GROUP..size));
    assert_eq!(assembler.handle_group(group(1, size, true)), Ok(None));
    assert!(assembler.handle_group(group(2, size, true)).is_ok_and(|chunk| chunk.is_some()));
    assert_eq!(assembler.progress(), GROUP);
    assert!(assembler.handle_group(group(3, size, true)).is_ok_and(|chunk| chunk.is_some()));
    assert!(!assembler.is_complete());
    assembler.handle_confirmed();
    assert!(assembler.is_complete() && assembler.progress() == size);
}

#[test]
fn a_title_that_changed_is_detected() {
    let size = 2 * GROUP;
    for pending in [true, false] {
        let mut assembler = Assembler::new(size, 0..size, 0);
        assert!(assembler.start_session().is_some());
        assert!(assembler.handle_group(group(0, size, true)).is_ok());
        assert!(assembler.start_session().is_some());
        let changed = Group { value: [1; 32], ..group(0, size, pending) };
        assert_eq!(assembler.handle_group(changed), Err(AssembleError::Changed(0)));
    }
}

#[test]
fn a_resume_at_the_end_asks_for_nothing() {
    let mut assembler = Assembler::new(10, 3..7, 1);
    assert_eq!((assembler.start_session(), assembler.progress(), assembler.is_complete()), (None, 4, true));
    let mut wild = Assembler::new(10, 3..u64::MAX, u64::MAX);
    assert_eq!((wild.start_session(), wild.total()), (None, 7));
}

proptest! {
    // Each case hashes up to 400 kB, without optimisation.
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_range_is_cut_to_the_byte(size in 1_u64..400_000, a in any::<u64>(), b in any::<u64>(), loss in 1_u64..9) {
        let start = a % size;
        let want = start..start + 1 + b % (size - start);
        let mut assembler = Assembler::new(size, want.clone(), 0);
        let (mut out, mut numbers) = (Vec::new(), 0);
        while let Some(asked) = assembler.start_session() {
            prop_assert_eq!(asked.start, want.start + out.len() as u64);
            let wide = assembler.session_bytes();
            prop_assert!(wide.start <= asked.start && wide.end >= asked.end && wide.start.is_multiple_of(GROUP));
            let groups = wide.start / GROUP..tree::groups(wide.end);
            for index in groups.take(loss as usize) {
                let chunk = assembler.handle_group(group(index, size, false)).expect("fits").expect("new");
                prop_assert_eq!(chunk.offset, want.start + out.len() as u64);
                prop_assert_eq!((chunk.number, chunk.value), (numbers, tree::group_value(index, &chunk.data)));
                numbers += 1;
                out.extend_from_slice(&chunk.data);
            }
        }
        prop_assert!(out.iter().copied().eq(want.map(|i| (i % 251) as u8)));
    }
}
