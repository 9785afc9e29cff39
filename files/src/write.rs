//! Writing many buffers with few system calls.

use std::io::{self, ErrorKind, IoSlice, Write};

/// Writes all bytes of `parts` in order, with as few calls as `out` allows.
///
/// # Errors
/// [`ErrorKind::WriteZero`] when `out` takes no more, and every error of `out` but an interruption. Some of the bytes may
/// have been written.
pub fn write_all<'a>(out: &mut impl Write, parts: impl IntoIterator<Item = &'a [u8]>) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> = parts.into_iter().map(IoSlice::new).collect();
    let mut rest = slices.as_mut_slice();
    // Skips empty buffers: a write of 0 bytes would look like an output that accepts no more.
    IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        match out.write_vectored(rest) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut rest, written),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes at most three bytes a call, and is interrupted before each.
    #[derive(Default)]
    struct Narrow {
        bytes: Vec<u8>,
        interrupted: bool,
        limit: Option<usize>,
    }

    impl Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.interrupted = !self.interrupted;
            if self.interrupted {
                return Err(ErrorKind::Interrupted.into());
            }
            let left = self.limit.map_or(3, |limit| limit - self.bytes.len());
            let len = bytes.len().min(3).min(left);
            self.bytes.extend_from_slice(&bytes[..len]);
            Ok(len)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn short_writes_and_interruptions_lose_nothing() {
        let mut out = Narrow::default();
        let parts: [&[u8]; 5] = [b"", b"one", b"", b"twenty", b""];
        write_all(&mut out, parts).expect("written");
        assert_eq!(out.bytes, b"onetwenty");
        write_all(&mut out, []).expect("nothing to write");
    }

    #[test]
    fn a_full_output_is_an_error() {
        let mut out = Narrow { limit: Some(4), ..Narrow::default() };
        let error = write_all(&mut out, [b"one".as_slice(), b"two"]).expect_err("full");
        assert_eq!((error.kind(), out.bytes), (ErrorKind::WriteZero, b"onet".to_vec()));
    }
}
