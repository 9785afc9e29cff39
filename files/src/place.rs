//! Putting a finished file in its place.

use std::{
    fs::{self, File, Permissions},
    io::{self, ErrorKind, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use rustix::{
    fs::{CWD, RenameFlags},
    io::Errno,
};
use tempfile::{NamedTempFile, TempPath};

/// Treatment of a file that already has the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Keep it and fail with [`ErrorKind::AlreadyExists`]. A dangling link counts as a file.
    Keep,
    /// Replace it.
    Replace,
}

/// Renames the finished `file` from `draft` to `target`, which is on the same file system. Syncs the file before and the
/// directory after, so that after a crash `target` is either complete or unchanged.
///
/// # Errors
/// [`ErrorKind::AlreadyExists`] when `target` exists and is to be kept: `draft` stays then. Other errors of the disk: when
/// only the directory could not be synced, the file has its new name already.
pub fn place(file: &File, draft: &Path, target: &Path, existing: Existing) -> io::Result<()> {
    file.sync_all()?;
    match existing {
        Existing::Replace => fs::rename(draft, target)?,
        Existing::Keep => {
            let rename = |draft: &Path, target: &Path| {
                rustix::fs::renameat_with(CWD, draft, CWD, target, RenameFlags::NOREPLACE)
            };
            rename_new(draft, target, rename, |draft, target| fs::hard_link(draft, target))?;
        }
    }
    sync_folder(folder_of(target))
}

/// Renames without replacing: with `rename`, otherwise with `link`, otherwise after a check that the target does not
/// exist.
fn rename_new(
    draft: &Path,
    target: &Path,
    rename: impl Fn(&Path, &Path) -> Result<(), Errno>,
    link: impl Fn(&Path, &Path) -> io::Result<()>,
) -> io::Result<()> {
    match rename(draft, target) {
        // The kernel or the file system lacks the flag.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
        done => return done.map_err(Into::into),
    }
    match link(draft, target) {
        Ok(()) => fs::remove_file(draft),
        // The file system has no hard links. Two writers at once may overwrite each other here: it offers no better way.
        Err(error) if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::Unsupported) => {
            if target.symlink_metadata().is_ok() {
                return Err(ErrorKind::AlreadyExists.into());
            }
            fs::rename(draft, target)
        }
        Err(error) => Err(error),
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

/// Syncs a directory, without which a rename is not on the disk. A directory that may not be read, or whose file system
/// cannot sync directories, is left to the kernel.
fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::PermissionDenied | ErrorKind::InvalidInput | ErrorKind::Unsupported
            ) =>
        {
            Ok(())
        }
        synced => synced,
    }
}

/// A complete file beside its target, under a temporary name. Dropping it removes the file.
#[derive(Debug)]
pub struct Draft {
    file: File,
    path: TempPath,
}

impl Draft {
    /// Writes `bytes` to a temporary file in the directory of `target`, created with the permissions `mode` less the umask,
    /// and syncs it.
    ///
    /// # Errors
    /// Errors of the disk.
    pub fn write(target: &Path, mode: u32, bytes: &[u8]) -> io::Result<Self> {
        let mut draft: NamedTempFile = tempfile::Builder::new()
            .prefix(".usher-")
            // The mode is an argument of open(2): a secret is unreadable for others from the first byte.
            .permissions(Permissions::from_mode(mode))
            .tempfile_in(folder_of(target))?;
        draft.write_all(bytes)?;
        draft.as_file().sync_all()?;
        let (file, path) = draft.into_parts();
        Ok(Self { file, path })
    }

    /// Gives the file its name; see [`place`].
    ///
    /// # Errors
    /// As [`place`].
    pub fn place(self, target: &Path, existing: Existing) -> io::Result<()> {
        // The temporary name is gone after a rename; dropping `path` then finds nothing to remove.
        place(&self.file, &self.path, target, existing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no_flag(_: &Path, _: &Path) -> Result<(), Errno> {
        Err(Errno::INVAL)
    }

    fn no_links(_: &Path, _: &Path) -> io::Result<()> {
        Err(ErrorKind::PermissionDenied.into())
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).expect("listed").map(|entry| entry.expect("read").file_name());
        let mut names: Vec<_> = entries.map(|name| name.into_string().expect("text")).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_placed_once_and_replaced_when_asked() {
        let dir = tempfile::tempdir().expect("a folder");
        let (draft, target) = (dir.path().join("a.part"), dir.path().join("a"));
        for (text, existing, placed) in
            [("one", Existing::Keep, true), ("two", Existing::Keep, false), ("three", Existing::Replace, true)]
        {
            fs::write(&draft, text).expect("written");
            let done = place(&File::open(&draft).expect("opened"), &draft, &target, existing);
            assert_eq!(done.map_err(|error| error.kind()), if placed { Ok(()) } else { Err(ErrorKind::AlreadyExists) });
            assert_eq!(draft.exists(), !placed, "{text}");
            assert_eq!(fs::read_to_string(&target).expect("read") == text, placed);
        }
        assert_eq!(names(dir.path()), ["a"]);
    }

    #[test]
    fn a_dangling_link_is_kept() {
        let dir = tempfile::tempdir().expect("a folder");
        let target = dir.path().join("a");
        std::os::unix::fs::symlink("nowhere", &target).expect("linked");
        let placed = Draft::write(&target, 0o600, b"text").expect("written").place(&target, Existing::Keep);
        assert_eq!(placed.map_err(|error| error.kind()), Err(ErrorKind::AlreadyExists));
        assert_eq!(names(dir.path()), ["a"], "no draft is left");
    }

    #[test]
    fn without_the_flag_and_without_links_an_existing_file_is_kept() {
        type Link = fn(&Path, &Path) -> io::Result<()>;
        let links: [Link; 2] = [|draft, target| fs::hard_link(draft, target), no_links];
        for link in links {
            let dir = tempfile::tempdir().expect("a folder");
            let (draft, target) = (dir.path().join("a.part"), dir.path().join("a"));
            fs::write(&draft, "one").expect("written");
            rename_new(&draft, &target, no_flag, link).expect("placed");
            fs::write(&draft, "two").expect("written");
            let kept = rename_new(&draft, &target, no_flag, link).expect_err("exists");
            assert_eq!(kept.kind(), ErrorKind::AlreadyExists);
            assert_eq!(fs::read_to_string(&target).expect("read"), "one");
            assert_eq!(names(dir.path()), ["a", "a.part"]);
        }
    }

    #[test]
    fn a_draft_has_its_mode_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().expect("a folder");
        let target = dir.path().join("secret");
        drop(Draft::write(&target, 0o600, b"dropped").expect("written"));
        assert_eq!(names(dir.path()), Vec::<String>::new());
        Draft::write(&target, 0o600, b"kept").expect("written").place(&target, Existing::Keep).expect("placed");
        assert_eq!(fs::metadata(&target).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(
            (names(dir.path()), fs::read(&target).expect("read")),
            (vec!["secret".to_owned()], b"kept".to_vec())
        );
    }

    #[test]
    fn a_missing_folder_is_an_error() {
        let missing = Path::new("/nonexistent/a");
        assert_eq!(Draft::write(missing, 0o600, b"").map_err(|error| error.kind()).err(), Some(ErrorKind::NotFound));
    }
}
