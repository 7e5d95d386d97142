//! Datagrams in the kernel whose fragments never came to an end: sweeping them out.

use std::os::fd::AsFd as _;

use anyhow::Context as _;
use aya::maps::{HashMap, Map, MapData, MapError};
use calico_ebpf_common::fragment::{Datagram, DatagramKey};
use calico_ebpf_common::maps;

use super::bpf_syscall::{BatchReader, open_pinned};
use super::pins::Pins;

/// Entries read at once.
const SLICE: u32 = 4096;

/// Forgets every datagram that has waited for its next fragment until `now` (`jiffies64`), and returns how many. A datagram
/// that begins at such a place between the look and the deletion loses its later fragments: they are dropped.
///
/// # Errors
/// When the map is not pinned, or the kernel refuses.
pub(super) fn sweep_datagrams(pins: &Pins, now: u64) -> anyhow::Result<u64> {
    let map = open_pinned(&pins.map(maps::DATAGRAMS))
        .with_context(|| format!("cannot open map {}", maps::DATAGRAMS))?;
    let map = MapData::from_fd(map)?;
    let mut waited = Vec::new();
    let mut reader = BatchReader::new(map.fd().as_fd(), SLICE);
    while let Some(slice) = reader.next_slice::<DatagramKey, Datagram>()? {
        waited.extend(
            slice
                .iter()
                .filter(|(_, datagram)| datagram.until < now)
                .map(|(key, _)| *key),
        );
    }
    let mut map = HashMap::<_, DatagramKey, Datagram>::try_from(Map::HashMap(map))?;
    let mut swept = 0;
    for key in waited {
        match map.remove(&key) {
            Ok(()) => swept += 1,
            Err(MapError::KeyNotFound) => {}
            Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(swept)
}
