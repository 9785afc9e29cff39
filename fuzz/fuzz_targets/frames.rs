//! The frames of `usher/1`, as node and client read them: any bytes, in any cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use usher_proto::{
    model::{Range, SetupInfo},
    wire::{Decoder, Frame},
};

fuzz_target!(|input: (Vec<u8>, u8)| {
    let (data, step) = input;
    let mut decoder = Decoder::default();
    for part in data.chunks(usize::from(step).max(1)) {
        decoder.push(part);
        loop {
            match decoder.next_frame() {
                Ok(Some(Frame::Setup(setup))) => drop(SetupInfo::try_from(setup)),
                Ok(Some(Frame::Open(open))) => drop(Range::parse(open.range)),
                Ok(Some(Frame::Range(range))) => drop(Range::parse(Some(range))),
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
    drop(decoder.finish());
});
