# DHCP for the VMs of a compute node.
notice('MODULAR: fuel-plugin-calico/calico-dhcp-agent.pp')

$settings = hiera_hash('fuel-plugin-calico', {})
$node     = {
  'fqdn'             => hiera('fqdn', $::fqdn),
  'network_metadata' => hiera_hash('network_metadata', {}),
  'nodes'            => hiera('nodes', []),
}
$plan     = calico_plan($settings, $node)

if $plan['etcd_tls'] {
  class { 'calico::etcd_credentials':
    node_name => $plan['node_name'],
    address   => $plan['node_management'],
    own       => $plan['etcd_own'],
    ca        => $plan['etcd_ca'],
    cert      => $plan['etcd_cert'],
    node_key  => $plan['etcd_key'],
    before    => Class['calico::dhcp_agent'],
  }
}

class { 'calico::dhcp_agent':
  etcd_url   => $plan['etcd_urls'][0],
  etcd_tls   => $plan['etcd_tls'],
  etcd_files => $plan['etcd_files'],
}
