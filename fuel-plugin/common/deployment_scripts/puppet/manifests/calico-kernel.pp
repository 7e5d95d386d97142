# Installs the kernel and lets the node boot it once, or takes it away.
notice('MODULAR: fuel-plugin-calico/calico-kernel.pp')

$settings = hiera_hash('fuel-plugin-calico', {})
$node     = {
  'fqdn'             => hiera('fqdn', $::fqdn),
  'network_metadata' => hiera_hash('network_metadata', {}),
  'nodes'            => hiera('nodes', []),
}
$plan     = calico_plan($settings, $node)

class { 'calico::kernel':
  ensure_mode    => $plan['ebpf_mode'],
  choice         => $plan['kernel_choice'],
  failure_policy => $plan['kernel_failure_policy'],
}
