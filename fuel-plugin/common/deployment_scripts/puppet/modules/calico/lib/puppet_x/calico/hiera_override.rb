# What the tasks of Fuel have to know: linux bridges everywhere, no Open vSwitch.
module PuppetX
  module Calico
    module HieraOverride
      # Returns the values for /etc/hiera. 6.1 and 7.0 take the network scheme from one place, as a whole; later releases
      # merge it, lists too, and know a transformation that changes another one.
      def self.values(network_scheme, whole)
        scheme = network_scheme || {}
        transformations = scheme['transformations'] || []
        of_ovs = transformations.select { |one| one['provider'] == 'ovs' }
        override = { 'use_ovs' => false }
        return override if of_ovs.empty?
        override['network_scheme'] = whole ? replaced(scheme, transformations) : added(of_ovs)
        override
      end

      def self.replaced(scheme, transformations)
        bridged = transformations.map do |one|
          one['provider'] == 'ovs' ? one.merge('provider' => 'lnx') : one
        end
        scheme.merge('transformations' => bridged)
      end

      def self.added(of_ovs)
        changes = of_ovs.map do |one|
          { 'action' => 'override', 'override' => name_of(one), 'provider' => 'lnx' }
        end
        { 'transformations' => changes }
      end

      # A patch between bridges has no name of its own: l23network makes it of the bridges.
      def self.name_of(transformation)
        return transformation['name'] if transformation['name']
        bridges = Array(transformation['bridges']).sort
        "patch__#{bridges.join('--')}"
      end
    end
  end
end
