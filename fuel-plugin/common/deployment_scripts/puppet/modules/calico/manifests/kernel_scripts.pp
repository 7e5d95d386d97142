# The scripts that bring a node to the kernel and back.
#
class calico::kernel_scripts {
  file { '/usr/lib/calico-kernel':
    ensure  => directory,
    owner   => 'root',
    group   => 'root',
    mode    => '0755',
    source  => 'puppet:///modules/calico/kernel',
    recurse => true,
    purge   => true,
  }
}
