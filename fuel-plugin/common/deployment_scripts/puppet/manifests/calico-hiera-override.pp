# Tells the tasks of Fuel to do without Open vSwitch.
notice('MODULAR: fuel-plugin-calico/calico-hiera-override.pp')

class { 'calico::hiera_override':
  network_scheme => hiera_hash('network_scheme', {}),
  release        => hiera('fuel_version', '9.0'),
}
