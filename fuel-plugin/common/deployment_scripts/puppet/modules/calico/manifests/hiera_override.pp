# Tells the tasks of Fuel to do without Open vSwitch.
#
# [*network_scheme*] the node's network scheme
# [*release*]        Fuel's version: 6.1 and 7.0 read overrides from one file for all plugins
#
class calico::hiera_override (
  $network_scheme,
  $release,
) {
  $old = ($release =~ /^[67]\./)
  $path = $old ? {
    true    => '/etc/hiera/override/plugins.yaml',
    default => '/etc/hiera/plugins/fuel-plugin-calico.yaml',
  }
  $directory = $old ? {
    true    => '/etc/hiera/override',
    default => '/etc/hiera/plugins',
  }

  file { $directory:
    ensure => directory,
    owner  => 'root',
    group  => 'root',
    mode   => '0755',
  }

  file { $path:
    ensure  => file,
    owner   => 'root',
    group   => 'root',
    mode    => '0600',
    content => calico_hiera_override($network_scheme, $old),
  }
}
