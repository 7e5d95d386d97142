require 'net/http'
require 'openssl'
require 'timeout'
require 'uri'

# Asks etcd whether it is well, with a limit of time.
module PuppetX
  module Calico
    module EtcdProbe
      # Returns nil when one of the URLs answers as a healthy etcd, else what each of them did.
      # tls: PEM texts by 'ca', 'cert' and 'key'; empty ones are not used.
      def self.failure(urls, tls, seconds)
        failures = []
        urls.each do |url|
          reason = ask(url, tls, seconds)
          return nil if reason.nil?
          failures << "#{url}: #{reason}"
        end
        failures.join('; ')
      end

      def self.ask(url, tls, seconds)
        uri = URI.parse(url)
        http = Net::HTTP.new(uri.host, uri.port, nil)
        http.open_timeout = seconds
        http.read_timeout = seconds
        secure(http, tls) if uri.scheme == 'https'
        answer = Timeout.timeout(seconds) { http.start { |open| open.get('/health') } }
        judge(answer)
      rescue Timeout::Error
        "no answer within #{seconds} s"
      rescue SystemCallError, SocketError, IOError, OpenSSL::SSL::SSLError, Net::ProtocolError, Net::HTTPBadResponse => error
        error.message
      end

      # etcd says health as text, older ones as a boolean.
      def self.judge(answer)
        return nil if answer.body =~ /"health"\s*:\s*"?true"?/
        "answers #{answer.code}, but is not healthy or not etcd"
      end

      def self.secure(http, tls)
        http.use_ssl = true
        http.verify_mode = OpenSSL::SSL::VERIFY_PEER
        store = OpenSSL::X509::Store.new
        if tls['ca'].to_s.empty?
          store.set_default_paths
        else
          tls['ca'].scan(/-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----/m).each do |pem|
            store.add_cert(OpenSSL::X509::Certificate.new(pem))
          end
        end
        http.cert_store = store
        return if tls['cert'].to_s.empty?
        http.cert = OpenSSL::X509::Certificate.new(tls['cert'])
        http.key = OpenSSL::PKey.read(tls['key'], '')
      end
    end
  end
end
