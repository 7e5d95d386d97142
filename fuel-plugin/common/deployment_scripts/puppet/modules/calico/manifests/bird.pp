# BIRD 1.6: takes the routes of this host's workloads to the other hosts and brings theirs here.
#
# [*role*]           reflector, client or mesh
# [*as_number*]      the cloud's AS number, 32 bit
# [*address*]        this node's address; also its router id
# [*neighbors*]      nodes to speak with: a list of name, address, kind (reflector, client, mesh)
# [*external_peers*] routers outside: a list of name, as, address
# [*pool*]           the network of the workloads
# [*package*]        the package with BIRD
#
class calico::bird (
  $role,
  $as_number,
  $address,
  $neighbors,
  $pool,
  $external_peers = [],
  $package = 'bird',
) {
  if !($role in ['reflector', 'client', 'mesh']) {
    fail("calico::bird: role ${role}, expected reflector, client or mesh")
  }

  calico::open_port { 'bgp':
    port => '179',
  }

  # Owner and mode are the package's: on Debian its scripts give both to BIRD's user.
  file { '/etc/bird':
    ensure => directory,
  }

  file { '/etc/bird/bird.conf':
    ensure  => file,
    content => template('calico/bird.conf.erb'),
  }

  # Before the package, whose scripts may start what they find.
  calico::service_job { 'bird':
    command => '/usr/sbin/bird -f',
    prepare => 'mkdir -p /run/bird && /usr/sbin/bird -p',
  }

  package { $package:
    ensure  => installed,
    require => [File['/etc/bird/bird.conf'], Calico::Service_job['bird']],
  }

  # A new configuration keeps the sessions that it does not change.
  service { 'bird':
    ensure     => running,
    enable     => true,
    hasstatus  => true,
    hasrestart => true,
    restart    => '/usr/sbin/bird -p && /usr/sbin/birdc configure',
    require    => Package[$package],
    subscribe  => File['/etc/bird/bird.conf'],
  }
}
