# What changes over between the dataplanes: the scripts of the classes, and the operator's command.
#
# [*manifest*]   the manifest that the operator's command applies
# [*modulepath*] where Puppet finds modules for it
#
class calico::dataplane_scripts (
  $manifest,
  $modulepath,
) {
  File {
    owner => 'root',
    group => 'root',
    mode  => '0755',
  }

  if !defined(File['/usr/lib/calico']) {
    file { '/usr/lib/calico':
      ensure => directory,
    }
  }
  file { '/usr/lib/calico/dataplane':
    ensure => directory,
  }
  file { '/usr/lib/calico/dataplane/handover':
    ensure => file,
    source => 'puppet:///modules/calico/dataplane/handover',
  }
  file { '/etc/calico/dataplane-switch.conf':
    ensure  => file,
    mode    => '0644',
    content => "# Written by Puppet (calico::dataplane_scripts).\nmanifest='${manifest}'\nmodulepath='${modulepath}'\n",
    require => File['/etc/calico'],
  }
  file { '/usr/sbin/calico-dataplane-switch':
    ensure => file,
    source => 'puppet:///modules/calico/dataplane/calico-dataplane-switch',
  }
}
