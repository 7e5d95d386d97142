//! What arrives at a guest's tap.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use crate::guest::Guest;
use crate::netns::Netns;

/// Bytes of a frame that are kept: headers and what a test says about itself.
const KEPT: usize = 2048;
/// How long a packet of the host to its own guest may take.
const LIMIT: Duration = Duration::from_secs(5);

/// A copy of each frame, without the virtio-net header, cut at 2048 bytes.
#[derive(Debug)]
pub struct Capture {
    frames: Receiver<Vec<u8>>,
}

impl Capture {
    /// Returns the first frame that `wanted` accepts, throwing away those before it; `None` after `limit`.
    pub fn wait_for(&self, limit: Duration, wanted: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        let end = Instant::now() + limit;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let frame = self.frames.recv_timeout(left).ok()?;
            if wanted(&frame) {
                return Some(frame);
            }
        }
    }

    /// Returns every frame that the host sent to the guest's tap before this call. What was forwarded to a tap
    /// stays in order, so a datagram of the host itself, which is always allowed, marks the end.
    ///
    /// # Panics
    ///
    /// When the host's datagram does not arrive.
    pub fn settle(&self, host: &Netns, guest: &Guest) -> Vec<Vec<u8>> {
        static MARKS: AtomicU32 = AtomicU32::new(0);
        let mark = format!("end of capture {}", MARKS.fetch_add(1, Ordering::Relaxed));
        let socket = host.run(|| UdpSocket::bind("0.0.0.0:0")).expect("UDP socket");
        let discard = SocketAddr::new(IpAddr::V4(guest.vm().v4()), 9);
        socket
            .send_to(mark.as_bytes(), discard)
            .expect("send to the guest");
        let end = Instant::now() + LIMIT;
        let mut before = Vec::new();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let frame = self
                .frames
                .recv_timeout(left)
                .expect("a datagram of the host arrives at its guest");
            if contains(&frame, mark.as_bytes()) {
                return before;
            }
            before.push(frame);
        }
    }
}

/// Returns whether `part` occurs in `frame`.
pub fn contains(frame: &[u8], part: &[u8]) -> bool {
    frame.windows(part.len()).any(|window| window == part)
}

/// Those who want copies of a guest's frames.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    some: AtomicBool,
    senders: Mutex<Vec<Sender<Vec<u8>>>>,
}

impl Listeners {
    pub(crate) fn listen(&self) -> Capture {
        let (sender, frames) = channel();
        self.senders.lock().expect("no listener panics").push(sender);
        self.some.store(true, Ordering::Release);
        Capture { frames }
    }

    pub(crate) fn tell(&self, frame: &[u8]) {
        if !self.some.load(Ordering::Acquire) {
            return;
        }
        let mut senders = self.senders.lock().expect("no listener panics");
        let kept = &frame[..frame.len().min(KEPT)];
        senders.retain(|sender| sender.send(kept.to_vec()).is_ok());
        self.some.store(!senders.is_empty(), Ordering::Release);
    }
}
