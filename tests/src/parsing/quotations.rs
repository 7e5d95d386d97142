//! The plain reading of what ICMP errors quote (RFC 792; RFC 4443, 3).

use calico_ebpf_common::parsed::Parsed;
use calico_ebpf_common::verdict::DropReason;

use super::mistakes::Mistake;
use super::reference::{
    Network, Part, Sight, address, kind, number16, number32, tell_icmp, tell_network, tell_ports,
};

/// Bytes of an error before the packet that it quotes, and bytes of transport header that each quotes.
const ERROR: usize = 8;
const QUOTED_TRANSPORT: usize = 8;

/// Reads the packet that the error `network` quotes. Whatever is wrong with it, the error is about nothing.
pub(super) fn read(sight: &Sight<'_>, network: &Network, parsed: &mut Parsed) -> Result<(), DropReason> {
    quoted(sight, network, parsed).ok_or(DropReason::IcmpUnrelated)
}

fn quoted(sight: &Sight<'_>, network: &Network, parsed: &mut Parsed) -> Option<()> {
    let at = network.transport + ERROR;
    let quoted = match network.version {
        4 => ipv4(sight, at, network.end)?,
        _ => ipv6(sight, at, network.end)?,
    };
    if quoted.transport + QUOTED_TRANSPORT > quoted.end {
        return None;
    }
    tell_network(&quoted, parsed);
    let transport = sight.bytes(quoted.transport, QUOTED_TRANSPORT).ok()?;
    match (quoted.protocol, quoted.version) {
        (6 | 17 | 33 | 132 | 136, _) => {
            tell_ports(transport, parsed);
            // What policy is asked by is no part of a quotation.
            parsed.class_value = 0;
            if sight.makes(Mistake::QuotedPortsSwapped) {
                std::mem::swap(&mut parsed.source_port, &mut parsed.destination_port);
            }
        }
        (1, 4) | (58, 6) => {
            tell_icmp(sight, quoted.version, transport, parsed);
            if parsed.kind == kind::ERROR {
                return None;
            }
        }
        _ => {}
    }
    Some(())
}

/// Later fragments have no ports, so there is no telling what they are of.
fn ipv4(sight: &Sight<'_>, at: usize, end: usize) -> Option<Network> {
    let header = sight.bytes(at, 20).ok()?;
    let transport = at + usize::from(header[0] & 15) * 4;
    let offset = number16(header, 6) & 0x1fff;
    if header[0] >> 4 != 4 || transport < at + 20 || offset != 0 {
        return None;
    }
    Some(Network {
        version: 4,
        source: [0, number32(header, 12).into()],
        destination: [0, number32(header, 16).into()],
        protocol: header[9],
        hop_limit: header[8],
        transport,
        end,
        part: Part::WHOLE,
    })
}

fn ipv6(sight: &Sight<'_>, at: usize, end: usize) -> Option<Network> {
    let header = sight.bytes(at, 40).ok()?;
    if header[0] >> 4 != 6 {
        return None;
    }
    Some(Network {
        version: 6,
        source: address(header, 8),
        destination: address(header, 24),
        protocol: header[6],
        hop_limit: header[7],
        transport: at + 40,
        end,
        part: Part::WHOLE,
    })
}
