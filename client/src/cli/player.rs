//! Finds, starts and feeds a media player. Independent of titles.
//!
//! A known player is started so that it opens its input only, and reads it as the container that it was checked to be: no
//! playlists, no references to other files or hosts, no scripts that react to URLs. The user's own arguments come later and
//! may change that.

use std::{
    ffi::{OsStr, OsString},
    fmt,
    fs::File,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::{
    process::{Child, Command},
    sync::oneshot,
};
use usher_media::probe::Container;
use usher_proto::{Code, Fault};

/// The players to look for, in this order.
const KNOWN: [(&str, Kind); 3] = [("mpv", Kind::Mpv), ("ffplay", Kind::Ffplay), ("vlc", Kind::Vlc)];

/// A player by its command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Mpv,
    Ffplay,
    Vlc,
    /// Any program that reads its standard input as `-`.
    Other,
}

impl Kind {
    /// The arguments before the user's.
    fn restrictions(self, container: Container, input: Input<'_>) -> Vec<String> {
        let format = match (self, container) {
            (Self::Vlc, Container::Mp4) => "mp4",
            (_, Container::Mp4) => "mov",
            (Self::Vlc, Container::Matroska) => "mkv",
            (_, Container::Matroska) => "matroska",
            (Self::Vlc, Container::MpegTs) => "ts",
            (_, Container::MpegTs) => "mpegts",
        };
        let options: &[&str] = match self {
            // mpv's manual: --access-references=no ends playlists, ordered chapters, reference files of MOV and archives.
            Self::Mpv => &["--ytdl=no", "--load-scripts=no", "--autoload-files=no", "--access-references=no"],
            Self::Ffplay if matches!(input, Input::File(_)) => &["-protocol_whitelist", "file"],
            // FFmpeg before 6.1 reads `-` as pipe:, later versions as fd:.
            Self::Ffplay => &["-protocol_whitelist", "pipe,fd"],
            Self::Vlc => &["--no-lua", "--no-sub-autodetect-file"],
            Self::Other => &[],
        };
        let mut all: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        match (self, container) {
            (Self::Mpv, Container::Matroska) => all.push("--demuxer=mkv".to_owned()),
            (Self::Mpv, _) => {
                all.extend(["--demuxer=lavf".to_owned(), format!("--demuxer-lavf-format={format}")]);
            }
            (Self::Ffplay, _) => all.extend(["-f", format].map(str::to_owned)),
            (Self::Vlc, _) => all.push(format!("--demux={format}")),
            (Self::Other, _) => {}
        }
        all
    }

    /// The arguments after the user's, the input among them.
    fn input(self, input: Input<'_>) -> Vec<OsString> {
        let name = match input {
            Input::Stdin => OsStr::new("-"),
            Input::File(path) => path.as_os_str(),
        };
        match self {
            Self::Ffplay => vec!["-i".into(), name.into()],
            Self::Mpv => vec!["--".into(), name.into()],
            Self::Vlc | Self::Other => vec![name.into()],
        }
    }
}

/// The media for a player.
#[derive(Clone, Copy, Debug)]
enum Input<'a> {
    Stdin,
    /// An absolute path.
    File(&'a Path),
}

/// An installed player.
#[derive(Clone, Debug)]
pub(super) struct Player {
    path: PathBuf,
    kind: Kind,
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
            let kind = KNOWN.iter().find(|(name, _)| *name == stem).map_or(Kind::Other, |(_, kind)| *kind);
            Self { path, kind, args: Vec::new() }
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

    /// Plays a file of this container until the player ends.
    pub(super) async fn play_file(&self, path: &Path, container: Container) -> Result<(), Fault> {
        let mut child = self.start(container, Input::File(path), Stdio::null())?;
        self.wait(&mut child).await
    }

    /// Plays what the future made by `feed` writes into a pipe, until both end. The player starts when the future tells the
    /// container. The future owns its end of the pipe, so the player sees the end of the media when the future does. A
    /// player that ends early is a success if its exit status is.
    pub(super) async fn play_pipe<F>(
        &self,
        feed: impl FnOnce(File, oneshot::Sender<Container>) -> F,
    ) -> Result<(), Fault>
    where
        F: Future<Output = Result<(), Fault>>,
    {
        let failed = |error: std::io::Error| Fault::new(Code::Internal, format!("open a pipe to {self}: {error}"));
        let (output, input) = std::io::pipe().map_err(failed)?;
        let (opened, mut container) = oneshot::channel();
        let mut feed = std::pin::pin!(feed(File::from(OwnedFd::from(input)), opened));
        let (container, fed) = tokio::select! {
            Ok(container) = &mut container => (container, None),
            fed = &mut feed => match container.try_recv() {
                // All of a small title is in the pipe already.
                Ok(container) => (container, Some(fed)),
                Err(_) => return fed,
            },
        };
        let mut child = self.start(container, Input::Stdin, output.into())?;
        let fed = match fed {
            Some(fed) => fed,
            None => tokio::select! {
                fed = feed => fed,
                result = self.wait(&mut child) => return result,
            },
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
    fn start(&self, container: Container, input: Input<'_>, stdin: Stdio) -> Result<Child, Fault> {
        let mut command = Command::new(&self.path);
        command.args(self.kind.restrictions(container, input)).args(&self.args).args(self.kind.input(input));
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
        let find = |name: Option<&str>| Player::find_in(name, &folders).map(|player| (player.path, player.kind));
        let text = find(None).expect_err("none is installed").message;
        assert!(["mpv", "ffplay", "vlc", "--player -"].iter().all(|word| text.contains(word)), "{text}");
        let vlc = make("vlc", 0o755);
        make("mpv", 0o644);
        assert_eq!(find(None), Ok((vlc, Kind::Vlc)), "what cannot be executed is no player");
        let ffplay = make("ffplay", 0o755);
        assert_eq!(find(None), Ok((ffplay.clone(), Kind::Ffplay)));
        assert_eq!(find(ffplay.to_str()), Ok((ffplay, Kind::Ffplay)));
        assert!(find(Some("mplayer")).is_err_and(|fault| fault.code == Code::Usage));
        assert!(find(Some("/nonexistent/mpv")).is_err());
    }

    #[test]
    fn a_player_is_told_the_container_and_follows_no_reference() {
        let file = Input::File(Path::new("/tmp/a.mp4"));
        for (kind, container, input, before, after) in [
            (
                Kind::Mpv,
                Container::Mp4,
                Input::Stdin,
                "--ytdl=no --load-scripts=no --autoload-files=no --access-references=no --demuxer=lavf \
                 --demuxer-lavf-format=mov",
                "-- -",
            ),
            (
                Kind::Mpv,
                Container::Matroska,
                file,
                "--ytdl=no --load-scripts=no --autoload-files=no --access-references=no --demuxer=mkv",
                "-- /tmp/a.mp4",
            ),
            (Kind::Ffplay, Container::MpegTs, Input::Stdin, "-protocol_whitelist pipe,fd -f mpegts", "-i -"),
            (Kind::Ffplay, Container::Mp4, file, "-protocol_whitelist file -f mov", "-i /tmp/a.mp4"),
            (Kind::Vlc, Container::Matroska, Input::Stdin, "--no-lua --no-sub-autodetect-file --demux=mkv", "-"),
            (Kind::Other, Container::Mp4, Input::Stdin, "", "-"),
        ] {
            let input_words: Vec<String> =
                kind.input(input).into_iter().map(|word| word.into_string().expect("text")).collect();
            assert_eq!(
                (kind.restrictions(container, input).join(" ").as_str(), input_words.join(" ").as_str()),
                (before, after)
            );
        }
    }
}
