//! Virtual machines: a network namespace whose stack is bridged to the file descriptor of a tap on the host, as
//! QEMU bridges a guest's virtio-net device.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::capture::{Capture, Listeners};
use crate::evidence;
use crate::host::{Host, skip_duplicate_address_detection};
use crate::netns::Netns;
use crate::tap::{LARGEST, Tap, VNET_HEADER};

/// The router of each guest's IPv4 subnet: an address that nobody has and proxy ARP answers for.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(10, 65, 0, 1);

/// What Nova and Neutron decide about a port, made of one number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vm {
    name: String,
    number: u8,
}

impl Vm {
    /// Describes a VM; `number` is unique on its host, from 1 to 200.
    pub fn new(name: &str, number: u8) -> Self {
        assert!((1..=200).contains(&number));
        Self {
            name: name.to_owned(),
            number,
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The fixed IPv4 address.
    pub fn v4(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 65, 0, 10 + self.number)
    }

    /// The fixed IPv6 address.
    pub fn v6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0x65, 0, 0, 0, 0, 0, 10 + u16::from(self.number))
    }

    /// Both addresses.
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.v4().into(), self.v6().into()]
    }

    /// The address of the family of `like`.
    pub fn address_like(&self, like: IpAddr) -> IpAddr {
        if like.is_ipv4() {
            self.v4().into()
        } else {
            self.v6().into()
        }
    }

    pub fn mac(&self) -> [u8; 6] {
        [0xfa, 0x16, 0x3e, 0, 0, self.number]
    }

    /// MAC of the host's side of the tap: the port's with first octet `fe`, as Neutron hands it to Nova.
    pub fn host_mac(&self) -> [u8; 6] {
        [0xfe, 0x16, 0x3e, 0, 0, self.number]
    }

    pub fn mac_text(&self) -> String {
        text(self.mac())
    }

    /// Neutron's port id.
    pub fn port_id(&self) -> String {
        format!("{:08x}-0000-4000-8000-000000000001", self.number)
    }

    /// Nova's id of the VM.
    pub fn device_id(&self) -> String {
        format!("{:08x}-1111-4111-8111-111111111111", self.number)
    }

    /// Name of the tap: `tap` and the first eleven characters of the port id.
    pub fn interface(&self) -> String {
        format!("tap{}", &self.port_id()[..11])
    }

    /// Link-local address of the host's side of the tap (RFC 4291 appendix A): the guest's IPv6 router.
    pub fn gateway_v6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0xfe80, 0, 0, 0, 0xfc16, 0x3eff, 0xfe00, u16::from(self.number))
    }
}

/// A running VM.
#[derive(Debug)]
pub struct Guest {
    vm: Vm,
    namespace: Netns,
    inner: Arc<Tap>,
    plugged: Option<Plugged>,
    listeners: Arc<Listeners>,
    largest: Arc<AtomicUsize>,
}

/// The guest's tap on a host, while there is one.
#[derive(Debug)]
struct Plugged {
    tap: Arc<Tap>,
    stop: Arc<EventFd>,
    pump: Option<JoinHandle<()>>,
}

impl Guest {
    /// Boots a VM and plugs it into a host.
    pub fn start(host: &Host, name: &str, number: u8) -> Self {
        let mut guest = Self::boot(Vm::new(name, number));
        guest.plug(host);
        guest
    }

    /// Boots a VM that has no tap on a host yet.
    pub fn boot(vm: Vm) -> Self {
        let namespace = Netns::guest();
        skip_duplicate_address_detection(&namespace);
        namespace.set_sysctl("net/ipv4/ping_group_range", "0 2147483647");
        let inner = Arc::new(Tap::create(&namespace, "eth0"));
        namespace.ip(&format!(
            "link set eth0 address {}
             link set eth0 up
             addr add {}/24 dev eth0
             route add default via {GATEWAY_V4}
             addr add {}/128 dev eth0 nodad
             route add default via {} dev eth0",
            vm.mac_text(),
            vm.v4(),
            vm.v6(),
            vm.gateway_v6()
        ));
        let (listeners, largest) = (Arc::default(), Arc::default());
        Self {
            vm,
            namespace,
            inner,
            plugged: None,
            listeners,
            largest,
        }
    }

