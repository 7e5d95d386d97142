# Neutron's server with the Calico driver: routed networks, no L2 and no L3 agents.
#
# [*etcd_url*]      the endpoint for the driver, see calico::neutron_etcd
# [*compute_count*] computes: each runs a DHCP agent, and each network needs all of them
# [*mtu*]           MTU of the VMs
# [*etcd_tls*], [*etcd_files*] see calico::neutron_etcd
# [*package*]       the package with the driver
# [*service*]       Neutron's service
# [*configuration*], [*ml2*] Neutron's files
#
class calico::neutron_server (
  $etcd_url,
  $compute_count,
  $mtu           = '1500',
  $etcd_tls      = false,
  $etcd_files    = [],
  $package       = 'networking-calico',
  $service       = 'neutron-server',
  $configuration = '/etc/neutron/neutron.conf',
  $ml2           = '/etc/neutron/plugins/ml2/ml2_conf.ini',
) {
  # Neutron refuses 0; the first compute comes with a run of this again.
  $agents = inline_template('<%= [@compute_count.to_i, 1].max %>')

  package { $package:
    ensure => installed,
  }

  class { 'calico::neutron_etcd':
    url           => $etcd_url,
    tls           => $etcd_tls,
    files         => $etcd_files,
    configuration => $configuration,
  }

  Calico::Setting {
    path    => $configuration,
    require => Package[$package],
  }

  calico::setting { 'DEFAULT/core_plugin':
    value => 'neutron.plugins.ml2.plugin.Ml2Plugin',
  }
  # The router plugin would offer what nothing here does.
  calico::setting { 'DEFAULT/service_plugins':
    value => '',
  }
  calico::setting { 'DEFAULT/allow_overlapping_ips':
    value => 'False',
  }
  # The driver keeps what it knows in one process.
  calico::setting { ['DEFAULT/api_workers', 'DEFAULT/rpc_workers']:
    value => '0',
  }
  # Liveness is written every 30 s.
  calico::setting { 'DEFAULT/agent_down_time':
    value => '60',
  }
  calico::setting { 'DEFAULT/dhcp_agents_per_network':
    value => $agents,
  }
  calico::setting { ['DEFAULT/l3_ha', 'DEFAULT/router_distributed', 'DEFAULT/allow_automatic_l3agent_failover']:
    value => 'False',
  }
  calico::setting { 'DEFAULT/global_physnet_mtu':
    value => $mtu,
  }
  calico::setting { 'DEFAULT/advertise_mtu':
    value => 'True',
  }

  calico::setting { 'ml2/type_drivers':
    path  => $ml2,
    value => 'local,flat',
  }
  calico::setting { 'ml2/tenant_network_types':
    path  => $ml2,
    value => 'local',
  }
  calico::setting { 'ml2/mechanism_drivers':
    path  => $ml2,
    value => 'calico',
  }
  calico::setting { 'ml2/extension_drivers':
    path  => $ml2,
    value => 'port_security',
  }
  calico::setting { 'ml2/path_mtu':
    path  => $ml2,
    value => $mtu,
  }
  calico::setting { 'securitygroup/enable_security_group':
    path  => $ml2,
    value => 'True',
  }

  service { $service:
    ensure  => running,
    enable  => true,
    require => Package[$package],
  }

  Calico::Setting<| |> ~> Service[$service]
  Calico::Etcd_copied_file<| |> ~> Service[$service]
}
