require File.expand_path('../../../../puppet_x/calico/plan', __FILE__)

module Puppet::Parser::Functions
  newfunction(:calico_plan, :type => :rvalue, :doc => <<-DOC) do |arguments|
    Returns what this node gets: the values that the classes take, by name.

    Takes the same as `calico_validate`, and fails as that does.
  DOC
    given, facts = arguments
    complaints = PuppetX::Calico::Settings.complaints(given, facts)
    raise Puppet::ParseError, complaints.join("\n") unless complaints.empty?
    nodes = PuppetX::Calico::Nodes.list(facts['network_metadata'], facts['nodes'])
    begin
      PuppetX::Calico::Plan.new(PuppetX::Calico::Settings.new(given, nodes), facts['fqdn']).to_hash
    rescue ArgumentError => error
      raise Puppet::ParseError, "node #{facts['fqdn']}: #{error.message}; cure: deploy the node again with Fuel"
    end
  end
end
