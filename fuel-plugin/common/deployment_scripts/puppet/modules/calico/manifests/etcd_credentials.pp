# What this node shows to etcd and checks etcd by, in /etc/calico/etcd: ca.crt, node.crt, node.key.
#
# With an etcd of the operator's they are what was given as settings. With the cluster of the plugin each node makes its
# own, signed with a key that Fuel has made for this environment and copied to all of its nodes.
#
# [*node_name*] the node's name
# [*address*]   the node's address in the management network
# [*own*]       whether the cluster is the plugin's
# [*key*]       the environment's key; for the plugin's own cluster
# [*ca*], [*cert*], [*node_key*] PEM texts; for another one. All may be empty.
#
class calico::etcd_credentials (
  $node_name,
  $address,
  $own      = true,
  $key      = '/var/lib/astute/neutron/neutron',
  $ca       = '',
  $cert     = '',
  $node_key = '',
) {
  $directory = '/etc/calico/etcd'

  File {
    owner => 'root',
    group => 'root',
  }

  if !defined(File['/etc/calico']) {
    file { '/etc/calico':
      ensure => directory,
      mode   => '0755',
    }
  }

  file { $directory:
    ensure => directory,
    mode   => '0700',
  }

  if $own {
    $scripts = '/usr/lib/calico/etcd'

    if !defined(Class['calico::etcd_scripts']) {
      class { 'calico::etcd_scripts': }
    }

    exec { 'certificate for etcd':
      command => "${scripts}/issue-certificate ${key} ${directory} ${node_name} ${address}",
      unless  => "${scripts}/certificate-is-good ${key} ${directory} ${node_name} ${address}",
      path    => '/usr/sbin:/usr/bin:/sbin:/bin',
      require => [Class['calico::etcd_scripts'], File[$directory]],
    }
  } else {
    calico::pem { "${directory}/ca.crt":
      text => $ca,
    }
    calico::pem { "${directory}/node.crt":
      text => $cert,
    }
    calico::pem { "${directory}/node.key":
      text => $node_key,
    }
  }
}
