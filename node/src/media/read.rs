//! Reads of a file at an offset.

use std::{
    fs::File,
    io::{self, IoSliceMut},
    os::unix::fs::FileExt as _,
};

#[cfg(target_os = "linux")]
pub(crate) fn read_cached(file: &File, offset: u64, bufs: &mut [IoSliceMut<'_>]) -> usize {
    use rustix::io::{ReadWriteFlags, preadv2};
    // Any error, such as an unsupported flag, is left to the blocking read.
    preadv2(file, bufs, offset, ReadWriteFlags::NOWAIT).unwrap_or_default()
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn read_cached(_file: &File, _offset: u64, _bufs: &mut [IoSliceMut<'_>]) -> usize {
    0
}

/// Fills `buf` from `offset`; reads less only at the end of the file.
pub(crate) fn read_at(file: &File, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
    let mut have = 0;
    while have < buf.len() {
        match file.read_at(&mut buf[have..], offset.saturating_add(have as u64)) {
            Ok(0) => break,
            Ok(n) => have += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(have)
}
