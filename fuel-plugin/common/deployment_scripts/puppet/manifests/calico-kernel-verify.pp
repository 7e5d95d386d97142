# Makes the kernel that the node came back with the default, or says why not.
notice('MODULAR: fuel-plugin-calico/calico-kernel-verify.pp')

$settings = hiera_hash('fuel-plugin-calico', {})
$node     = {
  'fqdn'             => hiera('fqdn', $::fqdn),
  'network_metadata' => hiera_hash('network_metadata', {}),
  'nodes'            => hiera('nodes', []),
}
$plan     = calico_plan($settings, $node)

class { 'calico::kernel_verify':
  ensure_mode    => $plan['ebpf_mode'],
  choice         => $plan['kernel_choice'],
  failure_policy => $plan['kernel_failure_policy'],
}
