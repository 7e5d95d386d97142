# What the Neutron driver and calico-dhcp-agent read about etcd: section [calico] of neutron.conf.
#
# networking-calico takes one endpoint only: the first.
#
# [*url*]           the endpoint
# [*tls*]           whether credentials of /etc/calico/etcd are to be shown
# [*files*]         which of ca.crt, node.crt and node.key there are
# [*configuration*] neutron.conf
#
class calico::neutron_etcd (
  $url,
  $tls           = false,
  $files         = [],
  $configuration = '/etc/neutron/neutron.conf',
) {
  $host = regsubst($url, '^https?://(.*):[0-9]+$', '\1')
  $port = regsubst($url, '^.*:([0-9]+)$', '\1')

  Calico::Setting {
    path => $configuration,
  }

  calico::setting { 'calico/etcd_host':
    value => $host,
  }
  calico::setting { 'calico/etcd_port':
    value => $port,
  }

  $directory = '/etc/neutron/calico-etcd'

  if $tls {
    calico::etcd_copy { 'neutron':
      directory => $directory,
      user      => 'neutron',
      group     => 'neutron',
      files     => $files,
    }
  }

  if $tls and ('ca.crt' in $files) {
    calico::setting { 'calico/etcd_ca_cert_file':
      value => "${directory}/ca.crt",
    }
  } else {
    calico::setting { 'calico/etcd_ca_cert_file':
      ensure => absent,
    }
  }
  if $tls and ('node.crt' in $files) {
    calico::setting { 'calico/etcd_cert_file':
      value => "${directory}/node.crt",
    }
    calico::setting { 'calico/etcd_key_file':
      value => "${directory}/node.key",
    }
  } else {
    calico::setting { ['calico/etcd_cert_file', 'calico/etcd_key_file']:
      ensure => absent,
    }
  }
}
