# BGP: route reflector, client, or one of a mesh.
notice('MODULAR: fuel-plugin-calico/calico-bird.pp')

$settings = hiera_hash('fuel-plugin-calico', {})
$node     = {
  'fqdn'             => hiera('fqdn', $::fqdn),
  'network_metadata' => hiera_hash('network_metadata', {}),
  'nodes'            => hiera('nodes', []),
}
$plan     = calico_plan($settings, $node)

class { 'calico::bird':
  role           => $plan['bgp_role'],
  as_number      => $plan['as_number'],
  address        => $plan['node_address'],
  neighbors      => $plan['bgp_neighbors'],
  external_peers => $plan['bgp_external_peers'],
  pool           => $plan['ippool_cidr'],
}
