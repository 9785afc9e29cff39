//! Finds, starts and feeds a media player. Independent of titles.

use std::{
    ffi::{OsStr, OsString},
    fmt,
    fs::File,
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::process::{Child, Command};
use usher_proto::{Code, Fault};

/// The players to look for, in this order, with the arguments that make each read its standard input.
const KNOWN: [(&str, &[&str]); 3] = [("mpv", &["-"]), ("ffplay", &["-i", "-"]), ("vlc", &["-"])];

/// An installed player.
#[derive(Clone, Debug)]
pub(super) struct Player {
    path: PathBuf,
    /// Arguments that make it read its standard input.
    stdin: Vec<OsString>,
    args: Vec<String>,
}

impl Player {
    /// The player of this name or path; without a name, the first known player that is installed.
    pub(super) fn find(name: Option<&str>) -> Result<Self, Fault> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
        Self::find_in(name, &folders)
    }

    fn find_in(name: Option<&str>, folders: &[PathBuf]) -> Result<Self, Fault> {
        let installed = |name: &str| folders.iter().map(|folder| folder.join(name)).find(|path| is_program(path));
        let known = |path: PathBuf, stem: &str| {
            let stdin = KNOWN.iter().find(|(name, _)| *name == stem).map_or(&["-"][..], |(_, args)| args);
            Self { path, stdin: stdin.iter().map(OsString::from).collect(), args: Vec::new() }
        };
        let missing = |text: String| {
            Fault::new(Code::Usage, format!("{text}; `--player -` writes to standard output, for any other program"))
        };
        match name {
            Some(name) if name.contains('/') => {
                let path = PathBuf::from(name);
                let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
                if is_program(&path) { Ok(known(path, &stem)) } else { Err(missing(format!("{name} is no program"))) }
            }
            Some(name) => installed(name)
                .map(|path| known(path, name))
                .ok_or_else(|| missing(format!("no player {name} is installed"))),
            None => {
                let found = KNOWN.iter().find_map(|(name, _)| installed(name).map(|path| known(path, name)));
                found.ok_or_else(|| missing("no player is installed: looked for mpv, ffplay and vlc".to_owned()))
            }
        }
    }

    /// Adds the user's arguments, split at spaces.
    pub(super) fn with_args(mut self, args: &[String]) -> Self {
        self.args = args.iter().flat_map(|text| text.split_whitespace()).map(str::to_owned).collect();
        self
    }

    /// Plays a file until the player ends.
    pub(super) async fn play_file(&self, path: &Path) -> Result<(), Fault> {
        let mut child = self.start([path], Stdio::null())?;
        self.wait(&mut child).await
    }

    /// Plays what the future made by `feed` writes into the player's standard input, until both end. The future owns its
    /// end of the pipe, so the player sees the end of the media when the future does. A player that ends early is a
    /// success if its exit status is.
    pub(super) async fn play_pipe<F>(&self, feed: impl FnOnce(File) -> F) -> Result<(), Fault>
    where
        F: Future<Output = Result<(), Fault>>,
    {
        let mut child = self.start(&self.stdin, Stdio::piped())?;
        let failed = |why: &dyn fmt::Display| Fault::new(Code::Internal, format!("open a pipe to {self}: {why}"));
        let input = child.stdin.take().ok_or_else(|| failed(&"the player has no standard input"))?;
        let input = input.into_owned_fd().map_err(|error| failed(&error))?;
        let fed = tokio::select! {
            fed = feed(File::from(input)) => fed,
            result = self.wait(&mut child) => return result,
        };
        let played = self.wait(&mut child).await;
        match fed {
            // The player closed its input before the end; its exit status says whether that was intended.
            Err(fault) if fault.code == Code::Cancelled => played,
            Err(fault) => Err(fault),
            Ok(()) => played,
        }
    }

    /// Starts the player. Its output goes to standard error: standard output carries data only.
    fn start(&self, what: impl IntoIterator<Item = impl AsRef<OsStr>>, stdin: Stdio) -> Result<Child, Fault> {
        let mut command = Command::new(&self.path);
        command.args(&self.args).args(what);
        let failed = |error: std::io::Error| Fault::new(Code::Usage, format!("start {self}: {error}"));
        command.stdin(stdin).stdout(std::io::stderr()).kill_on_drop(true).spawn().map_err(failed)
    }

    async fn wait(&self, child: &mut Child) -> Result<(), Fault> {
        let failed = |why: String| Fault::new(Code::Internal, why);
        let status = child.wait().await.map_err(|error| failed(format!("wait for {self}: {error}")))?;
        if status.success() { Ok(()) } else { Err(failed(format!("{self} failed: {status}"))) }
    }
}

impl fmt::Display for Player {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)
    }
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn players_are_found_in_order() {
        let folder = tempfile::tempdir().expect("temp");
        let folders = [PathBuf::from("/nonexistent"), folder.path().to_owned()];
        let make = |name: &str, mode: u32| {
            let path = folder.path().join(name);
            std::fs::write(&path, "#!/bin/sh\n").expect("script");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("mode");
            path
        };
        let find = |name: Option<&str>| Player::find_in(name, &folders).map(|player| (player.path, player.stdin));
        let text = find(None).expect_err("none is installed").message;
        assert!(["mpv", "ffplay", "vlc", "--player -"].iter().all(|word| text.contains(word)), "{text}");
        let vlc = make("vlc", 0o755);
        make("mpv", 0o644);
        assert_eq!(find(None), Ok((vlc, vec!["-".into()])), "what cannot be executed is no player");
        let ffplay = make("ffplay", 0o755);
        assert_eq!(find(None), Ok((ffplay.clone(), vec!["-i".into(), "-".into()])));
        assert_eq!(find(ffplay.to_str()), Ok((ffplay, vec!["-i".into(), "-".into()])));
        assert!(find(Some("mplayer")).is_err_and(|fault| fault.code == Code::Usage));
        assert!(find(Some("/nonexistent/mpv")).is_err());
    }
}
