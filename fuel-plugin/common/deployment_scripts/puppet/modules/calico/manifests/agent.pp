# The eBPF agent, in force before Felix goes.
#
# [*package*]    the agent's package
# [*version*]    its version, or installed
# [*felix*]      Felix's package
# [*node_name*]  the node's name, for messages
# [*limit*]      seconds that the agent may take to be in force
#
class calico::agent (
  $node_name,
  $package = 'calico-ebpf',
  $version = 'installed',
  $felix   = 'calico-felix',
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

  exec { 'whose bpffs it is':
    command => "${handover} note-bpffs",
    unless  => "${handover} is-installed ${package}",
    require => Class['calico::dataplane_scripts'],
  }

  package { $package:
    ensure  => $version,
    require => [Class['calico::felix_cfg'], Exec['whose bpffs it is']],
  }

  # Felix still judges every packet when this fails.
  exec { 'this kernel can run the agent':
    command => "${handover} can-run",
    unless  => "${handover} can-run",
    require => [Package[$package], Class['calico::dataplane_scripts']],
  }

  # systemd takes the agent for started when it has policy in force; waiting for that is the next step's, with a limit.
  $start = $::calico_init ? {
    'systemd' => '/bin/systemctl --no-block start calico-ebpf',
    default   => undef,
  }
  $restart = $::calico_init ? {
    'systemd' => '/bin/systemctl --no-block restart calico-ebpf',
    default   => undef,
  }
  $status = $::calico_init ? {
    'systemd' => '/bin/systemctl is-active calico-ebpf | grep -qx -e active -e activating',
    default   => undef,
  }
  service { 'calico-ebpf':
    ensure    => running,
    enable    => true,
    start     => $start,
    restart   => $restart,
    status    => $status,
    require   => Exec['this kernel can run the agent'],
    subscribe => Class['calico::felix_cfg'],
  }

  exec { 'the agent has policy in force':
    command => "${handover} in-force",
    unless  => "env CALICO_LIMIT=0 ${handover} in-force",
    require => Service['calico-ebpf'],
  }

  exec { 'the agent takes over from Felix':
    command => "${handover} to-agent ${felix}",
    onlyif  => "${handover} is-installed ${felix}",
    require => Exec['the agent has policy in force'],
  }
}
