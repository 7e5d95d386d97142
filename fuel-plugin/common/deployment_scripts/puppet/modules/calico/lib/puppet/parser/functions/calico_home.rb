module Puppet::Parser::Functions
  newfunction(:calico_home, :type => :rvalue, :doc => <<-DOC) do |_arguments|
    Returns the folder that holds this module's `modules` and the `manifests`, as an absolute path: Fuel gives Puppet
    relative ones.
  DOC
    File.expand_path('../../../../../../..', __FILE__)
  end
end
