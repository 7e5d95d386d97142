# What puppet3.rb has to find: one to a line, and nothing in the other lines. Not part of the plugin.
class examples (
  String $typed = 'a', # wrong
  $plain        = undef,
) {
  $list = ['a', 'b']
  $list.each |$one| { notice($one) } # wrong
  each($list) |$one| { notice($one) } # wrong
  $value = if $plain { 1 } else { 2 } # wrong
  $family = $facts['os'] # wrong
  unless $plain { notice('a') } else { notice('b') } # wrong
  unless $plain { notice('a') }
  $more = $list + ['c'] # wrong
  file { '/a': * => {} } # wrong
  if $plain =~ Integer { notice('a') } # wrong
  [$first, $second] = $list # wrong
  $last = $list[-1] # wrong
  $found = lookup('a') # wrong
  $deep = hiera('a')['b'] # wrong
  $chosen = ($plain == 'a') ? { true => 1, default => 2 } # wrong
  $hash = { 'a' => { 'b' => 1 } }
  $inner = $hash['a']['b']
  service { "a-${hash['a']}":
    ensure => $plain ? { 'a' => running, default => stopped },
  }
  File['/a'] -> Service['b']
  if ($plain == 'a') or !($plain in $list) {
    notice('a')
  } elsif $inner > 1 {
    notice(template('a/b.erb'))
  }
  Exec <| title == 'a' |>
  create_resources('file', $hash)
}
