# IPv4 addresses and networks, as text that is read strictly and as numbers that are compared.
module PuppetX
  module Calico
    module Address
      # Returns the address as a number, or nil: four decimal parts without leading zeros.
      def self.number(text)
        parts = text.to_s.split('.', -1)
        return nil unless parts.length == 4
        parts.inject(0) do |sum, part|
          return nil unless part =~ /\A(0|[1-9][0-9]{0,2})\z/ && part.to_i <= 255
          sum * 256 + part.to_i
        end
      end

      def self.text(number)
        [24, 16, 8, 0].map { |shift| (number >> shift) & 255 }.join('.')
      end

      # Tells whether one host can have the address: not 0/8, loopback, link-local, multicast or above.
      def self.unicast?(number)
        first = number >> 24
        first != 0 && first != 127 && first < 224 && (number >> 16) != 0xa9fe
      end

      # A network: first and last number, and its length.
      class Network
        attr_reader :first, :last, :length

        # Returns the network, or nil when the text is none. Host bits are kept apart: see +host_bits?+.
        def self.parse(text)
          address, length, rest = text.to_s.split('/', -1)
          number = Address.number(address)
          return nil unless number && rest.nil? && length =~ /\A(0|[1-9][0-9]?)\z/ && length.to_i <= 32
          new(number, length.to_i)
        end

        def initialize(number, length)
          @given = number
          @length = length
          size = 1 << (32 - length)
          @first = number - number % size
          @last = @first + size - 1
        end

        def host_bits?
          @given != @first
        end

        def include?(number)
          number >= @first && number <= @last
        end

        # Tells whether a host can have the number: the first and the last one are the network's own.
        def host?(number)
          number > @first && number < @last
        end

        def to_s
          "#{Address.text(@first)}/#{@length}"
        end
      end
    end
  end
end
