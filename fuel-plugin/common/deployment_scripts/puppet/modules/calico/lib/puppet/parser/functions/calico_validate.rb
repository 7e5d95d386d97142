require File.expand_path('../../../../puppet_x/calico/settings', __FILE__)

module Puppet::Parser::Functions
  newfunction(:calico_validate, :doc => <<-DOC) do |arguments|
    Checks the plugin's settings and fails before anything is changed, with one line for each problem: setting, node, cure.

    Takes the settings, and what the node knows: a hash of `fqdn`, `network_metadata` (Fuel 7.0 and later) and `nodes`
    (Fuel 6.1).
  DOC
    complaints = PuppetX::Calico::Settings.complaints(arguments[0], arguments[1])
    raise Puppet::ParseError, complaints.join("\n") unless complaints.empty?
  end
end
