# calico-dhcp-agent on a compute node: dnsmasq on the taps themselves, without namespaces and without a bridge.
#
# [*etcd_url*]      the endpoint, see calico::neutron_etcd
# [*etcd_tls*], [*etcd_files*] see calico::neutron_etcd
# [*package*]       the package with the agent
# [*configuration*] neutron.conf
#
class calico::dhcp_agent (
  $etcd_url,
  $etcd_tls      = false,
  $etcd_files    = [],
  $package       = 'networking-calico',
  $configuration = '/etc/neutron/neutron.conf',
) {
  class { 'calico::neutron_etcd':
    url           => $etcd_url,
    tls           => $etcd_tls,
    files         => $etcd_files,
    configuration => $configuration,
    require       => Package[$package],
  }

  calico::setting { 'DEFAULT/use_namespaces':
    path    => $configuration,
    value   => 'False',
    require => Package[$package],
  }
  calico::setting { 'DEFAULT/interface_driver':
    path    => $configuration,
    value   => 'networking_calico.agent.linux.interface.RoutedInterfaceDriver',
    require => Package[$package],
  }

  $command = "/usr/bin/calico-dhcp-agent --config-file ${configuration}"

  calico::service_job { 'calico-dhcp-agent':
    command => $command,
    before  => Service['calico-dhcp-agent'],
  }
  if $::calico_init == 'systemd' {
    file { '/etc/systemd/system/calico-dhcp-agent.service':
      ensure  => file,
      owner   => 'root',
      group   => 'root',
      mode    => '0644',
      content => template('calico/calico-dhcp-agent.service.erb'),
      notify  => [Exec['systemd reads calico-dhcp-agent again'], Service['calico-dhcp-agent']],
    }
    exec { 'systemd reads calico-dhcp-agent again':
      command     => '/bin/systemctl daemon-reload',
      refreshonly => true,
      before      => Service['calico-dhcp-agent'],
    }
  }

  package { $package:
    ensure => installed,
  }

  service { 'calico-dhcp-agent':
    ensure  => running,
    enable  => true,
    require => Package[$package],
  }

  Calico::Setting<| |> ~> Service['calico-dhcp-agent']
  Calico::Etcd_copied_file<| |> ~> Service['calico-dhcp-agent']
}
