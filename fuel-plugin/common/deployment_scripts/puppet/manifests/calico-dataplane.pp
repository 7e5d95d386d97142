# The dataplane of a compute node: the eBPF agent, or Felix.
notice('MODULAR: fuel-plugin-calico/calico-dataplane.pp')

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
    before    => Class['calico::dataplane'],
  }
}

$home = calico_home()

class { 'calico::dataplane':
  ebpf_mode       => $plan['ebpf_mode'],
  failure_policy  => $plan['kernel_failure_policy'],
  unavailable     => $::calico_ebpf_unavailable,
  choice          => $::calico_dataplane_choice,
  node_name       => $plan['node_name'],
  hostname        => $::calico_nova_host,
  etcd_urls       => $plan['etcd_urls'],
  etcd_ca         => $plan['etcd_ca_path'],
  etcd_cert       => $plan['etcd_cert_path'],
  etcd_key        => $plan['etcd_key_path'],
  metadata_addr   => $plan['metadata_addr'],
  metadata_port   => $plan['metadata_port'],
  log_level       => $plan['log_level'],
  metrics_enabled => $plan['metrics_enabled'],
  metrics_port    => $plan['metrics_port'],
  manifest        => "${home}/manifests/calico-dataplane.pp",
  modulepath      => "${home}/modules:/etc/puppet/modules",
}
