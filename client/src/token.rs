//! A viewer's token, as the master gets it with every call. Checks its form only; never shows it.

use std::{fmt, fs, io::Read as _, path::Path};

use tonic::metadata::{Ascii, MetadataValue};
use usher_proto::{Code, Fault};

/// Longest token, in bytes: what a master accepts.
const MAX_BYTES: usize = 8192;

/// A bearer token that identifies the viewer at the master.
#[derive(Clone)]
pub struct Token {
    metadata: MetadataValue<Ascii>,
}

impl Token {
    /// Takes the text of a token; spaces and line ends around it are dropped.
    ///
    /// # Errors
    /// [`Code::Usage`] for a text that is no signed JSON Web Token.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        let token = text.trim();
        let letters = |part: &str| part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        let form = token.split('.').count() == 3 && token.split('.').all(letters);
        let wrong = || Fault::new(Code::Usage, "the token is no signed JSON Web Token of at most 8192 bytes");
        if !form || token.len() > MAX_BYTES {
            return Err(wrong());
        }
        let mut metadata: MetadataValue<Ascii> = format!("Bearer {token}").parse().map_err(|_| wrong())?;
        // HTTP/2 does not keep it in its tables, and `Debug` hides it.
        metadata.set_sensitive(true);
        Ok(Self { metadata })
    }

    /// Reads a token from a file.
    ///
    /// # Errors
    /// [`Code::Usage`] when the file cannot be read or holds no token.
    pub fn load(file: &Path) -> Result<Self, Fault> {
        let usage = |error: &dyn fmt::Display| Fault::new(Code::Usage, format!("token of {}: {error}", file.display()));
        let mut text = String::new();
        let opened = fs::File::open(file).map_err(|error| usage(&error))?;
        opened.take(2 * MAX_BYTES as u64).read_to_string(&mut text).map_err(|error| usage(&error))?;
        Self::parse(&text).map_err(|fault| usage(&fault))
    }

    /// The value of the metadata `authorization`.
    pub(crate) fn metadata(&self) -> MetadataValue<Ascii> {
        self.metadata.clone()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_checked_and_never_shown() {
        let token = Token::parse(" abc.def-_9.ghi\n").expect("a token");
        assert_eq!(token.metadata().to_str().ok(), Some("Bearer abc.def-_9.ghi"));
        assert!(!format!("{token:?} {:?}", token.metadata()).contains("abc"));
        for wrong in ["", "abc", "a.b", "a.b.c.d", "a.b.c d", "a.b.\u{e4}", "a.b.c\nx.y.z", &"a.b.c".repeat(2000)] {
            let fault = Token::parse(wrong).expect_err("no token");
            assert!(fault.code == Code::Usage && !fault.message.contains("a.b"), "{fault}");
        }
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("token");
        assert!(Token::load(&file).is_err());
        fs::write(&file, "a.b.c\n").expect("written");
        assert!(Token::load(&file).is_ok());
    }
}
