# The job of a service whose package brings none for this node's init: on Ubuntu 14.04 that is upstart.
#
# [*command*]     what upstart runs in the foreground
# [*environment*] files of variables that are read before
# [*prepare*]     a line of shell that runs before, or false
#
define calico::service_job (
  $command,
  $environment = [],
  $prepare     = false,
) {
  if $::calico_init == 'upstart' {
    file { "/etc/init/${name}.conf":
      ensure  => file,
      owner   => 'root',
      group   => 'root',
      mode    => '0644',
      content => template('calico/upstart.conf.erb'),
    }
  }
}
