//! Whole frames on an interface, past the stack of its namespace.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{self, MsgFlags};

use crate::evidence;
use crate::netns::Netns;

/// Bytes of frames that may wait to be read.
const ROOM: libc::c_int = 8 << 20;
/// Longest frame that is read.
const LONGEST: usize = 2048;

/// A packet socket on one interface. It sees what arrives there, not what others send.
#[derive(Debug)]
pub struct Wire(OwnedFd);

impl Wire {
    /// Taps an interface of a namespace.
    ///
    /// # Panics
    ///
    /// When the kernel refuses it.
    pub fn tap(namespace: &Netns, interface: &str) -> Self {
        let wire = namespace.run(|| open(interface));
        wire.unwrap_or_else(|error| panic!("packet socket on {interface}: {error}"))
    }

    /// Sends a frame. It has gone through the other end's stack when this returns, but for what that puts off.
    ///
    /// # Panics
    ///
    /// When the kernel refuses it.
    pub fn send(&self, frame: &[u8]) {
        evidence::frame(frame);
        let sent = socket::send(self.0.as_raw_fd(), frame, MsgFlags::empty());
        assert_eq!(sent, Ok(frame.len()), "a packet socket takes whole frames");
    }

    /// Returns every frame that has arrived, cut at 2048 bytes.
    pub fn drain(&self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut buffer = [0; LONGEST];
        while let Ok(length) = socket::recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            frames.push(buffer[..length].to_vec());
        }
        frames
    }
}

fn open(interface: &str) -> io::Result<Wire> {
    let every_protocol = u16::try_from(libc::ETH_P_ALL).map_err(io::Error::other)?;
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: a system call that takes three integers.
    let descriptor = Errno::result(unsafe { libc::socket(libc::AF_PACKET, kind, 0) })?;
    // SAFETY: the descriptor was just opened and has no other owner.
    let wire = Wire(unsafe { OwnedFd::from_raw_fd(descriptor) });
    set(descriptor, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, ROOM)?;
    set(descriptor, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1)?;
    // SAFETY: all zeros is a valid `sockaddr_ll`: it holds integers only.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
    address.sll_protocol = every_protocol.to_be();
    address.sll_ifindex = if_nametoindex(interface)?.cast_signed();
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).map_err(io::Error::other)?;
    // SAFETY: bind reads one `sockaddr_ll`, which outlives the call.
    let bound = unsafe { libc::bind(descriptor, (&raw const address).cast(), length) };
    Errno::result(bound)?;
    Ok(wire)
}

fn set(descriptor: i32, level: i32, name: i32, value: libc::c_int) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).map_err(io::Error::other)?;
    // SAFETY: setsockopt reads one int, which outlives the call.
    let result = unsafe { libc::setsockopt(descriptor, level, name, (&raw const value).cast(), length) };
    Errno::result(result)?;
    Ok(())
}