    pub fn vm(&self) -> &Vm {
        &self.vm
    }

    /// The namespace that is the guest's network stack.
    pub fn namespace(&self) -> &Netns {
        &self.namespace
    }

    /// Makes the tap on the host, brings it up and connects the guest to it, as QEMU does at start.
    pub fn plug(&mut self, host: &Host) {
        self.unplug();
        let name = self.vm.interface();
        let tap = Arc::new(Tap::create(host.namespace(), &name));
        host.namespace().ip(&format!(
            "link set {name} address {} up",
            text(self.vm.host_mac())
        ));
        let stop = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC).expect("eventfd"));
        let pump = Pump {
            inner: Arc::clone(&self.inner),
            outer: Arc::clone(&tap),
            stop: Arc::clone(&stop),
            listeners: Arc::clone(&self.listeners),
            largest: Arc::clone(&self.largest),
        };
        let pump = thread::Builder::new()
            .name(format!("pump-{}", self.vm.name))
            .spawn(move || pump.run());
        self.plugged = Some(Plugged {
            tap,
            stop,
            pump: Some(pump.expect("thread")),
        });
    }

    /// Deletes the tap from the host, as the end of QEMU does. The guest's stack stays.
    pub fn unplug(&mut self) {
        self.plugged = None;
    }

    /// The tap on the host, to write frames to it as a hostile VM would.
    ///
    /// # Panics
    ///
    /// While the guest is not plugged in.
    pub fn tap(&self) -> &Tap {
        &self.plugged.as_ref().expect("the guest is plugged in").tap
    }

    /// Copies every frame that arrives at the guest's tap from now on.
    pub fn capture(&self) -> Capture {
        self.listeners.listen()
    }

    /// Length of the largest frame that arrived at the guest's tap so far: above the MTU when segmentation was
    /// left to the guest.
    pub fn largest_frame(&self) -> usize {
        self.largest.load(Ordering::Relaxed)
    }
}

impl Drop for Plugged {
    fn drop(&mut self) {
        self.stop.write(1).expect("eventfd takes a count");
        if let Some(pump) = self.pump.take()
            && pump.join().is_err()
            && !thread::panicking()
        {
            panic!("the pump of a guest panicked");
        }
    }
}

/// Carries whole frames with their virtio-net headers between a guest's stack and its tap on the host.
struct Pump {
    inner: Arc<Tap>,
    outer: Arc<Tap>,
    stop: Arc<EventFd>,
    listeners: Arc<Listeners>,
    largest: Arc<AtomicUsize>,
}

impl Pump {
    /// Frames in one direction before the other one has its turn.
    const BURST: usize = 64;

    fn run(self) {
        let mut buffer = vec![0; LARGEST];
        loop {
            let mut ready = [
                PollFd::new(self.stop.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.inner.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.outer.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut ready, PollTimeout::NONE) {
                Err(nix::errno::Errno::EINTR) => continue,
                result => result.expect("poll"),
            };
            let [stop, inner, outer] = ready.map(|descriptor| descriptor.any() == Some(true));
            if stop {
                return;
            }
            let from_guest =
                inner && Self::carry(&self.inner, &self.outer, &mut buffer, evidence::frame_of_a_stack);
            let from_host = outer
                && Self::carry(&self.outer, &self.inner, &mut buffer, |frame| {
                    self.largest.fetch_max(frame.len(), Ordering::Relaxed);
                    self.listeners.tell(frame);
                });
            // A device that somebody set down or deleted by hand is readable and yields errors.
            if (inner || outer) && !from_guest && !from_host {
                thread::yield_now();
            }
        }
    }

    /// Returns whether anything was carried.
    fn carry(from: &Tap, to: &Tap, buffer: &mut [u8], mut see: impl FnMut(&[u8])) -> bool {
        for carried in 0..Self::BURST {
            let length = match from.read(buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return carried > 0,
            };
            see(buffer.get(VNET_HEADER..length).unwrap_or_default());
            // A device that is down or has no room loses the frame, as a network may.
            drop(to.carry(&buffer[..length]));
        }
        true
    }
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
