//! Known mistakes that a parser could make: the comparison must find each.

/// A mistake that the plain reading makes on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// Finds the transport header behind twenty bytes, whatever the header's length is.
    Ipv4OptionsIgnored,
    /// Goes by the frame's length instead of the IPv4 packet's.
    PaddingCounts,
    /// Looks for ports in later fragments.
    LaterFragmentsHavePorts,
    /// Takes the second extension header for the packet's protocol.
    SecondExtensionHeaderSkipped,
    /// Walks one extension header more than the programs.
    NinthExtensionHeader,
    /// Walks the authentication header, which is a protocol by name.
    AuthenticationHeaderWalked,
    /// Lets a routing header pass that has segments left.
    SegmentsLeft,
    /// Counts the fragment header among the fragment's bytes.
    FragmentHeaderCounts,
    /// Lets a fragment pass that is not a multiple of eight bytes and not the last.
    OddFragments,
    /// Reads the type of a frame behind its VLAN tag.
    VlanLookedThrough,
    /// Lets a TCP header pass that ends inside its options.
    TcpOptionsIgnored,
    /// Believes a UDP length beyond the packet.
    UdpLengthIgnored,
    /// Reads the ports of UDP-Lite only from as many bytes as SCTP needs.
    UdpLiteLikeSctp,
    /// Takes the answer to an ICMP query for a query.
    IcmpRepliesAreQueries,
    /// Takes a quoted packet's ports the other way round.
    QuotedPortsSwapped,
    /// Takes ARP for any hardware.
    AnyArp,
}

impl Mistake {
    /// Every mistake.
    pub const ALL: [Self; 16] = [
        Self::Ipv4OptionsIgnored,
        Self::PaddingCounts,
        Self::LaterFragmentsHavePorts,
        Self::SecondExtensionHeaderSkipped,
        Self::NinthExtensionHeader,
        Self::AuthenticationHeaderWalked,
        Self::SegmentsLeft,
        Self::FragmentHeaderCounts,
        Self::OddFragments,
        Self::VlanLookedThrough,
        Self::TcpOptionsIgnored,
        Self::UdpLengthIgnored,
        Self::UdpLiteLikeSctp,
        Self::IcmpRepliesAreQueries,
        Self::QuotedPortsSwapped,
        Self::AnyArp,
    ];
}
