require 'yaml'
require File.expand_path('../../../../puppet_x/calico/hiera_override', __FILE__)

module Puppet::Parser::Functions
  newfunction(:calico_hiera_override, :type => :rvalue, :doc => <<-DOC) do |arguments|
    Returns YAML for /etc/hiera: no Open vSwitch, and linux bridges instead of its own.

    Takes the network scheme, and whether the whole scheme is to be replaced (Fuel 6.1 and 7.0).
  DOC
    YAML.dump(PuppetX::Calico::HieraOverride.values(arguments[0], arguments[1]))
  end
end
