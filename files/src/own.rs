//! Files and folders of this process's user: nothing that another user planted under their names is followed, written to
//! or waited for, and nobody else sees what is private.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use rustix::{fs::OFlags, io::Errno, process::geteuid};
use thiserror::Error;

/// Attempts at a file that other processes create and remove meanwhile.
const TRIES: usize = 10;

/// Permissions of others than the owner.
const OTHERS: u32 = 0o077;

/// The mode of folders in which only its owner removes a file, as in `/tmp`.
const STICKY: u32 = 0o1000;

/// Why something that has the name of a file is not written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NotOwn {
    /// A symbolic link.
    #[error("it is a symbolic link")]
    Link,
    /// A FIFO, device, socket or folder.
    #[error("it is no regular file")]
    Special,
    /// A file of another user.
    #[error("it belongs to another user")]
    User,
    /// A file with other names, of which one may be precious.
    #[error("it has a second name (a hard link)")]
    Names,
}

impl From<NotOwn> for io::Error {
    fn from(why: NotOwn) -> Self {
        Self::new(ErrorKind::AlreadyExists, why)
    }
}

/// Opens the file `path` to read and write; creates it with the permissions `mode` less the umask, if there is none. An
/// existing file keeps its bytes and loses permissions beyond `mode`. Never follows a link at the end of `path`, and never
/// waits for another process.
///
/// # Errors
/// [`NotOwn`] as an [`ErrorKind::AlreadyExists`] for everything but a regular file of this user with one name; other errors
/// of the disk.
pub fn open_own(path: &Path, mode: u32) -> io::Result<File> {
    for _ in 0..TRIES {
        // A new file is this user's, whatever owner a network file system reports.
        match OpenOptions::new().read(true).write(true).create_new(true).mode(mode).open(path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            opened => return opened,
        }
        match existing(path) {
            Ok(Some(file)) => {
                let now = file.metadata()?.mode();
                if now & 0o777 & !mode != 0 {
                    file.set_permissions(Permissions::from_mode(now & mode))?;
                }
                return Ok(file);
            }
            Ok(None) => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::new(ErrorKind::ResourceBusy, "another process creates and removes it again and again"))
}

/// The same for a file that should exist; `None` if it does not.
///
/// # Errors
/// As [`open_own`].
pub fn existing(path: &Path) -> io::Result<Option<File>> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC).bits().cast_signed();
    let file = match OpenOptions::new().read(true).write(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            let special = || path.symlink_metadata().is_ok_and(|about| !about.is_file());
            return Err(match Errno::from_io_error(&error) {
                Some(Errno::LOOP) => NotOwn::Link.into(),
                _ if special() => NotOwn::Special.into(),
                _ => error,
            });
        }
    };
    let about = file.metadata()?;
    if !about.is_file() {
        return Err(NotOwn::Special.into());
    }
    if about.uid() != geteuid().as_raw() {
        return Err(NotOwn::User.into());
    }
    // Zero: it was removed while it was opened.
    match about.nlink() {
        0 => Ok(None),
        1 => Ok(Some(file)),
        _ => Err(NotOwn::Names.into()),
    }
}

