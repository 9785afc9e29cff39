//! Generates the clips of `media/samples/` with ffmpeg: pictures and tones, no recorded material. Owns the content of each
//! title; the demo decides which node holds it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{parts, shell};

/// Limit of all clips together, in bytes.
const BUDGET: u64 = 3_000_000;

/// Where the letter's typeface lies: Debian and its like, Fedora, Arch, macOS with Homebrew.
const FONTS: [&str; 4] = [
    "/usr/share/fonts/truetype/dejavu/DejaVuSans-Bold.ttf",
    "/usr/share/fonts/dejavu-sans-fonts/DejaVuSans-Bold.ttf",
    "/usr/share/fonts/TTF/DejaVuSans-Bold.ttf",
    "/opt/homebrew/share/fonts/DejaVuSans-Bold.ttf",
];

/// The container and codecs of a clip.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    /// H.264 and AAC, `moov` before `mdat`.
    Mp4,
    /// VP9 and Opus, cues before the clusters.
    WebM,
    /// H.264 and AAC in an MPEG transport stream.
    Ts,
}

impl Form {
    fn extension(self) -> &'static str {
        match self {
            Self::Mp4 => "mp4",
            Self::WebM => "webm",
            Self::Ts => "ts",
        }
    }

    fn codecs(self) -> &'static [&'static str] {
        match self {
            Self::Mp4 | Self::Ts => &["-c:v", "libx264", "-preset", "slow", "-profile:v", "main", "-c:a", "aac"],
            Self::WebM => &["-c:v", "libvpx-vp9", "-deadline", "good", "-cpu-used", "2", "-c:a", "libopus"],
        }
    }

    fn container(self) -> &'static [&'static str] {
        match self {
            Self::Mp4 => &["-movflags", "+faststart"],
            Self::WebM => &["-cues_to_front", "1"],
            Self::Ts => &["-pat_period", "0.5"],
        }
    }
}

/// One title of figure 4.
struct Clip {
    letter: char,
    form: Form,
    seconds: u32,
    /// Aim of the video encoder, kbit/s.
    kbit: u32,
    /// The tone, Hz: the note that the letter names in German notation, J and F being the ones left over.
    tone: &'static str,
    /// An ffmpeg source, then filters that make it 25 frames a second.
    picture: &'static str,
}

#[rustfmt::skip]
const CLIPS: [Clip; 9] = [
    Clip { letter: 'A', form: Form::Mp4, seconds: 10, kbit: 120, tone: "440",
           picture: "testsrc2=s=480x270:r=25" },
    Clip { letter: 'B', form: Form::Mp4, seconds: 20, kbit: 185, tone: "466.16",
           picture: "mandelbrot=s=480x270:r=25:end_scale=0.0003:end_pts=500:maxiter=1200:inner=mincol" },
    Clip { letter: 'C', form: Form::Mp4, seconds: 10, kbit: 120, tone: "523.25",
           picture: "smptehdbars=s=480x270:r=25,hue=h=12*t" },
    Clip { letter: 'D', form: Form::Mp4, seconds: 10, kbit: 120, tone: "587.33",
           picture: "life=s=96x54:r=5:seed=4:ratio=0.3:mold=10:life_color=#40e0d0:death_color=#202060:mold_color=#502080,fps=25" },
    Clip { letter: 'E', form: Form::Mp4, seconds: 10, kbit: 120, tone: "659.26",
           picture: "cellauto=s=96x54:r=10:rule=110:seed=5:full=1,fps=25,lutrgb=r=val*0.9:g=val*0.5+20:b=50" },
    Clip { letter: 'F', form: Form::WebM, seconds: 9, kbit: 120, tone: "698.46",
           // Every colour and the line are given: what is left to its seed differs from run to run.
           picture: "gradients=s=480x270:r=25:n=4:speed=0.02:x0=0:y0=0:x1=479:y1=269:\
                     c0=#102060:c1=#f05030:c2=#f0c040:c3=#2090a0" },
    Clip { letter: 'G', form: Form::Ts, seconds: 8, kbit: 120, tone: "783.99",
           picture: "sierpinski=s=480x270:r=25:seed=7:jump=40,lutrgb=r=val*0.8:g=val*0.3:b=val*0.6+40" },
    Clip { letter: 'H', form: Form::Mp4, seconds: 12, kbit: 120, tone: "493.88",
           picture: "smptebars=s=480x270:r=25,rotate=a=0.25*sin(t):fillcolor=gray" },
    Clip { letter: 'J', form: Form::Mp4, seconds: 10, kbit: 120, tone: "1046.5",
           picture: "cellauto=s=96x54:r=10:rule=30:seed=9:full=1,fps=25,lutrgb=r=30:g=val*0.7+20:b=val*0.5+60" },
];

impl Clip {
    fn name(&self) -> String {
        format!("{}.{}", self.letter, self.form.extension())
    }

    /// The picture, then the letter swaying over it and the time played, so that a person sees what plays and where.
    fn filter(&self, font: &str) -> String {
        let letter = self.letter;
        format!(
            "scale=480:270:flags=neighbor,setsar=1,\
             drawtext=fontfile={font}:text={letter}:fontsize=190:fontcolor=white:borderw=8:bordercolor=black\
             :x=(w-tw)/2+90*sin(t*1.3):y=(h-th)/2-16,\
             drawtext=fontfile={font}:text='usher  {letter}  %{{pts\\:hms}}':fontsize=20:fontcolor=white\
             :box=1:boxcolor=black@0.6:boxborderw=6:x=12:y=h-34,format=yuv420p"
        )
    }

