require File.expand_path('../settings', __FILE__)

# What one node gets: everything that the classes take, worked out of settings that have no problems.
module PuppetX
  module Calico
    class Plan
      # settings: a Settings; fqdn: the node's own name, one of the settings' nodes.
      def initialize(settings, fqdn)
        @settings = settings
        @nodes = settings.nodes
        @own = @nodes.find { |node| node['fqdn'] == fqdn || node['name'] == fqdn }
        raise ArgumentError, "#{fqdn} is none of the environment's nodes (#{names(@nodes)})" unless @own
      end

      # Returns values for the classes, by name.
      def to_hash
        @settings.values.reject { |name, _| %w[metadata].include?(name) }.merge(node).merge(bgp).merge(etcd)
      end

      private

      def node
        {
          'node_name' => @own['name'], 'node_fqdn' => @own['fqdn'], 'node_address' => @own['address'],
          'node_management' => @own['management'], 'is_controller' => Nodes.controller?(@own),
          'is_primary_controller' => Nodes.primary?(@own), 'is_compute' => Nodes.compute?(@own),
          'compute_count' => @nodes.count { |one| Nodes.compute?(one) }
        }
      end

      def bgp
        controllers, others = speakers.partition { |one| Nodes.controller?(one) }
        if @settings['bgp_topology'] == 'mesh'
          role = 'mesh'
          neighbors = speakers.map { |one| neighbor(one, 'mesh') }
        elsif Nodes.controller?(@own)
          role = 'reflector'
          neighbors = controllers.map { |one| neighbor(one, 'reflector') } + others.map { |one| neighbor(one, 'client') }
        else
          role = 'client'
          neighbors = controllers.map { |one| neighbor(one, 'reflector') }
        end
        {
          'bgp_role' => role,
          'bgp_neighbors' => neighbors.reject { |one| one['address'] == @own['address'] },
          # Only controllers speak with routers outside: that many sessions have to be set up there.
          'bgp_external_peers' => Nodes.controller?(@own) ? @settings.peers : []
        }
      end

      def etcd
        controllers = @nodes.select { |one| Nodes.controller?(one) }
        scheme = @settings['etcd_tls'] ? 'https' : 'http'
        members = controllers.map { |one| { 'name' => one['name'], 'address' => one['management'] } }
        primary = controllers.find { |one| Nodes.primary?(one) } || controllers.first
        endpoints = members.map { |one| "#{scheme}://#{one['address']}:2379" }
        endpoints = @settings.endpoints unless @settings.own_cluster?
        {
          'etcd_own' => @settings.own_cluster?, 'etcd_members' => members,
          'etcd_begins' => primary == @own, 'etcd_urls' => own_first(endpoints)
        }.merge(credentials)
      end

      # Which credentials for etcd there are, as paths; empty ones are none.
      def credentials
        files = { 'ca' => 'ca.crt', 'cert' => 'node.crt', 'key' => 'node.key' }
        own = @settings.own_cluster?
        used = files.select { |name, _| @settings['etcd_tls'] && (own || !@settings["etcd_#{name}"].empty?) }
        paths = files.map { |name, file| ["etcd_#{name}_path", used.key?(name) ? "/etc/calico/etcd/#{file}" : ''] }
        Hash[paths].merge('etcd_files' => used.values)
      end

      # A controller speaks with its own member first; the others begin at different ones.
      def own_first(endpoints)
        own = endpoints.index { |url| url =~ %r{//#{Regexp.escape(@own['management'])}:} }
        start = own || (@own['uid'].to_i % [endpoints.length, 1].max)
        endpoints.rotate(start)
      end

      def speakers
        @nodes.select { |one| Nodes.controller?(one) || Nodes.compute?(one) }
      end

      def neighbor(node, kind)
        { 'name' => node['name'], 'address' => node['address'], 'kind' => kind }
      end

      def names(nodes)
        nodes.map { |one| one['fqdn'] }.join(', ')
      end
    end
  end
end
