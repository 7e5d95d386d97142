# /etc/calico/felix.cfg, which the agent and Felix both read.
#
# [*hostname*]        the name under which Nova binds ports to this host
# [*etcd_urls*]       etcd's endpoints, in the order in which to try them
# [*etcd_ca*], [*etcd_cert*], [*etcd_key*] paths; empty ones are left out
# [*metadata_addr*], [*metadata_port*] where nova-api-metadata listens on this host; `none` for no metadata
# [*log_level*]       debug, info, warning, error
# [*log_file*]        a path, or none
# [*metrics_enabled*], [*metrics_port*] Prometheus
#
class calico::felix_cfg (
  $hostname,
  $etcd_urls,
  $etcd_ca         = '',
  $etcd_cert       = '',
  $etcd_key        = '',
  $metadata_addr   = '127.0.0.1',
  $metadata_port   = '8775',
  $log_level       = 'info',
  $log_file        = 'none',
  $metrics_enabled = false,
  $metrics_port    = '9091',
) {
  if !defined(File['/etc/calico']) {
    file { '/etc/calico':
      ensure => directory,
      owner  => 'root',
      group  => 'root',
      mode   => '0755',
    }
  }

  file { '/etc/calico/felix.cfg':
    ensure  => file,
    owner   => 'root',
    group   => 'root',
    mode    => '0644',
    content => template('calico/felix.cfg.erb'),
  }
}
