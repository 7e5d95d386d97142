# The kernel that the eBPF dataplane needs: installed, and booted once at the next reboot. The one that runs stays the
# default until calico::kernel_verify has seen the new one.
#
# Stops the deployment where virtual machines run, since a reboot is next.
#
# [*ensure_mode*]    whether this node is to have the eBPF dataplane; if not, everything is taken back
# [*choice*]         plugin, or keep: the kernel that runs is judged and nothing is installed
# [*failure_policy*] what a failure ends in: iptables leaves /etc/calico/ebpf-unavailable, fail fails
# [*version*]        of the package calico-ebpf-kernel, or installed
#
class calico::kernel (
  $ensure_mode,
  $choice         = 'plugin',
  $failure_policy = 'iptables',
  $version        = 'installed',
) {
  $script = '/usr/lib/calico-kernel/calico-kernel'
  $pinned = $version ? {
    'installed' => '',
    default     => " --version ${version}",
  }

  Exec {
    path      => '/usr/sbin:/usr/bin:/sbin:/bin',
    timeout   => 1500,
    logoutput => true,
  }

  if $ensure_mode {
    include calico::kernel_scripts
    $command = $choice ? {
      'keep'  => 'keep',
      default => 'try',
    }
    exec { "calico-kernel ${command}":
      command => "${script} ${command} --policy ${failure_policy}${pinned}",
      unless  => "${script} is-done ${command} --policy ${failure_policy}",
      require => Class['calico::kernel_scripts'],
    }
  } else {
    include calico::kernel_removal
  }
}
