# One file of calico::etcd_copy; its title is its name.
#
# [*directory*] where to
# [*user*]      the service's user
# [*group*]     the service's group
#
define calico::etcd_copied_file (
  $directory,
  $user,
  $group,
) {
  file { "${directory}/${name}":
    ensure    => file,
    source    => "/etc/calico/etcd/${name}",
    owner     => $user,
    group     => $group,
    mode      => '0400',
    show_diff => false,
    require   => Class['calico::etcd_credentials'],
  }
}
