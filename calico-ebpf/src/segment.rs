//! TCP segments: what sequence windows need of their headers.

use calico_ebpf_common::verdict::DropReason;
use calico_ebpf_common::window::Segment;

use crate::parse::transport::{TCP_ACK, TCP_BYTES, TCP_FIN, TCP_RST, TCP_SYN};
use crate::scratch;
use crate::skb::Skb;

/// Kinds of TCP options (RFC 9293 section 3.1, RFC 7323 section 2.2).
const END_OF_OPTIONS: u8 = 0;
const NO_OPERATION: u8 = 1;
const WINDOW_SCALE: u8 = 3;
/// A header has room for so many bytes of options.
const MOST_OPTIONS: usize = 40;

/// Reads the TCP header at `offset`; `bytes` are those from there to the end of the packet.
#[inline(always)]
pub(crate) fn read(skb: &Skb, offset: usize, bytes: u32) -> Result<Segment, DropReason> {
    let tcp = skb.view::<TCP_BYTES>(offset)?;
    let (sequence, flags) = (tcp.be32::<4>(), tcp.u8::<13>());
    let header_bytes = u32::from(tcp.u8::<12>() >> 4) * 4;
    let controls = u32::from(flags & TCP_SYN != 0) + u32::from(flags & TCP_FIN != 0);
    let length = bytes.wrapping_sub(header_bytes).wrapping_add(controls);
    Ok(Segment {
        sequence,
        end: sequence.wrapping_add(length),
        acknowledged: tcp.be32::<8>(),
        window: tcp.be16::<14>(),
        is_syn: flags & TCP_SYN != 0,
        is_ack: flags & TCP_ACK != 0,
        is_reset: flags & TCP_RST != 0,
    })
}

/// Returns the window scale that the TCP header at `offset` offers.
#[inline(always)]
pub(crate) fn scale(skb: &Skb, offset: usize) -> Option<u8> {
    let header_bytes = usize::from(skb.view::<TCP_BYTES>(offset).ok()?.u8::<12>() >> 4) * 4;
    let mut at = TCP_BYTES;
    for _ in 0..MOST_OPTIONS {
        // The verifier would follow each way through the options: forgotten, and bounded again.
        at = scratch::forget(at as u32) as usize & 63;
        if at + 3 > header_bytes {
            return None;
        }
        let option = skb.view::<3>(offset + at).ok()?;
        match option.u8::<0>() {
            END_OF_OPTIONS => return None,
            NO_OPERATION => at += 1,
            WINDOW_SCALE => return Some(option.u8::<2>()),
            _ => {
                let length = usize::from(option.u8::<1>());
                if length < 2 {
                    return None;
                }
                at += length;
            }
        }
    }
    None
}
