# After the reboot: the new kernel becomes the default, or the node ends in the state that the policy asks for.
#
# Parameters: see calico::kernel. Without the eBPF dataplane, the second half of taking everything back.
#
class calico::kernel_verify (
  $ensure_mode,
  $choice         = 'plugin',
  $failure_policy = 'iptables',
) {
  $script = '/usr/lib/calico-kernel/calico-kernel'

  Exec {
    path      => '/usr/sbin:/usr/bin:/sbin:/bin',
    timeout   => 500,
    logoutput => true,
  }

  if $ensure_mode {
    include calico::kernel_scripts
    $command = $choice ? {
      'keep'  => 'keep',
      default => 'verify',
    }
    exec { "calico-kernel ${command}":
      command => "${script} ${command} --policy ${failure_policy}",
      unless  => "${script} is-done ${command} --policy ${failure_policy}",
      require => Class['calico::kernel_scripts'],
    }
  } else {
    include calico::kernel_removal
  }
}
