//! Why a packet was dropped or let pass: one numbering for counters, metrics, events and the command line.

/// Declares a fieldless enum with its text names and a list of all variants.
macro_rules! reasons {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $number:literal, $text:literal;)* }) => {
        $(#[$doc])*
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant = $number,)* }

        impl $name {
            /// Every variant, in order of its number.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Returns the variant of a number.
            pub fn of_number(number: u32) -> Option<Self> {
                Self::ALL.iter().copied().find(|reason| *reason as u32 == number)
            }

            /// Returns the name in metrics and on the command line.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

reasons! {
    /// Why a packet was dropped. The number is the index in the counter map; numbers are never re-used.
    DropReason {
        /// The interface belongs to no endpoint.
        UnknownInterface = 1, "unknown-interface";
        /// The frame ends before its headers do.
        TooShort = 2, "too-short";
        /// A header contradicts itself or the frame.
        Malformed = 3, "malformed";
        /// VLAN tag; Calico networks are untagged.
        Vlan = 4, "vlan";
        /// Neither ARP, IPv4 nor IPv6.
        UnknownEthertype = 5, "unknown-ethertype";
        /// Source MAC is not the port's.
        SourceMac = 6, "source-mac";
        /// Source IP is not the port's.
        SourceAddress = 7, "source-address";
        /// ARP sender is not the port.
        ArpSender = 8, "arp-sender";
        /// Neighbour discovery for an address that is not the port's.
        NeighborSender = 9, "neighbor-sender";
        /// Router advertisement or redirect from a workload.
        RouterAdvertisement = 10, "router-advertisement";
        /// DHCP server packet from a workload.
        DhcpServer = 11, "dhcp-server";
        /// IP fragment that cannot be judged: of a translated flow, of neighbour discovery, DHCP or an ICMP error.
        Fragment = 12, "fragment";
        /// More IPv6 extension headers than are walked.
        ExtensionHeaders = 13, "extension-headers";
        /// Destination that must never be routed: loopback, link-local, unspecified.
        Martian = 14, "martian";
        /// Multicast or broadcast that the host does not serve.
        Multicast = 15, "multicast";
        /// The source's egress policy.
        EgressPolicy = 16, "egress-policy";
        /// The target's ingress policy.
        IngressPolicy = 17, "ingress-policy";
        /// TCP in mid-stream, or the answer to an ICMP query, without a flow.
        NoFlow = 18, "no-flow";
        /// ICMP error that quotes no live flow.
        IcmpUnrelated = 19, "icmp-unrelated";
        /// `DefaultEndpointToHostAction` is `DROP`.
        EndpointToHost = 20, "endpoint-to-host";
        /// The target's tap or program is missing.
        TargetNotReady = 21, "target-not-ready";
        /// VXLAN or IPIP from a workload.
        Encapsulation = 22, "encapsulation";
        /// IPv6 is switched off (`Ipv6Support`).
        Ipv6Disabled = 23, "ipv6-disabled";
        /// The policy table has no valid version.
        NoPolicyTable = 24, "no-policy-table";
        /// The packet's headers could not be rewritten.
        Rewrite = 25, "rewrite";
        /// ARP answer of the host for the workload's own address.
        ProxyArpOwnAddress = 26, "proxy-arp-own-address";
        /// The conntrack table has no room and the packet cannot be judged without it.
        FlowTableFull = 27, "flow-table-full";
        /// A translated and an untranslated flow, or two external addresses, would have the same tuple behind the
        /// translation.
        NatClash = 28, "nat-clash";
        /// The translation of an external address or of a flow is gone.
        NatUnknown = 29, "nat-unknown";
        /// A later fragment whose first one was not let pass here, or too long ago.
        FragmentWithoutFirst = 40, "fragment-without-first";
        /// A fragment that begins inside what was seen of its datagram.
        FragmentOverlap = 41, "fragment-overlap";
        /// No room to remember the datagram of a first fragment.
        FragmentTableFull = 42, "fragment-table-full";
        /// TCP to a workload of this host that was deleted less than a minute ago: answered with a reset.
        WorkloadGone = 50, "workload-gone";
    }
}

reasons! {
    /// Where a packet that was let pass went. Its counter is at [`crate::maps::PASS_COUNTERS`] plus the number.
    PassReason {
        /// To a local workload by redirect.
        LocalWorkload = 0, "local-workload";
        /// To the host stack, for another host or outside.
        Remote = 1, "remote";
        /// To the host itself.
        Host = 2, "host";
        /// ARP and neighbour discovery to the host stack.
        Neighbor = 3, "neighbor";
        /// DHCP to the host.
        Dhcp = 4, "dhcp";
        /// From another host or outside to a local workload.
        FromRemote = 5, "from-remote";
        /// From the host itself to a local workload.
        FromHost = 6, "from-host";
        /// TTL or hop limit is spent: the host stack answers.
        TtlExceeded = 7, "ttl-exceeded";
        /// No room in the conntrack table: passed by policy alone.
        Untracked = 8, "untracked";
        /// To or from the metadata service.
        Metadata = 9, "metadata";
        /// Longer than the MTU of the target's tap: the host stack answers it or cuts it.
        PacketTooBig = 10, "packet-too-big";
        /// Made an answer to itself, after it was dropped by policy: counted as both.
        Answered = 11, "answered";
    }
}
