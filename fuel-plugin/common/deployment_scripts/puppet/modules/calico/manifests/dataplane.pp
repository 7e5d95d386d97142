# The dataplane of a compute node: the eBPF agent or Felix, never both for longer than the change-over takes.
#
# Felix also where eBPF was asked for, but the kernel did not come up and kernel_failure_policy is iptables; and what the
# operator chose with calico-dataplane-switch counts more than the setting.
#
# [*ebpf_mode*]      the setting: the eBPF agent
# [*failure_policy*] the setting: what to do without a kernel for it, iptables or fail
# [*unavailable*]    why eBPF cannot be used here, or none
# [*choice*]         the operator's choice: ebpf, iptables or none
# [*node_name*]      the node's name, for messages
# [*manifest*], [*modulepath*] for the operator's command
# The rest: see calico::felix_cfg.
#
class calico::dataplane (
  $ebpf_mode,
  $node_name,
  $hostname,
  $etcd_urls,
  $manifest,
  $modulepath,
  $failure_policy  = 'iptables',
  $unavailable     = 'none',
  $choice          = 'none',
  $etcd_ca         = '',
  $etcd_cert       = '',
  $etcd_key        = '',
  $metadata_addr   = '127.0.0.1',
  $metadata_port   = '8775',
  $log_level       = 'info',
  $metrics_enabled = false,
  $metrics_port    = '9091',
  $felix_package   = 'calico-felix',
  $agent_package   = 'calico-ebpf',
  $agent_version   = 'installed',
) {
  $setting = $ebpf_mode ? {
    true    => 'ebpf',
    default => 'iptables',
  }
  $wanted = $choice ? {
    'ebpf'     => 'ebpf',
    'iptables' => 'iptables',
    default    => $setting,
  }
  if $wanted == 'ebpf' and $unavailable != 'none' {
    if $failure_policy == 'fail' {
      fail("setting kernel_failure_policy, node ${node_name}: no eBPF dataplane (${unavailable}); cure: see /etc/calico/ebpf-unavailable, or choose iptables")
    }
    notice("node ${node_name} gets Felix instead of eBPF: ${unavailable}")
    $dataplane = 'iptables'
  } else {
    $dataplane = $wanted
  }
  if $wanted != $setting {
    notice("node ${node_name}: ${wanted} was chosen with calico-dataplane-switch, the setting is ${setting}")
  }
  $log_file = $dataplane ? {
    'ebpf'  => 'none',
    default => '/var/log/calico/felix.log',
  }

  class { 'calico::dataplane_scripts':
    manifest   => $manifest,
    modulepath => $modulepath,
  }

  class { 'calico::felix_cfg':
    hostname        => $hostname,
    etcd_urls       => $etcd_urls,
    etcd_ca         => $etcd_ca,
    etcd_cert       => $etcd_cert,
    etcd_key        => $etcd_key,
    metadata_addr   => $metadata_addr,
    metadata_port   => $metadata_port,
    log_level       => $log_level,
    log_file        => $log_file,
    metrics_enabled => $metrics_enabled,
    metrics_port    => $metrics_port,
  }

  # Whoever waits for this class waits for these.
  contain calico::dataplane_scripts
  contain calico::felix_cfg

  file { '/etc/calico/dataplane.setting':
    ensure  => file,
    owner   => 'root',
    group   => 'root',
    mode    => '0644',
    content => "${setting}\n",
  }

  if $dataplane == 'ebpf' {
    class { 'calico::agent':
      node_name => $node_name,
      package => $agent_package,
      version => $agent_version,
      felix   => $felix_package,
    }
    contain calico::agent
  } else {
    class { 'calico::felix':
      node_name => $node_name,
      package => $felix_package,
      agent   => $agent_package,
    }
    contain calico::felix
  }
}
