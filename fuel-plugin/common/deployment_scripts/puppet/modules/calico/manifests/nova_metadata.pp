# What Nova needs on a compute node whose VMs have routed taps: libvirt that opens them, no bridges, and the metadata
# service, which the dataplane leads VMs to.
#
# [*address*] where the service listens: metadata_addr, or none for no service
# [*port*]    its port
# [*mtu*]     MTU of the taps
# [*package*] the package with the service
# [*compute*] Nova's service for VMs
# [*configuration*] nova.conf
# [*qemu*]    libvirt's qemu.conf
#
class calico::nova_metadata (
  $address       = '127.0.0.1',
  $port          = '8775',
  $mtu           = '1500',
  $package       = 'nova-api-metadata',
  $compute       = 'nova-compute',
  $configuration = '/etc/nova/nova.conf',
  $qemu          = '/etc/libvirt/qemu.conf',
) {
  Calico::Setting {
    path => $configuration,
  }

  if $address != 'none' {
    package { $package:
      ensure => installed,
      before => Calico::Setting['DEFAULT/enabled_apis', 'DEFAULT/metadata_listen', 'DEFAULT/metadata_listen_port'],
    }
    calico::setting { 'DEFAULT/enabled_apis':
      value => 'metadata',
    }
    calico::setting { 'DEFAULT/metadata_listen':
      value => $address,
    }
    calico::setting { 'DEFAULT/metadata_listen_port':
      value => $port,
    }
    # Neutron's proxy would sign requests; VMs come here directly.
    calico::setting { 'neutron/service_metadata_proxy':
      value => 'False',
    }
    service { $package:
      ensure  => running,
      enable  => true,
      require => Package[$package],
    }
    Calico::Setting<| |> ~> Service[$package]
  }

  # Bridges of the drivers before Neutron's own.
  calico::setting { ['DEFAULT/linuxnet_interface_driver', 'DEFAULT/linuxnet_ovs_integration_bridge', 'neutron/ovs_bridge']:
    ensure => absent,
  }
  calico::setting { 'DEFAULT/network_device_mtu':
    value => $mtu,
  }

  # QEMU opens the tap by itself, which libvirt would take the right from.
  file_line { 'qemu keeps its capabilities':
    path  => $qemu,
    line  => 'clear_emulator_capabilities = 0',
    match => '^#?\s*clear_emulator_capabilities\s*=',
  }
  file_line { 'qemu may open taps':
    path  => $qemu,
    line  => 'cgroup_device_acl = ["/dev/null", "/dev/full", "/dev/zero", "/dev/random", "/dev/urandom", "/dev/ptmx", "/dev/kvm", "/dev/kqemu", "/dev/rtc", "/dev/hpet", "/dev/net/tun"]',
    match => '^cgroup_device_acl\s*=',
  }

  # Its dnsmasq would answer VMs.
  exec { 'no default network of libvirt':
    command  => '{ virsh net-destroy default || true; } && virsh net-undefine default',
    onlyif   => 'command -v virsh && virsh net-info default',
    path     => '/usr/sbin:/usr/bin:/sbin:/bin',
    provider => shell,
  }

  exec { 'libvirt and Nova read their files again':
    command     => "{ service libvirtd restart || service libvirt-bin restart; } && service ${compute} restart",
    path        => '/usr/sbin:/usr/bin:/sbin:/bin',
    provider    => shell,
    refreshonly => true,
    onlyif      => "service ${compute} status",
    subscribe   => [File_line['qemu keeps its capabilities'], File_line['qemu may open taps']],
  }
}
