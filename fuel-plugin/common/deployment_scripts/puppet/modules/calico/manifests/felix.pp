# Felix, with iptables, in force before the eBPF agent goes; of that one nothing is left.
#
# [*package*] Felix's package
# [*agent*]   the agent's package
# [*node_name*] the node's name, for messages
# [*limit*]   seconds that Felix may take to be in force
#
class calico::felix (
  $node_name,
  $package = 'calico-felix',
  $agent   = 'calico-ebpf',
  $limit   = 120,
) {
  $handover = '/usr/lib/calico/dataplane/handover'
  $timeout  = $limit + 120

  Exec {
    path        => '/usr/sbin:/usr/bin:/sbin:/bin',
    environment => ["CALICO_LIMIT=${limit}", "CALICO_NODE=${node_name}"],
    timeout     => $timeout,
    logoutput   => on_failure,
  }

  # The agent stops only when Felix can be had. Its programs go on judging, and Felix learns of their connections.
  exec { 'Felix can be installed':
    command => "${handover} can-install ${package}",
    unless  => "${handover} can-install ${package}",
    require => Class['calico::dataplane_scripts'],
  }

  exec { 'the agent stands back':
    command => "${handover} stand-back ${agent}",
    onlyif  => "${handover} is-installed ${agent}",
    require => Exec['Felix can be installed'],
  }

  package { $package:
    ensure  => installed,
    require => [Class['calico::felix_cfg'], Exec['the agent stands back']],
  }

  service { 'calico-felix':
    ensure    => running,
    enable    => true,
    require   => Package[$package],
    subscribe => Class['calico::felix_cfg'],
  }

  exec { 'Felix takes over from the agent':
    command => "${handover} to-felix ${agent}",
    onlyif  => "${handover} is-installed ${agent}",
    require => Service['calico-felix'],
  }
}
