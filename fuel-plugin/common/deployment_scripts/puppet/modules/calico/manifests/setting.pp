# One value of an INI file; the title is SECTION/NAME.
#
# [*path*]   the file
# [*value*]  the value
# [*ensure*] present or absent
#
define calico::setting (
  $path,
  $value  = '',
  $ensure = present,
) {
  $words   = split($name, '/')
  $section = $words[0]
  $setting = $words[1]

  ini_setting { "${path} ${name}":
    ensure  => $ensure,
    path    => $path,
    section => $section,
    setting => $setting,
    value   => $value,
  }
}
