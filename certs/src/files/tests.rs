//! Modes, refusal to overwrite, and what is said about wrong files.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::read::read_pem_at;
use super::*;
use crate::certificate::DAY;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn node(name: &str) -> Identity {
    Identity::new(Role::Node, name).unwrap()
}

fn complaint(set: &Paths) -> String {
    format!("{:#}", read_pem(&set.cert, &set.key, &set.ca).unwrap_err())
}

/// A directory with an authority and one node.
fn house() -> (tempfile::TempDir, PathBuf, Paths) {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("deep/certs");
    init(&dir, "test", false).unwrap();
    let set = issue(&dir, &node("one"), &[], &dir, false).unwrap();
    (temp, dir, set)
}

#[test]
fn keys_are_private_and_nothing_is_left_over() {
    let (_temp, dir, set) = house();
    assert_eq!(mode(&dir), 0o700);
    assert_eq!((mode(&dir.join(CA_KEY)), mode(&set.key)), (0o600, 0o600));
    issue(&dir, &node("one"), &[], &dir, true).unwrap();
    assert_eq!(mode(&set.key), 0o600);
    let mut names: Vec<_> =
        fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["ca.key", "ca.pem", "node-one.key", "node-one.pem"]);
}

#[test]
fn nothing_is_overwritten_without_force() {
    let (_temp, dir, set) = house();
    let ca_key = dir.join(CA_KEY);
    let before = [&set.key, &set.cert, &set.ca, &ca_key].map(|path| fs::read(path).unwrap());
    let refused = issue(&dir, &node("one"), &[], &dir, false).unwrap_err();
    assert!(refused.downcast_ref::<Exists>().is_some_and(|exists| exists.0 == set.key));
    assert!(refused.to_string().contains("node-one.key") && refused.to_string().contains("--force"), "{refused}");
    assert!(init(&dir, "test", false).unwrap_err().is::<Exists>());
    assert_eq!(before, [&set.key, &set.cert, &set.ca, &ca_key].map(|path| fs::read(path).unwrap()));

    // One half, even a link to nowhere, is enough to refuse.
    fs::remove_file(&set.key).unwrap();
    assert!(issue(&dir, &node("one"), &[], &dir, false).unwrap_err().is::<Exists>());
    fs::remove_file(&set.cert).unwrap();
    symlink(dir.join("nowhere"), &set.cert).unwrap();
    assert!(issue(&dir, &node("one"), &[], &dir, false).unwrap_err().is::<Exists>());
    assert!(!set.key.exists() && !dir.join("nowhere").exists());

    issue(&dir, &node("one"), &[], &dir, true).unwrap();
    assert!(read_pem(&set.cert, &set.key, &set.ca).is_ok());
    init(&dir, "test", true).unwrap();
    assert!(complaint(&set).contains("not issued by the authority"), "{}", complaint(&set));
}

#[test]
fn a_race_for_a_file_is_lost_without_a_trace() {
    let temp = tempfile::tempdir().unwrap();
    let (first, second) = (temp.path().join("first"), temp.path().join("second"));
    fs::write(&second, "theirs").unwrap();
    let pair = [File { path: &first, text: "ours", mode: SECRET }, File { path: &second, text: "ours", mode: PUBLIC }];
    assert!(write::files(&pair, false).unwrap_err().is::<Exists>());
    assert_eq!(fs::read_to_string(&second).unwrap(), "theirs");
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
}

#[test]
fn what_is_issued_can_be_read_from_elsewhere() {
    let (temp, dir, _) = house();
    let out = temp.path().join("away");
    let set = issue(&dir, &node("a.b"), &[], &out, false).unwrap();
    assert_eq!((set.cert.clone(), set.key.clone()), (out.join("node-a.b.pem"), out.join("node-a.b.key")));
    let pems = read_pem(&set.cert, &set.key, &set.ca).unwrap();
    assert_eq!(pems.identity(), Ok(node("a.b")));
    assert!(!format!("{pems:?}").contains("PRIVATE"));
    assert!(!out.join(CA_KEY).exists(), "the authority's key stays at home");
    // The copied ca.pem is no obstacle; another cluster's is.
    issue(&dir, &node("c"), &[], &out, false).unwrap();
    fs::write(out.join(CA_CERT), "another").unwrap();
    assert!(issue(&dir, &node("d"), &[], &out, false).unwrap_err().is::<Exists>());
}

#[test]
fn a_master_answers_to_this_host() {
    let (_temp, dir, _) = house();
    let master = Identity::new(Role::Master, "m1").unwrap();
    let set = issue(&dir, &master, &["m.example".parse().unwrap(), "localhost".parse().unwrap()], &dir, false).unwrap();
    assert!(set.cert.ends_with("master.pem"));
    let der = read_certificate(&set.cert).unwrap();
    let sans = crate::certificate::sans(&crate::certificate::parse(&der).unwrap());
    let host = host_name().map(|name| name.to_string());
    for name in ["localhost", "127.0.0.1", "::1", "m.example"].into_iter().chain(host.as_deref()) {
        assert_eq!(sans.iter().filter(|san| *san == name).count(), 1, "{name} in {sans:?}");
    }
}

#[test]
fn wrong_files_are_named_with_what_to_do() {
    let (temp, dir, set) = house();
    let missing = issue(temp.path(), &node("x"), &[], temp.path(), false).unwrap_err().to_string();
    assert!(missing.contains("usher certs init") && missing.contains("ca.pem"), "{missing}");

    let other = issue(&dir, &node("two"), &[], &dir, false).unwrap();
    let crossed = Paths { key: other.key.clone(), ..set.clone() };
    assert!(complaint(&crossed).contains("does not match"), "{}", complaint(&crossed));
    let absent = Paths { cert: dir.join("node-none.pem"), ..set.clone() };
    assert!(complaint(&absent).contains("usher certs issue"), "{}", complaint(&absent));
    let swapped = Paths { cert: set.key.clone(), ..set.clone() };
    assert!(complaint(&swapped).contains("not a certificate in PEM"), "{}", complaint(&swapped));
    let keyless = Paths { key: set.cert.clone(), ..set.clone() };
    assert!(complaint(&keyless).contains("not a private key"), "{}", complaint(&keyless));

    let now = SystemTime::now();
    let at = |time| read_pem_at(&set.cert, &set.key, &set.ca, time).map_err(|error| error.to_string());
    assert!(at(now + Duration::from_secs(364 * DAY)).is_ok());
    assert!(at(now + Duration::from_secs(366 * DAY)).unwrap_err().contains("expired on"));
    assert!(at(now - Duration::from_secs(DAY)).unwrap_err().contains("not valid before"));

    for junk in [b"".as_slice(), b"\xff\xfe", b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"] {
        fs::write(&other.cert, junk).unwrap();
        assert!(complaint(&other).contains("node-two.pem"), "{}", complaint(&other));
        fs::write(dir.join(CA_CERT), junk).unwrap();
        assert!(read_authority(&dir).is_err());
    }
}

#[test]
fn a_key_that_others_can_read_still_loads() {
    let (_temp, _dir, set) = house();
    fs::set_permissions(&set.key, Permissions::from_mode(0o644)).unwrap();
    assert!(read_pem(&set.cert, &set.key, &set.ca).is_ok());
}
