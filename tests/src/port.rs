//! Ports without a VM's stack behind them: the test is the VM. Each answers for its addresses and does nothing else.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::evidence;
use crate::host::Host;
use crate::packets::{self, Packet, Path};
use crate::tap::{LARGEST, Tap, VNET_HEADER};

/// Flags of a neighbour advertisement: solicited, override (RFC 4861, 4.4).
const SOLICITED_OVERRIDE: u16 = 0x6000;
const NEIGHBOR_ADVERTISEMENT: u8 = 136;

/// A tap with the MAC and the addresses of a VM.
#[derive(Debug)]
pub struct Port {
    tap: Tap,
    mac: [u8; 6],
    nets: Vec<IpNet>,
    buffer: RefCell<Vec<u8>>,
}

impl Port {
    /// Makes the tap on a host and brings it up.
    pub fn plug(host: &Host, interface: &str, mac: [u8; 6], nets: Vec<IpNet>) -> Self {
        let tap = Tap::create(host.namespace(), interface);
        let [_, tail @ ..] = mac.map(|byte| format!("{byte:02x}"));
        host.namespace()
            .ip(&format!("link set {interface} address fe:{} up", tail.join(":")));
        Self {
            tap,
            mac,
            nets,
            buffer: RefCell::new(vec![0; LARGEST]),
        }
    }

    /// Name of the tap.
    pub fn interface(&self) -> &str {
        self.tap.name()
    }

    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// MAC of the host's side.
    pub fn host_mac(&self) -> [u8; 6] {
        let mut mac = self.mac;
        mac[0] = 0xfe;
        mac
    }

    /// Sends a packet to the host; MAC addresses that are zero are filled in.
    ///
    /// # Panics
    ///
    /// When the tap is down.
    pub fn send(&self, packet: &Packet) {
        evidence::frame(packet.bytes());
        self.write(packet);
    }

    fn write(&self, packet: &Packet) {
        let mut buffer = vec![0; VNET_HEADER];
        buffer.extend(packet.filled(self.mac, self.host_mac()));
        self.tap.carry(&buffer).expect("write a frame");
    }

    /// Returns every frame that has arrived, and answers those that ask for one of the port's addresses.
    pub fn drain(&self) -> Vec<Vec<u8>> {
        let mut buffer = self.buffer.borrow_mut();
        let mut frames = Vec::new();
        while let Ok(length) = self.tap.read(&mut buffer) {
            let frame = buffer.get(VNET_HEADER..length).unwrap_or_default().to_vec();
            self.answer(&frame);
            frames.push(frame);
        }
        frames
    }

    /// Tells the network that the VM runs here: an ARP request for its own address (RFC 5227, 3).
    pub fn announce(&self, address: Ipv4Addr) {
        self.send(&packets::arp(1, self.mac, address, address));
    }

    fn answer(&self, frame: &[u8]) {
        if let Some((sender, wanted)) = arp_question(frame)
            && self.owns(wanted.into())
        {
            self.write(&packets::arp(2, self.mac, wanted, sender).to_mac(self.host_mac()));
        }
        if let Some((sender, wanted)) = neighbor_question(frame)
            && self.owns(wanted.into())
        {
            let mut body = wanted.octets().to_vec();
            body.extend(packets::link_layer_option(2, self.mac));
            let answer = Path::new((wanted.into(), 0), (sender.into(), 0)).icmp(
                NEIGHBOR_ADVERTISEMENT,
                0,
                SOLICITED_OVERRIDE,
                &body,
            );
            self.write(&answer.with_hop_limit(255));
        }
    }

    fn owns(&self, address: IpAddr) -> bool {
        self.nets.iter().any(|net| net.contains(&address))
    }
}

/// Returns who asks for whom by ARP.
fn arp_question(frame: &[u8]) -> Option<(Ipv4Addr, Ipv4Addr)> {
    let is_request = frame.get(12..14)? == [0x08, 0x06] && frame.get(20..22)? == [0, 1];
    let address = |range| Some(Ipv4Addr::from(<[u8; 4]>::try_from(frame.get(range)?).ok()?));
    is_request.then_some((address(28..32)?, address(38..42)?))
}

/// Returns who asks for whom by neighbour discovery.
fn neighbor_question(frame: &[u8]) -> Option<(Ipv6Addr, Ipv6Addr)> {
    let is_solicitation =
        frame.get(12..14)? == [0x86, 0xdd] && frame.get(20) == Some(&58) && frame.get(54)? == &135;
    let address = |range| Some(Ipv6Addr::from(<[u8; 16]>::try_from(frame.get(range)?).ok()?));
    is_solicitation.then_some((address(22..38)?, address(62..78)?))
}
