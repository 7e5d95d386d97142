require File.expand_path('../address', __FILE__)

# The setting etcd_endpoints: URLs, separated by commas or blanks.
module PuppetX
  module Calico
    module Endpoints
      LABEL = '[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?'.freeze
      URL = %r{\A(https?)://(#{LABEL}(?:\.#{LABEL})*):([1-9][0-9]{0,4})/?\z}

      # Returns the URLs without a slash at the end.
      def self.parse(text)
        text.split(/[\s,]+/).reject(&:empty?).map { |url| url.chomp('/') }
      end

      # Returns a list of [setting, what is wrong, cure].
      def self.problems(text, tls)
        parse(text).map { |url| wrong(url, tls) }.compact
      end

      def self.wrong(url, tls)
        match = URL.match(url)
        host = match && match[2]
        digits = host && host =~ /\A[0-9.]+\z/
        if match.nil? || match[3].to_i > 65_535 || (digits && Address.number(host).nil?)
          ['etcd_endpoints', "#{url.inspect} is no URL of etcd", 'write it as http://192.0.2.10:2379']
        elsif tls != (match[1] == 'https')
          tls_says = tls ? 'set' : 'clear'
          cure = tls ? 'write https://' : 'set etcd_tls, or write http://'
          ['etcd_endpoints', "#{url.inspect} does not fit etcd_tls, which is #{tls_says}", cure]
        end
      end
    end
  end
end
