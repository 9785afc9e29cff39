//! A hostile node: whatever frames follow its set-up information, nothing but the content asked for gets through.
#![no_main]

use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use usher_proto::verify::{Step, Verifier};
use usher_proto::{
    model::SetupInfo,
    pb::v1,
    tree,
    wire::Decoder,
};

fuzz_target!(|input: (Vec<u8>, Vec<u8>, Vec<(u64, u64)>)| {
    let Ok(setup) = v1::Setup::decode(input.0.as_slice()) else { return };
    let Ok(setup) = SetupInfo::try_from(setup) else { return };
    let Ok(mut verifier) = Verifier::new(&setup, setup.content) else { return };
    // Some further ranges at once, the others one a frame.
    let mut further = input.2.iter().map(|(start, end)| *start..*end);
    further.by_ref().take(4).for_each(|range| drop(verifier.extend(range)));
    let mut decoder = Decoder::default();
    decoder.push(&input.1);
    while let Ok(Some(frame)) = decoder.next_frame() {
        drop(further.next().map(|range| verifier.extend(range)));
        match verifier.take(frame) {
            Ok(Step::Group(group)) if !group.pending && tree::groups(setup.size) == 1 => {
                assert_eq!(Some(tree::single(&group.data)), setup.content);
            }
            Ok(_) => {}
            Err(_) => return,
        }
    }
});
