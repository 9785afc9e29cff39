//! The network interface that a node sends over, as the kernel counts it. Reads one file; `core::background` evaluates
//! it.

use std::{io, path::PathBuf};

use anyhow::{Context as _, ensure};

/// Folder where Linux describes its interfaces.
const INTERFACES: &str = "/sys/class/net";

/// An existing network interface.
#[derive(Clone, Debug)]
pub(crate) struct Interface {
    file: PathBuf,
}

impl Interface {
    /// Finds an interface by its name.
    ///
    /// # Errors
    /// Lists the existing ones.
    pub(crate) fn find(name: &str) -> anyhow::Result<Self> {
        // A folder name must not lead elsewhere.
        let good = !name.is_empty() && !name.contains('/') && !name.starts_with('.');
        ensure!(good, "`{name}` names no network interface; correct --interface");
        let interface = Self { file: [INTERFACES, name, "statistics/tx_bytes"].iter().collect() };
        interface.sent().with_context(|| {
            format!("look at network interface `{name}`; correct --interface to one of: {}", names().join(", "))
        })?;
        Ok(interface)
    }

    /// Bytes sent over it, by all, since it was set up. The kernel answers from memory.
    ///
    /// # Errors
    /// When it no longer exists.
    pub(crate) fn sent(&self) -> io::Result<u64> {
        std::fs::read_to_string(&self.file)?.trim().parse().map_err(io::Error::other)
    }
}

/// Names of the existing interfaces, sorted.
fn names() -> Vec<String> {
    let entries = std::fs::read_dir(INTERFACES).into_iter().flatten();
    let mut names: Vec<_> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort_unstable();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_counts_what_is_sent() {
        let interface = Interface::find("lo").expect("every host has one");
        let before = interface.sent().expect("a count");
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
        let address = socket.local_addr().expect("an address");
        assert_eq!(socket.send_to(&[0; 1000], address).expect("sent"), 1000);
        assert!(interface.sent().expect("a count") >= before + 1000);
    }

    #[test]
    fn a_wrong_name_is_told_with_the_right_ones() {
        let error = format!("{:#}", Interface::find("eht0").expect_err("wrong"));
        assert!(error.contains("`eht0`") && error.contains("lo") && error.contains("--interface"), "{error}");
        for name in ["", "../net/lo", ".."] {
            assert!(Interface::find(name).is_err(), "{name}");
        }
    }
}
