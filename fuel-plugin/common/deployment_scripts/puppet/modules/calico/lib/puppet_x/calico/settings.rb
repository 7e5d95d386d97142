require File.expand_path('../address', __FILE__)
require File.expand_path('../peers', __FILE__)
require File.expand_path('../endpoints', __FILE__)
require File.expand_path('../pem', __FILE__)
require File.expand_path('../nodes', __FILE__)

# The settings of the plugin's section, checked again on the node: what no expression in the web interface can see.
module PuppetX
  module Calico
    # Holds the settings of one environment and the nodes that they are for.
    class Settings
      SECTION = 'fuel-plugin-calico'.freeze

      DEFAULTS = {
        'ebpf_mode' => true, 'kernel_choice' => 'plugin', 'kernel_failure_policy' => 'iptables',
        'as_number' => '64512', 'ippool_cidr' => '10.65.0.0/16', 'ippool_gateway' => '10.65.0.1',
        'workload_mtu' => '1500', 'bgp_topology' => 'reflectors', 'enable_external_peering' => false,
        'external_peers' => '', 'metadata_addr' => '127.0.0.1', 'metadata_port' => '8775',
        'etcd_endpoints' => '', 'etcd_tls' => false, 'etcd_ca' => '', 'etcd_cert' => '', 'etcd_key' => '',
        'log_level' => 'info', 'metrics_enabled' => false, 'metrics_port' => '9091'
      }.freeze

      CHOICES = {
        'kernel_choice' => %w[plugin keep], 'kernel_failure_policy' => %w[iptables fail],
        'bgp_topology' => %w[reflectors mesh], 'log_level' => %w[debug info warning error]
      }.freeze

      CHECKBOXES = %w[ebpf_mode enable_external_peering etcd_tls metrics_enabled].freeze

      # Numbers, by the least and the greatest that makes sense. They end up as text in files, so they are kept as text.
      RANGES = {
        'as_number' => [1, 4_294_967_295], 'workload_mtu' => [1280, 9000],
        'metadata_port' => [1, 65_535], 'metrics_port' => [1, 65_535]
      }.freeze

      attr_reader :values, :nodes

      # given: the section as hiera has it; nodes: see Nodes.list; now: for certificates.
      def initialize(given, nodes, now = Time.now)
        @values = DEFAULTS.merge((given || {}).reject { |_, value| value.nil? || value == :undef })
        @values.each { |name, value| @values[name] = value.strip if value.is_a?(String) }
        CHECKBOXES.each { |name| @values[name] = @values[name] == 'true' if %w[true false].include?(@values[name]) }
        @nodes = nodes
        @now = now
      end

      def [](name)
        @values[name]
      end

      # Returns one line for each problem, with setting, node and cure.
      def self.complaints(given, facts)
        unless given.is_a?(Hash) && !given.empty?
          return ["setting #{SECTION}, node #{facts['fqdn']}: hiera has nothing of it; cure: enable the plugin on the Settings tab"]
        end
        nodes = Nodes.list(facts['network_metadata'], facts['nodes'])
        new(given, nodes).problems.map do |setting, problem, cure|
          "setting #{setting}, node #{facts['fqdn']}: #{problem}; cure: #{cure}"
        end
      end

      # Returns what is wrong: a list of [setting, what is wrong, cure].
      def problems
        simple = wrong_checkboxes + wrong_choices + wrong_numbers
        simple + wrong_pool + wrong_metadata + wrong_ports + wrong_peers + wrong_etcd + wrong_roles
      end

      def pool
        Address::Network.parse(@values['ippool_cidr'])
      end

      def peers
        @values['enable_external_peering'] ? Peers.parse(@values['external_peers']) : []
      end

      def endpoints
        Endpoints.parse(@values['etcd_endpoints'])
      end

      def own_cluster?
        @values['etcd_endpoints'].empty?
      end

      private

      def wrong_checkboxes
        CHECKBOXES.reject { |name| [true, false].include?(@values[name]) }.map do |name|
          [name, "is #{@values[name].inspect}, expected true or false", 'set the checkbox again']
        end
      end

      def wrong_choices
        CHOICES.reject { |name, choices| choices.include?(@values[name]) }.map do |name, choices|
          [name, "is #{@values[name].inspect}, expected one of #{choices.join(', ')}", 'choose one of them']
        end
      end

      def wrong_numbers
        bad = RANGES.reject do |name, (least, greatest)|
          @values[name].to_s =~ /\A(0|[1-9][0-9]*)\z/ && @values[name].to_i.between?(least, greatest)
        end
        bad.map do |name, (least, greatest)|
          [name, "is #{@values[name].to_s.inspect}, expected a number from #{least} to #{greatest}", 'correct it']
        end
      end

      def wrong_pool
        network = pool
        return [['ippool_cidr', "is #{@values['ippool_cidr'].inspect}, expected a network such as 10.65.0.0/16", 'correct it']] unless network
        if network.host_bits?
          return [['ippool_cidr', "is #{@values['ippool_cidr'].inspect}, an address and not a network", "write #{network}"]]
        end
        unless network.length.between?(8, 29) && Address.unicast?(network.first) && Address.unicast?(network.last)
          return [['ippool_cidr', "is #{network}, expected a network from /8 to /29 of ordinary addresses", 'take another one']]
        end
        inside = @nodes.map { |node| [node, Address.number(node['address'])] }
        inside = inside.select { |_, number| number && network.include?(number) }
        found = inside.map do |node, number|
          ['ippool_cidr', "#{network} contains #{Address.text(number)}, the address of #{node['name']}", 'take a network that no node is in']
        end
        found + wrong_gateway(network)
      end

      def wrong_gateway(network)
        number = Address.number(@values['ippool_gateway'])
        if number.nil?
          [['ippool_gateway', "is #{@values['ippool_gateway'].inspect}, expected an address such as 10.65.0.1", 'correct it']]
        elsif !network.host?(number)
          [['ippool_gateway', "#{@values['ippool_gateway']} is no host's address of ippool_cidr #{network}",
            "take one of it, such as #{Address.text(network.first + 1)}"]]
        else
          []
        end
      end

      def wrong_metadata
        text = @values['metadata_addr']
        return [] if text == 'none' || Address.number(text)
        [['metadata_addr', "is #{text.inspect}, expected an IPv4 address or none", 'write 127.0.0.1 for the service on the node itself']]
      end

      # Ports that a node already uses for something else.
      def wrong_ports
        taken = { 'metadata_port' => @values['metadata_port'].to_i }
        taken['metrics_port'] = @values['metrics_port'].to_i if @values['metrics_enabled']
        used = { 22 => 'SSH', 179 => 'BGP', 2379 => 'etcd', 2380 => 'etcd' }
        found = taken.select { |_, port| used.key?(port) }.map do |name, port|
          [name, "#{port} is the port of #{used[port]}", 'take another one']
        end
        if taken['metrics_port'] == taken['metadata_port']
          found << ['metrics_port', "#{taken['metrics_port']} is metadata_port, too", 'take another one']
        end
        found
      end

      def wrong_peers
        return [] unless @values['enable_external_peering']
        found = Peers.problems(@values['external_peers'], @nodes, pool)
        if @values['external_peers'].empty?
          found << ['external_peers', 'is empty, but enable_external_peering is set', 'name a peer as name:asn:address, or clear enable_external_peering']
        end
        found
      end

      def wrong_etcd
        return [] if own_cluster?
        found = Endpoints.problems(@values['etcd_endpoints'], @values['etcd_tls'])
        found += Pem.problems(@values['etcd_ca'], @values['etcd_cert'], @values['etcd_key'], @now) if @values['etcd_tls']
        found
      end

      def wrong_roles
        return [] if @nodes.empty? || @nodes.any? { |node| Nodes.controller?(node) }
        [['bgp_topology', 'needs a controller, and this environment has none', 'add a controller']]
      end
    end
  end
end
