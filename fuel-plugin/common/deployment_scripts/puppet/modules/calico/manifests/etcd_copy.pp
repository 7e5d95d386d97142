# A copy of this node's credentials for etcd that a service's user can read.
#
# [*directory*] where to
# [*user*]      the service's user
# [*group*]     the service's group
# [*files*]     which of ca.crt, node.crt and node.key there are
#
define calico::etcd_copy (
  $directory,
  $user,
  $group,
  $files = ['ca.crt', 'node.crt', 'node.key'],
) {
  file { $directory:
    ensure => directory,
    owner  => 'root',
    group  => $group,
    mode   => '0750',
  }

  calico::etcd_copied_file { $files:
    directory => $directory,
    user      => $user,
    group     => $group,
  }
}
