# A controller's member of the etcd cluster; nothing with an etcd of the operator's.
notice('MODULAR: fuel-plugin-calico/calico-etcd.pp')

$settings = hiera_hash('fuel-plugin-calico', {})
$node     = {
  'fqdn'             => hiera('fqdn', $::fqdn),
  'network_metadata' => hiera_hash('network_metadata', {}),
  'nodes'            => hiera('nodes', []),
}
$plan     = calico_plan($settings, $node)

if $plan['etcd_own'] {
  if $plan['etcd_tls'] {
    class { 'calico::etcd_credentials':
      node_name => $plan['node_name'],
      address   => $plan['node_management'],
      before    => Class['calico::etcd'],
    }
  }

  class { 'calico::etcd':
    node_name => $plan['node_name'],
    address   => $plan['node_management'],
    members   => $plan['etcd_members'],
    begin     => $plan['etcd_begins'],
    tls       => $plan['etcd_tls'],
  }
}
