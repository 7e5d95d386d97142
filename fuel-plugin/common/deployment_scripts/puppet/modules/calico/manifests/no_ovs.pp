# Neither Open vSwitch nor agents of Neutron that would build networks beside Calico's.
#
# [*packages*] what is taken away
#
class calico::no_ovs (
  $packages = [
    'neutron-plugin-openvswitch-agent',
    'neutron-openvswitch-agent',
    'neutron-plugin-linuxbridge-agent',
    'neutron-linuxbridge-agent',
    'neutron-l3-agent',
    'neutron-vpn-agent',
    'neutron-dhcp-agent',
    'neutron-metadata-agent',
    'openvswitch-switch',
    'openvswitch-datapath-dkms',
  ],
) {
  package { $packages:
    ensure => purged,
  }
}
