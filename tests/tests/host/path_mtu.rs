//! Taps that take shorter packets than the sender sends.

use std::net::IpAddr;

use calico_ebpf_common::verdict::PassReason;
use calico_ebpf_tests::capture::contains;
use calico_ebpf_tests::frames::{self, Frame};
use calico_ebpf_tests::host::host_address_like;
use calico_ebpf_tests::manifests::allow_everything;
use calico_ebpf_tests::scene::Scene;
use calico_ebpf_tests::traffic::{at, transfer};
use calico_ebpf_tests::wait;

use crate::expect::LIMIT;

const MTU: u16 = 1400;

/// Bytes of payload that make the packet longer than [`MTU`], and not longer than the sender's own.
const LONG: usize = 1420;

#[test]
fn scenario_78_the_host_tells_the_sender_of_a_long_packet_the_targets_mtu() {
    let scene = Scene::new(&["a", "b"]);
    scene.manifests().put(&allow_everything());
    let _agent = scene.start_agent();
    let (a, b) = (scene.guest("a"), scene.guest("b"));
    let tap = b.vm().interface();
    scene.host().namespace().ip(&format!("link set {tap} mtu {MTU}"));
    let answers = a.capture();
    for address in b.vm().addresses() {
        let frame = Frame::from(a.vm(), 4000, at(address, 53)).udp(&[b'x'; LONG]);
        let frame = without_fragmentation(frame);
        // The agent sees the new MTU in a moment; until then the packet arrives.
        wait::until("the host answers", LIMIT, || {
            a.tap().send(&frame).expect("write a frame");
            let told = |frame: &[u8]| frames::told_mtu(frame, host_address_like(address));
            let answer = answers.wait_for(LIMIT / 10, |frame| told(frame).is_some());
            match answer {
                Some(answer) => {
                    assert_eq!(told(&answer), Some(u32::from(MTU)), "{address}");
                    assert!(contains(&answer, &frame[14..14 + 28]), "quotes the packet");
                    true
                }
                None => false,
            }
        });
    }
    assert!(scene.launcher().passes(PassReason::PacketTooBig) >= 2);
}

#[test]
fn scenario_78_a_transfer_goes_on_when_the_targets_mtu_shrinks() {
    let scene = Scene::new(&["a", "b"]);
    scene.manifests().put(&allow_everything());
    let _agent = scene.start_agent();
    let (a, b) = (scene.guest("a"), scene.guest("b"));
    let tap = b.vm().interface();
    let addresses: [IpAddr; 2] = b.vm().addresses();
    for (address, mtu) in addresses.into_iter().zip([MTU, MTU - 50]) {
        scene.host().namespace().ip(&format!("link set {tap} mtu {mtu}"));
        let outcome = transfer(a.namespace(), b.namespace(), at(address, 80), 4 << 20).expect("a transfer");
        assert!(outcome.is_whole(), "{address}");
    }
}

/// Sets the bit "don't fragment" of IPv4, and corrects the header's checksum.
fn without_fragmentation(mut frame: Vec<u8>) -> Vec<u8> {
    if frame[12..14] == [0x08, 0x00] && frame[20] & 0x40 == 0 {
        frame[20] |= 0x40;
        let checksum = u16::from_be_bytes([frame[24], frame[25]]);
        // One's complement: the sum has grown by 0x4000.
        let (less, borrow) = checksum.overflowing_sub(0x4000);
        frame[24..26].copy_from_slice(&(less - u16::from(borrow)).to_be_bytes());
    }
    frame
}
