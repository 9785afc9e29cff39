//! `usher demo`: the main job before a newcomer's eyes.

use usher_kit::{Output, Process, Signal, run};

use crate::parts::{b3, clip, usher};

#[test]
fn once_fetches_b_and_says_who_served_it_and_why() {
    let said = run(usher().args(["demo", "--once"])).expect(0);
    let all = format!("{}{}", said.out, said.err);
    for word in ["B.mp4", "node-", "farthest from full", "verified", &b3(clip("B.mp4"))] {
        assert!(all.contains(word), "`{word}` is missing in:\n{all}");
    }
}

#[test]
fn its_commands_work_in_another_terminal_and_ctrl_c_ends_it() {
    let mut demo = Process::start(usher().arg("demo"));
    demo.line_with("Ctrl-C");
    let commands: Vec<String> = demo.seen().lines().filter_map(|l| l.strip_prefix("  $ ")).map(str::to_owned).collect();
    assert!(commands.len() >= 5, "{commands:?}");
    let dir = tempfile::TempDir::new().expect("a temporary folder");
    // A player needs a screen, a feed has no end and grpcurl its own test; the other lines are pasted as they are.
    let apart = |command: &&String| {
        !(command.contains(" play ") || command.contains(" publish ") || command.starts_with("grpcurl"))
    };
    let lines: Vec<&str> = commands.iter().filter(apart).map(String::as_str).collect();
    let said: Output = run(std::process::Command::new("sh").args(["-ec", &lines.join("\n")]).current_dir(dir.path()));
    said.expect(0);
    demo.signal(Signal::INT);
    assert_eq!(demo.wait(), 0, "{}", demo.seen());
}

#[test]
fn it_serves_a_persons_own_folders() {
    let dir = tempfile::TempDir::new().expect("a temporary folder");
    for (folder, name) in [("one", "A.mp4"), ("two", "F.webm")] {
        std::fs::create_dir(dir.path().join(folder)).expect("a folder");
        std::fs::copy(clip(name), dir.path().join(folder).join(name)).expect("a copy");
    }
    let mut command = usher();
    command.args(["demo", "--once"]);
    for folder in ["one", "two"] {
        command.arg("--media").arg(dir.path().join(folder));
    }
    let said = run(&mut command).expect(0);
    assert!(said.err.contains("verified"), "{}", said.err);
    let empty = dir.path().join("empty");
    std::fs::create_dir(&empty).expect("a folder");
    let said = run(usher().args(["demo", "--once", "--media"]).arg(&empty)).expect(1);
    assert!(said.err.contains("no title"), "{}", said.err);
}
