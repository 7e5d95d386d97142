//! Real TAP devices, as QEMU opens them: a frame is one read or write, behind a virtio-net header, so that
//! segmentation and checksums can be left to the other side.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};

use crate::evidence;
use crate::netns::Netns;

/// Bytes of the virtio-net header in front of each frame (`virtio_net_hdr_mrg_rxbuf`).
pub const VNET_HEADER: usize = 12;
/// A buffer for the largest super-frame with its header.
pub const LARGEST: usize = VNET_HEADER + 65_536 + 64;

/// A TAP device that exists as long as this value.
#[derive(Debug)]
pub struct Tap {
    file: File,
    name: String,
}

impl Tap {
    /// Creates the device inside a namespace; it is down, and frames are read and written without blocking.
    pub fn create(namespace: &Netns, name: &str) -> Self {
        assert!(name.len() < libc::IFNAMSIZ, "interface name {name} is too long");
        let file = namespace.run(|| open_device(name, 0));
        let file = file.unwrap_or_else(|error| panic!("tap {name}: {error}"));
        Self {
            file,
            name: name.to_owned(),
        }
    }

    /// As [`Self::create`], with a number of queues, each of which is a value: what QEMU opens for a guest with several
    /// processors. The device goes with the last of them.
    pub fn create_queues(namespace: &Netns, name: &str, queues: usize) -> Vec<Self> {
        assert!(name.len() < libc::IFNAMSIZ, "interface name {name} is too long");
        let open = |_| open_device(name, libc::IFF_MULTI_QUEUE);
        let files: io::Result<Vec<_>> = namespace.run(|| (0..queues).map(open).collect());
        let files = files.unwrap_or_else(|error| panic!("queues of tap {name}: {error}"));
        let queue = |file| Self {
            file,
            name: name.to_owned(),
        };
        files.into_iter().map(queue).collect()
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads one frame with its virtio-net header and returns the length of both.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when there is none; an I/O error when the device is down or gone.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(buffer)
    }

    /// Writes one frame with its virtio-net header. It has gone through the host's programs when this returns.
    ///
    /// # Errors
    ///
    /// What the kernel says: `EIO` while the device is down, `EINVAL` for a header that it does not accept.
    pub fn write(&self, header_and_frame: &[u8]) -> io::Result<()> {
        evidence::frame(header_and_frame.get(VNET_HEADER..).unwrap_or_default());
        self.carry(header_and_frame)
    }

    /// As [`Self::write`], for a frame that no test made.
    pub(crate) fn carry(&self, header_and_frame: &[u8]) -> io::Result<()> {
        let length = (&self.file).write(header_and_frame)?;
        assert_eq!(length, header_and_frame.len(), "a tap takes whole frames");
        Ok(())
    }

    /// Writes one frame that leaves nothing to the other side.
    ///
    /// # Errors
    ///
    /// As for [`Self::write`]; the kernel refuses frames below 14 bytes with `EINVAL`.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        let mut buffer = vec![0; VNET_HEADER];
        buffer.extend_from_slice(frame);
        self.write(&buffer)
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn open_device(name: &str, more_flags: libc::c_int) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    let descriptor = file.as_raw_fd();
    // SAFETY: all zeros is a valid `ifreq`: it holds integers, bytes and pointers only.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | more_flags;
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).map_err(io::Error::other)?;
    let header = libc::c_int::try_from(VNET_HEADER).map_err(io::Error::other)?;
    let offload = libc::TUN_F_CSUM
        | libc::TUN_F_TSO4
        | libc::TUN_F_TSO6
        | libc::TUN_F_TSO_ECN
        | libc::TUN_F_USO4
        | libc::TUN_F_USO6;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which outlives the call.
    check(unsafe { libc::ioctl(descriptor, libc::TUNSETIFF, &raw mut request) })?;
    // SAFETY: TUNSETVNETHDRSZ reads one int, which outlives the call.
    check(unsafe { libc::ioctl(descriptor, libc::TUNSETVNETHDRSZ, &raw const header) })?;
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    check(unsafe { libc::ioctl(descriptor, libc::TUNSETOFFLOAD, libc::c_ulong::from(offload)) })?;
    // SAFETY: F_SETFL takes its argument by value.
    check(unsafe { libc::fcntl(descriptor, libc::F_SETFL, libc::O_NONBLOCK) })?;
    Ok(file)
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
