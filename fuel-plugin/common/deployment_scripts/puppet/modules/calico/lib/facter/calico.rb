require 'socket'

# What starts services here: upstart on Ubuntu 14.04, else systemd.
Facter.add(:calico_init) do
  setcode { File.directory?('/run/systemd/system') ? 'systemd' : 'upstart' }
end

# The name under which Nova binds ports to this host: Felix's host name must be the same one.
Facter.add(:calico_nova_host) do
  setcode do
    configuration = File.readable?('/etc/nova/nova.conf') ? File.read('/etc/nova/nova.conf') : ''
    default = configuration[/^\[DEFAULT\]$(.*?)(?=^\[|\z)/m, 1].to_s
    default[/^host\s*=\s*(\S+)/, 1] || Socket.gethostname
  end
end

# Why eBPF cannot be used here, in one line; `none` when it can.
Facter.add(:calico_ebpf_unavailable) do
  setcode do
    marker = '/etc/calico/ebpf-unavailable'
    File.readable?(marker) ? (File.read(marker).lines.first || 'no reason given').strip : 'none'
  end
end

# The dataplane that the operator chose with calico-dataplane-switch; `none` when the setting counts.
Facter.add(:calico_dataplane_choice) do
  setcode do
    choice = '/etc/calico/dataplane.choice'
    File.readable?(choice) ? File.read(choice).strip : 'none'
  end
end
