# Nova without bridges, and its metadata service, on a compute node.
notice('MODULAR: fuel-plugin-calico/calico-nova-metadata.pp')

$settings = hiera_hash('fuel-plugin-calico', {})
$node     = {
  'fqdn'             => hiera('fqdn', $::fqdn),
  'network_metadata' => hiera_hash('network_metadata', {}),
  'nodes'            => hiera('nodes', []),
}
$plan     = calico_plan($settings, $node)

class { 'calico::nova_metadata':
  address => $plan['metadata_addr'],
  port    => $plan['metadata_port'],
  mtu     => $plan['workload_mtu'],
}
