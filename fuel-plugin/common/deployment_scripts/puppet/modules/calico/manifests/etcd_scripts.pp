# The scripts around etcd, in /usr/lib/calico/etcd.
#
class calico::etcd_scripts {
  if !defined(File['/usr/lib/calico']) {
    file { '/usr/lib/calico':
      ensure => directory,
      owner  => 'root',
      group  => 'root',
      mode   => '0755',
    }
  }

  file { '/usr/lib/calico/etcd':
    ensure  => directory,
    owner   => 'root',
    group   => 'root',
    mode    => '0755',
    recurse => true,
    source  => 'puppet:///modules/calico/etcd',
  }
}
