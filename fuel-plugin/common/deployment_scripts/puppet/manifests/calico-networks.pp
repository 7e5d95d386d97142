# The shared network of the VMs.
notice('MODULAR: fuel-plugin-calico/calico-networks.pp')

$settings = hiera_hash('fuel-plugin-calico', {})
$node     = {
  'fqdn'             => hiera('fqdn', $::fqdn),
  'network_metadata' => hiera_hash('network_metadata', {}),
  'nodes'            => hiera('nodes', []),
}
$plan     = calico_plan($settings, $node)

class { 'calico::networks':
  cidr      => $plan['ippool_cidr'],
  gateway   => $plan['ippool_gateway'],
  node_name => $plan['node_name'],
}
