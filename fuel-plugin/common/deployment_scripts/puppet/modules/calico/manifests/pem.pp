# A file with a PEM text of a setting; none when that is empty.
#
# [*text*] the setting
#
define calico::pem (
  $text,
) {
  $present = $text ? {
    ''      => absent,
    default => file,
  }

  file { $name:
    ensure    => $present,
    mode      => '0600',
    owner     => 'root',
    group     => 'root',
    content   => "${text}\n",
    show_diff => false,
  }
}
