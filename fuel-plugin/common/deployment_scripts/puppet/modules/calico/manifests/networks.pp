# The shared network of the VMs and its subnet, made once by the primary controller.
#
# [*cidr*]      the setting ippool_cidr
# [*gateway*]   the setting ippool_gateway
# [*node_name*] the node's name, for messages
# [*openrc*]    the administrator's variables for Neutron's command
#
class calico::networks (
  $cidr,
  $gateway,
  $node_name,
  $openrc = '/root/openrc',
) {
  $script = '/usr/lib/calico/networks'

  Exec {
    path        => '/usr/sbin:/usr/bin:/sbin:/bin',
    environment => ["CALICO_OPENRC=${openrc}", "CALICO_NODE=${node_name}"],
    timeout     => 600,
    logoutput   => on_failure,
  }

  if !defined(File['/usr/lib/calico']) {
    file { '/usr/lib/calico':
      ensure => directory,
      owner  => 'root',
      group  => 'root',
      mode   => '0755',
    }
  }
  file { $script:
    ensure => file,
    owner  => 'root',
    group  => 'root',
    mode   => '0755',
    source => 'puppet:///modules/calico/networks',
  }

  exec { 'network and subnet of the VMs':
    command => "${script} make ${cidr} ${gateway}",
    unless  => "${script} exists ${cidr} ${gateway}",
    require => File[$script],
  }
}
