//! TCP ports that stay ours for the length of a test, also while the node that listens is dead.
//!
//! Port 0 would give a port of the range from which outgoing connections are numbered: while a
//! killed node is down, any connection of any process could take its port, and the restart would
//! fail. So ports come from below that range, and a locked file per port keeps tests of other
//! processes away. The lock goes with the process, however it ends.

use std::fs::{File, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;

use crate::scale::Random;

/// The lowest port tried: above the registered ones of common services.
const FIRST: u64 = 15_000;
/// One above the highest port tried: the start of Linux's default range for outgoing connections.
const END: u64 = 32_768;

/// A port on loopback that no other test gets while this value lives.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    /// Reserves a free port.
    ///
    /// # Panics
    /// When none of many random choices is free.
    #[must_use]
    pub fn reserve() -> Self {
        let mut random = Random::new(u64::from(std::process::id()) ^ Random::from_clock());
        (0..10_000)
            .find_map(|_| Self::try_reserve(u16::try_from(FIRST + random.below(END - FIRST)).ok()?))
            .expect("one of 10,000 random ports is free")
    }

    /// Its address on loopback.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.number))
    }

    fn try_reserve(number: u16) -> Option<Self> {
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(directory().join(number.to_string()))
            .ok()?;
        lock.try_lock().ok()?;
        TcpListener::bind((Ipv4Addr::LOCALHOST, number)).ok()?;
        Some(Self {
            number,
            _lock: lock,
        })
    }
}

fn directory() -> PathBuf {
    let directory = std::env::temp_dir().join("holdfast-test-ports");
    std::fs::create_dir_all(&directory).expect("the temporary directory is writable");
    directory
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserved_port_is_not_given_twice() {
        let ports: Vec<Port> = (0..50).map(|_| Port::reserve()).collect();
        for port in &ports {
            assert!(
                Port::try_reserve(port.number).is_none(),
                "{} was given again",
                port.number
            );
        }
    }
}
