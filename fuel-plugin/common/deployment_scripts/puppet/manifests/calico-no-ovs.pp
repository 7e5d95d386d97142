# Takes Open vSwitch and Neutron's agents away.
notice('MODULAR: fuel-plugin-calico/calico-no-ovs.pp')

class { 'calico::no_ovs': }