/// Creates the folder `path` and its parents for this user only. An existing one that is empty, or holds `mark`, is closed
/// to others; any other folder may serve further purposes and is left as it is, as are folders of other users and those
/// that many share.
///
/// # Errors
/// Errors of the disk.
pub fn private_folder(path: &Path, mark: &str) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let about = fs::metadata(path)?;
    let open = about.mode() & OTHERS != 0 && about.mode() & STICKY == 0 && about.uid() == geteuid().as_raw();
    if open && (path.join(mark).symlink_metadata().is_ok() || fs::read_dir(path)?.next().is_none()) {
        match fs::set_permissions(path, Permissions::from_mode(about.mode() & 0o700)) {
            // A folder that its user is not to change.
            Err(error) if matches!(error.kind(), ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied) => {}
            changed => changed?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        os::unix::{fs::symlink, net::UnixListener},
        path::PathBuf,
    };

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> Self {
            Self(tempfile::tempdir().expect("a folder"))
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn mode(&self, name: &str) -> u32 {
            fs::metadata(self.path(name)).expect("there").mode() & 0o777
        }
    }

    fn refused(opened: io::Result<File>) -> Option<NotOwn> {
        let error = opened.err().filter(|error| error.kind() == ErrorKind::AlreadyExists)?;
        error.get_ref()?.downcast_ref().copied()
    }

    #[test]
    fn a_file_is_created_and_opened_again_with_its_bytes() {
        let folder = Folder::new();
        let path = folder.path("a");
        assert!(existing(&path).is_ok_and(|file| file.is_none()));
        open_own(&path, 0o666).expect("made").write_all(b"text").expect("written");
        fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("set");
        let mut text = String::new();
        open_own(&path, 0o600).expect("opened").read_to_string(&mut text).expect("read");
        assert_eq!((text.as_str(), folder.mode("a")), ("text", 0o600));
        assert!(existing(&path).is_ok_and(|file| file.is_some()));
    }

    #[test]
    fn planted_names_are_refused_and_lead_nowhere() {
        let folder = Folder::new();
        let precious = folder.path("precious");
        fs::write(&precious, "mine").expect("written");
        symlink(&precious, folder.path("link")).expect("linked");
        symlink(folder.path("nothing"), folder.path("dangling")).expect("linked");
        mknodat(CWD, folder.path("fifo"), FileType::Fifo, Mode::RWXU, 0).expect("made");
        fs::create_dir(folder.path("folder")).expect("made");
        let _listener = UnixListener::bind(folder.path("socket")).expect("bound");
        fs::write(folder.path("two"), "mine").expect("written");
        fs::hard_link(folder.path("two"), folder.path("names")).expect("linked");
        for (name, why) in [
            ("link", NotOwn::Link),
            ("dangling", NotOwn::Link),
            ("fifo", NotOwn::Special),
            ("folder", NotOwn::Special),
            ("socket", NotOwn::Special),
            ("names", NotOwn::Names),
        ] {
            assert_eq!(refused(open_own(&folder.path(name), 0o666)), Some(why), "{name}");
            assert_eq!(refused(existing(&folder.path(name)).map(|file| file.expect("there"))), Some(why), "{name}");
        }
        assert!(fs::read(precious).is_ok_and(|bytes| bytes == b"mine") && !folder.path("nothing").exists());
    }

    #[test]
    fn a_file_of_another_user_is_refused() {
        let folder = Folder::new();
        let path = folder.path("a");
        fs::write(&path, "theirs").expect("written");
        let given_away = std::os::unix::fs::chown(&path, Some(12_345), None);
        if geteuid().is_root() {
            given_away.expect("root may");
            assert_eq!(refused(open_own(&path, 0o666)), Some(NotOwn::User));
        } else {
            assert!(given_away.is_err(), "a user cannot give a file away");
        }
    }

    #[test]
    fn a_folder_is_closed_unless_it_serves_others() {
        let folder = Folder::new();
        private_folder(&folder.path("new/state"), "mark").expect("made");
        assert_eq!((folder.mode("new"), folder.mode("new/state")), (0o700, 0o700));
        for (name, mode, file, expected) in [
            ("empty", 0o755, None, 0o700),
            ("ours", 0o775, Some("mark"), 0o700),
            ("shared", 0o755, Some("other"), 0o755),
            ("sticky", 0o1777, Some("mark"), 0o777),
        ] {
            fs::create_dir(folder.path(name)).expect("made");
            if let Some(file) = file {
                fs::write(folder.path(name).join(file), "").expect("written");
            }
            fs::set_permissions(folder.path(name), Permissions::from_mode(mode)).expect("set");
            private_folder(&folder.path(name), "mark").expect("there");
            assert_eq!(folder.mode(name), expected, "{name}");
        }
    }
}
