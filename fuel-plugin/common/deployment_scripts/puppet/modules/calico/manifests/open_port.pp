# Opens a TCP port of this node. The rule is kept over a reboot by Fuel's module `firewall`.
#
# [*port*] the port's number
#
define calico::open_port (
  $port,
) {
  firewall { "410 calico ${name}":
    proto  => 'tcp',
    dport  => $port,
    action => 'accept',
  }
}
