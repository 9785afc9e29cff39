//! A cluster under faults: whatever crashes, freezes, drains, loses datagrams or decays, every client ends with success and
//! has every byte of its title once, in order. Interruptions of delivery are printed and not checked, since they depend on
//! the machine.

use std::{path::PathBuf, time::Duration};

use usher_chaos::{Kind, Load, Settings};

#[test]
fn every_output_equals_its_source_under_faults() {
    let given = std::env::var("USHER_CHAOS_SEED").ok();
    let seed = given.map_or_else(fresh, |seed| seed.parse().expect("USHER_CHAOS_SEED is a number"));
    println!("USHER_CHAOS_SEED={seed}");
    let settings = Settings {
        usher: PathBuf::from(env!("CARGO_BIN_EXE_usher")),
        seed,
        time: Duration::from_secs(40),
        clients: 12,
        nodes: 3,
        kinds: Kind::ALL.to_vec(),
        brisk: true,
        logs: None,
        load: Load::debug(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let report = runtime.expect("a runtime").block_on(Box::pin(usher_chaos::run(&settings)));
    let report = report.unwrap_or_else(|error| panic!("USHER_CHAOS_SEED={seed}: {error:#}"));
    println!("{report}");
    assert!(report.outputs >= 12, "USHER_CHAOS_SEED={seed}: every client ran");
    assert!(report.is_good(), "repeat with USHER_CHAOS_SEED={seed}\n{report}");
}

/// From the clock: tests have no randomness of their own.
fn fresh() -> u64 {
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("a clock after 1970");
    since.as_secs() * 1000 + u64::from(since.subsec_millis())
}
