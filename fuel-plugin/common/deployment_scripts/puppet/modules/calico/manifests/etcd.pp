# A member of the plugin's etcd cluster, on a controller.
#
# [*node_name*]      the node's name
# [*address*]        the node's address in the management network
# [*members*]        all controllers: a list of name and address
# [*begin*]          whether this node may begin a cluster when no other member answers: the primary controller
# [*tls*]            whether clients and members speak TLS and show certificates
# [*limit*]          seconds to wait for a place and for health
# [*package*]        the package with etcd
# [*client_package*] the package with etcdctl
#
class calico::etcd (
  $node_name,
  $address,
  $members,
  $begin,
  $tls            = false,
  $limit          = 300,
  $package        = 'etcd-server',
  $client_package = 'etcd-client',
) {
  $data    = '/var/lib/etcd/calico'
  $initial = '/etc/calico/etcd-initial'
  $member  = '/usr/lib/calico/etcd/etcd-member'
  $timeout = $limit + 60
  $may     = $begin ? {
    true    => 'yes',
    default => 'no',
  }
  $scheme  = $tls ? {
    true    => 'https',
    default => 'http',
  }
  $flags   = $tls ? {
    true    => '--cacert=/etc/calico/etcd/ca.crt --cert=/etc/calico/etcd/node.crt --key=/etc/calico/etcd/node.key',
    default => '',
  }
  $own     = "${scheme}://${address}:2379"
  $peer    = "${scheme}://${address}:2380"
  $peers   = inline_template('<%= @members.map { |m| "#{@scheme}://#{m["address"]}:2380" }.join(" ") %>')
  $others  = inline_template('<%= @members.map { |m| m["address"] }.reject { |a| a == @address }.map { |a| "#{@scheme}://#{a}:2379" }.join(" ") %>')

  Exec {
    path        => '/usr/sbin:/usr/bin:/sbin:/bin',
    environment => ["CALICO_ETCDCTL=${flags}", "CALICO_LIMIT=${limit}"],
    timeout     => $timeout,
    logoutput   => on_failure,
  }

  calico::open_port { 'etcd clients':
    port => '2379',
  }
  calico::open_port { 'etcd members':
    port => '2380',
  }

  if !defined(Class['calico::etcd_scripts']) {
    class { 'calico::etcd_scripts': }
  }

  # As the package would make it, but before: what is below belongs to it when the package starts etcd for the first time.
  group { 'etcd':
    ensure => present,
    system => true,
  }
  user { 'etcd':
    ensure  => present,
    system  => true,
    gid     => 'etcd',
    home    => '/var/lib/etcd',
    shell   => '/usr/sbin/nologin',
    require => Group['etcd'],
  }
  file { ['/var/lib/etcd', $data]:
    ensure => directory,
    owner  => 'etcd',
    group  => 'etcd',
    mode   => '0700',
  }

  if $tls {
    calico::etcd_copy { 'etcd':
      directory => '/etc/calico-etcd-server',
      user      => 'etcd',
      group     => 'etcd',
      require   => User['etcd'],
      before    => Package[$package],
    }
    Calico::Etcd_copied_file<| |> ~> Service['etcd']
  }

  file { '/etc/default/etcd':
    ensure  => file,
    owner   => 'root',
    group   => 'root',
    mode    => '0644',
    content => template('calico/etcd.erb'),
  }

  if $::calico_init == 'systemd' {
    file { '/etc/systemd/system/etcd.service.d':
      ensure => directory,
      owner  => 'root',
      group  => 'root',
      mode   => '0755',
    }
    file { '/etc/systemd/system/etcd.service.d/calico.conf':
      ensure  => file,
      owner   => 'root',
      group   => 'root',
      mode    => '0644',
      content => "[Service]\nEnvironmentFile=-${initial}\n",
      notify  => Exec['systemd reads etcd again'],
    }
    exec { 'systemd reads etcd again':
      command     => 'systemctl daemon-reload',
      refreshonly => true,
      before      => Package[$package],
    }
  }
  calico::service_job { 'etcd':
    command     => 'start-stop-daemon --start --chuid etcd --exec /usr/bin/etcd',
    environment => ['/etc/default/etcd', $initial],
    before      => Package[$package],
  }

  package { $client_package:
    ensure => installed,
  }

  exec { 'place in the etcd cluster':
    command => "${member} place ${data} ${initial} ${node_name} ${peer} ${may} ${others}",
    creates => "${data}/member",
    require => [Class['calico::etcd_scripts'], Package[$client_package], File[$data], Calico::Open_port['etcd members']],
  }

  package { $package:
    ensure  => installed,
    require => [Exec['place in the etcd cluster'], File['/etc/default/etcd']],
  }

  service { 'etcd':
    ensure    => running,
    enable    => true,
    require   => Package[$package],
    subscribe => File['/etc/default/etcd'],
  }

  exec { 'etcd is healthy':
    command => "${member} healthy ${node_name} ${own}",
    unless  => "env CALICO_LIMIT=0 ${member} healthy ${node_name} ${own}",
    require => Service['etcd'],
  }

  # One place decides who is a member: the controller that began.
  if $begin {
    exec { 'former controllers leave etcd':
      command     => "${member} prune ${peers}",
      onlyif      => "${member} stale ${peers} | grep -q .",
      environment => ["CALICO_ETCDCTL=${flags} --endpoints=${own}"],
      require     => Exec['etcd is healthy'],
    }
  }
}
