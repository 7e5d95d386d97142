# A node without the eBPF dataplane is as one that never had it; while it still runs the package's kernel, the old one
# is made the default and the rest waits for a reboot.
#
class calico::kernel_removal {
  $script = '/usr/lib/calico-kernel/calico-kernel'

  Exec {
    path      => '/usr/sbin:/usr/bin:/sbin:/bin',
    timeout   => 600,
    logoutput => true,
  }

  exec { 'calico-kernel remove':
    command => "${script} remove",
    onlyif  => "test -x ${script}",
    unless  => "${script} is-done remove",
  }
  exec { 'remove the scripts of the kernel':
    command => 'rm -rf /usr/lib/calico-kernel',
    onlyif  => "test -x ${script} && ${script} is-done remove && test ! -d /var/lib/calico-kernel",
    require => Exec['calico-kernel remove'],
  }
}
