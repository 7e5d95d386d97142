require File.expand_path('../address', __FILE__)

# The setting external_peers: lines of name:asn:address.
module PuppetX
  module Calico
    module Peers
      NAME = /\A[a-z0-9][a-z0-9-]{0,30}\z/

      # Returns the peers of a text that has no problems.
      def self.parse(text)
        text.split.map do |line|
          name, number, address = line.split(':', 3)
          { 'name' => name, 'as' => number, 'address' => address }
        end
      end

      # Returns a list of [setting, what is wrong, cure].
      def self.problems(text, nodes, pool)
        found = []
        peers = text.split.map { |line| [line, line.split(':', -1)] }
        peers.each { |line, fields| found.concat(wrong_line(line, fields, nodes, pool)) }
        [[0, 'name'], [2, 'address']].each do |index, what|
          all = peers.map { |_, fields| fields[index] }.compact
          all.select { |one| all.count(one) > 1 }.uniq.each do |one|
            found << problem("has the #{what} #{one.inspect} twice", 'keep one of the lines')
          end
        end
        found
      end

      def self.wrong_line(line, fields, nodes, pool)
        return [problem("#{line.inspect} is not name:asn:address", 'write it as edge-1:65001:192.0.2.1')] unless fields.length == 3
        name, as_number, address = fields
        found = []
        found << problem("#{line.inspect}: the name has to be of small letters, digits and dashes, at most 31", 'rename it') unless name =~ NAME
        unless as_number =~ /\A[1-9][0-9]{0,9}\z/ && as_number.to_i <= 4_294_967_295
          found << problem("#{line.inspect}: the AS number has to be from 1 to 4294967295", 'correct it')
        end
        found + wrong_address(line, address, nodes, pool)
      end

      def self.wrong_address(line, address, nodes, pool)
        number = Address.number(address)
        unless number && Address.unicast?(number)
          return [problem("#{line.inspect}: #{address.inspect} is no router's IPv4 address", 'correct it')]
        end
        node = nodes.find { |one| [one['address'], one['management']].include?(address) }
        if node
          [problem("#{line.inspect}: #{address} is the node #{node['name']} itself", 'name the router outside')]
        elsif pool && pool.include?(number)
          [problem("#{line.inspect}: #{address} is in ippool_cidr #{pool}, which is for VMs", 'name the router outside')]
        else
          []
        end
      end

      def self.problem(what, cure)
        ['external_peers', what, cure]
      end
    end
  end
end
