# The nodes of the environment, in one shape for all releases of Fuel.
module PuppetX
  module Calico
    module Nodes
      # network_metadata: from 7.0 on; nodes: 6.1, one entry to a node and role. Sorted by uid.
      def self.list(network_metadata, nodes)
        described = (network_metadata || {})['nodes']
        found = if described.is_a?(Hash) && !described.empty?
                  described.map { |_, node| from_metadata(node) }
                else
                  from_list(nodes || [])
                end
        found.sort_by { |node| [node['uid'].to_i, node['name']] }
      end

      def self.from_metadata(node)
        roles = node['network_roles'] || {}
        management = roles['mgmt/vip'] || roles['management'] || roles['mgmt/corosync'] || roles['neutron/api']
        {
          'name' => node['name'].to_s,
          'fqdn' => node['fqdn'].to_s,
          'uid' => node['uid'].to_s,
          'roles' => Array(node['node_roles']),
          'management' => (management || roles['neutron/mesh']).to_s,
          'address' => (roles['neutron/mesh'] || management).to_s
        }
      end

      def self.from_list(nodes)
        by_uid = {}
        nodes.each do |node|
          entry = by_uid[node['uid'].to_s] ||= {
            'name' => node['name'].to_s,
            'fqdn' => node['fqdn'].to_s,
            'uid' => node['uid'].to_s,
            'roles' => [],
            'management' => node['internal_address'].to_s,
            'address' => (node['private_address'] || node['internal_address']).to_s
          }
          entry['roles'] |= [node['role'].to_s]
        end
        by_uid.values
      end

      def self.controller?(node)
        !(node['roles'] & %w[controller primary-controller]).empty?
      end

      def self.primary?(node)
        node['roles'].include?('primary-controller')
      end

      def self.compute?(node)
        node['roles'].include?('compute')
      end
    end
  end
end
