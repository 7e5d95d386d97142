# Applies what is not ordered in random order: Puppet 3 has an order of its own, and only what the classes say may count.
require 'puppet'
require 'puppet/graph'

class Puppet::Graph::SequentialPrioritizer
  def generate_priority_for(key)
    priority_of(key) || record_priority_for(key, Puppet::Graph::Key.new([rand(1_000_000)]))
  end

  def generate_priority_contained_in(_container, key)
    generate_priority_for(key)
  end
end
