# Checks every setting again and that an etcd of the operator's can be reached; changes nothing.
notice('MODULAR: fuel-plugin-calico/calico-settings-check.pp')

$settings = hiera_hash('fuel-plugin-calico', {})
$node     = {
  'fqdn'             => hiera('fqdn', $::fqdn),
  'network_metadata' => hiera_hash('network_metadata', {}),
  'nodes'            => hiera('nodes', []),
}

class { 'calico::settings_check':
  settings => $settings,
  node     => $node,
}

$plan = calico_plan($settings, $node)

if !$plan['etcd_own'] {
  $tls = {
    'ca'   => $plan['etcd_ca'],
    'cert' => $plan['etcd_cert'],
    'key'  => $plan['etcd_key'],
  }
  calico_etcd_answers($plan['etcd_urls'], $tls, 10, $plan['node_name'])
}