    /// The whole ffmpeg command. One thread and bit-exact flags: the same ffmpeg makes the same bytes again.
    fn command(&self, font: &str, output: &Path) -> Command {
        let mut ffmpeg = Command::new("ffmpeg");
        ffmpeg
            .args(["-nostdin", "-hide_banner", "-loglevel", "error", "-y", "-filter_threads", "1"])
            .args(["-f", "lavfi", "-i", self.picture])
            .args(["-f", "lavfi", "-i"])
            .arg(format!("sine=frequency={}:beep_factor=3:sample_rate=48000", self.tone))
            .args(["-t", &self.seconds.to_string(), "-vf", &self.filter(font), "-af", "volume=0.3", "-ac", "2"])
            .args(self.form.codecs())
            .args(["-b:v", &format!("{}k", self.kbit), "-maxrate", &format!("{}k", self.kbit * 3 / 2)])
            .args(["-bufsize", &format!("{}k", self.kbit * 2)])
            // A closed group of pictures every 2 s: players may seek to any of them.
            .args(["-g", "50", "-keyint_min", "50", "-sc_threshold", "0", "-threads", "1", "-b:a", "64k"])
            .args(["-fflags", "+bitexact", "-flags:v", "+bitexact", "-flags:a", "+bitexact", "-map_metadata", "-1"])
            .args(["-metadata", &format!("title=Usher clip {}", self.letter)])
            .args(self.form.container())
            .arg(output);
        ffmpeg
    }
}

/// The folder of the shipped clips.
fn folder() -> PathBuf {
    shell::root().join("media/samples")
}

/// Remakes every clip, and prints its size.
pub(crate) fn run() -> Result<()> {
    parts::provide(&parts::FOR_MEDIA)?;
    let Some(font) = FONTS.into_iter().find(|font| Path::new(font).is_file()) else {
        bail!("no DejaVu Sans Bold at {}: install it (Debian: apt-get install fonts-dejavu-core)", FONTS.join(", "));
    };
    let mut total = 0;
    for clip in &CLIPS {
        let output = folder().join(clip.name());
        let status = clip.command(font, &output).status().context("start ffmpeg")?;
        if !status.success() {
            bail!("ffmpeg could not make {} ({status})", output.display());
        }
        let bytes = output.metadata().with_context(|| format!("look at {}", output.display()))?.len();
        total += bytes;
        println!("{:<7} {:>2} s {bytes:>8} bytes", clip.name(), clip.seconds);
    }
    println!("all     {total:>13} bytes of {BUDGET}");
    if total > BUDGET {
        bail!("the clips weigh {total} bytes, more than {BUDGET}: lower a `kbit` in xtask/src/clips.rs");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shipped(clip: &Clip) -> Vec<u8> {
        let path = folder().join(clip.name());
        std::fs::read(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()))
    }

    /// The types of the boxes that an ISO media file has at its top, in order.
    fn boxes(mut bytes: &[u8]) -> Vec<String> {
        let mut types = Vec::new();
        while let Some((header, _)) = bytes.split_first_chunk::<8>() {
            let size = u32::from_be_bytes([header[0], header[1], header[2], header[3]]) as usize;
            types.push(String::from_utf8_lossy(&header[4..]).into_owned());
            bytes = bytes.get(size.max(8)..).expect("a box ends inside its file");
        }
        types
    }

    fn position(bytes: &[u8], needle: &[u8]) -> Option<usize> {
        bytes.windows(needle.len()).position(|window| window == needle)
    }

    #[test]
    fn every_title_of_figure_4_is_shipped_within_the_budget() {
        let names: Vec<_> = CLIPS.iter().map(Clip::name).collect();
        let figure = ["A.mp4", "B.mp4", "C.mp4", "D.mp4", "E.mp4", "F.webm", "G.ts", "H.mp4", "J.mp4"];
        assert_eq!(names, figure);
        let sizes: Vec<_> = CLIPS.iter().map(|clip| shipped(clip).len() as u64).collect();
        assert!(sizes.iter().sum::<u64>() <= BUDGET, "{sizes:?}");
        assert_eq!(sizes.iter().max(), sizes.get(1), "B is the largest: {sizes:?}");
    }

    #[test]
    fn every_clip_can_start_before_its_end_has_come() {
        for clip in &CLIPS {
            let bytes = shipped(clip);
            match clip.form {
                Form::Mp4 => {
                    let boxes = boxes(&bytes);
                    let moov = boxes.iter().position(|kind| kind == "moov").expect("a moov box");
                    let mdat = boxes.iter().position(|kind| kind == "mdat").expect("an mdat box");
                    assert!(moov < mdat, "{}: {boxes:?}", clip.name());
                }
                Form::WebM => {
                    // Their identifier stands in the seek head, and once more where the cues are.
                    let cluster = position(&bytes, &[0x1f, 0x43, 0xb6, 0x75]).expect("a cluster");
                    let before = bytes[..cluster].windows(4).filter(|id| id == &[0x1c, 0x53, 0xbb, 0x6b]).count();
                    assert_eq!(before, 2, "{}: cues before the first cluster at {cluster}", clip.name());
                }
                Form::Ts => assert!(bytes.chunks(188).all(|packet| packet[0] == 0x47 && packet.len() == 188)),
            }
        }
    }
}
