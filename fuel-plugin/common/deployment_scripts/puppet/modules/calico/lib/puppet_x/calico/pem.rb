require 'openssl'

# What is wrong with the three PEM settings, as "setting, problem, cure".
module PuppetX
  module Calico
    module Pem
      CERTIFICATE = /-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----/m

      # Returns a list of [setting, what is wrong, cure].
      def self.problems(authority, certificate, key, now)
        found = []
        authorities = certificates('etcd_ca', authority, found)
        own = certificates('etcd_cert', certificate, found)
        private_key = read_key(key, found)
        if !authority.empty? && authorities.empty? && found.empty?
          found << ['etcd_ca', 'holds no certificate', 'paste the PEM of the authority, with its BEGIN and END lines']
        end
        if certificate.empty? != key.empty?
          absent = certificate.empty? ? 'etcd_cert' : 'etcd_key'
          found << [absent, 'is empty, but the other one is not', 'paste both certificate and key, or neither']
        end
        if private_key && own.first && !own.first.check_private_key(private_key)
          found << ['etcd_key', 'is not the key of etcd_cert', 'paste the key that the certificate was made with']
        end
        { 'etcd_ca' => authorities, 'etcd_cert' => own }.each do |setting, list|
          list.each { |one| found.concat(validity(setting, one, now)) }
        end
        found
      end

      def self.validity(setting, certificate, now)
        name = certificate.subject.to_s
        if certificate.not_after < now
          [[setting, "has expired on #{certificate.not_after.utc} (#{name})", 'paste one that is valid']]
        elsif certificate.not_before > now
          [[setting, "is not valid before #{certificate.not_before.utc} (#{name})", 'correct the clock, or paste one that is valid']]
        else
          []
        end
      end

      def self.certificates(setting, text, found)
        return [] if text.empty?
        blocks = text.scan(CERTIFICATE)
        if blocks.empty?
          found << [setting, 'is no PEM: there is no BEGIN CERTIFICATE line with its END', 'paste the whole file']
        end
        blocks.map { |block| OpenSSL::X509::Certificate.new(block) }
      rescue OpenSSL::X509::CertificateError => error
        found << [setting, "is no certificate (#{error.message})", 'paste the whole file, unchanged']
        []
      end

      def self.read_key(text, found)
        return nil if text.empty?
        if text !~ /-----BEGIN [A-Z ]*PRIVATE KEY-----.+-----END [A-Z ]*PRIVATE KEY-----/m
          found << ['etcd_key', 'is no PEM: there is no BEGIN ... PRIVATE KEY line with its END', 'paste the whole file']
          return nil
        end
        # A password, so that OpenSSL does not ask the terminal for one.
        OpenSSL::PKey.read(text, '')
      rescue OpenSSL::PKey::PKeyError, ArgumentError => error
        found << ['etcd_key', "is no key that can be read without a password (#{error.message})", 'paste the key without a password']
        nil
      end
    end
  end
end
