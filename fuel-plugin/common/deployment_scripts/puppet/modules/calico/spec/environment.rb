require 'rspec-puppet'
require 'openssl'

MODULE = File.expand_path('../..', __FILE__)
PUPPET = File.expand_path('../..', MODULE)
GOLDEN = File.expand_path('../golden', __FILE__)

RSpec.configure do |config|
  # stdlib, inifile and firewall: Fuel has them on every node, Debian in packages.
  config.module_path = [File.dirname(MODULE), '/usr/share/puppet/modules'].join(':')
  config.manifest_dir = File.join(PUPPET, 'manifests')
  config.environmentpath = '/nonexistent'
  config.strict_variables = true
  config.default_facts = {
    :osfamily => 'Debian', :operatingsystem => 'Ubuntu', :operatingsystemrelease => '14.04',
    :operatingsystemmajrelease => '14.04', :lsbdistcodename => 'trusty', :kernel => 'Linux',
    :architecture => 'amd64', :fqdn => 'node-4.domain.tld', :hostname => 'node-4',
    :calico_init => 'upstart', :calico_nova_host => 'node-4.domain.tld', :calico_ebpf_unavailable => 'none',
    :calico_dataplane_choice => 'none'
  }
end

# What Fuel gives: the section as it is in astute.yaml, and nodes.
module Environment
  def self.settings(changes = {})
    {
      'metadata' => { 'enabled' => true }, 'ebpf_mode' => true, 'kernel_choice' => 'plugin',
      'kernel_failure_policy' => 'iptables', 'as_number' => '4200000000', 'ippool_cidr' => '10.65.0.0/16',
      'ippool_gateway' => '10.65.0.1', 'workload_mtu' => '1500', 'bgp_topology' => 'reflectors',
      'enable_external_peering' => false, 'external_peers' => '', 'metadata_addr' => '127.0.0.1',
      'metadata_port' => '8775', 'etcd_endpoints' => '', 'etcd_tls' => false, 'etcd_ca' => '', 'etcd_cert' => '',
      'etcd_key' => '', 'log_level' => 'info', 'metrics_enabled' => false, 'metrics_port' => '9091'
    }.merge(changes)
  end

  # Three controllers (node-1 is the primary one) and two computes.
  def self.network_metadata
    roles = { 1 => 'primary-controller', 2 => 'controller', 3 => 'controller', 4 => 'compute', 5 => 'compute' }
    nodes = roles.map do |uid, role|
      ["node-#{uid}", {
        'name' => "node-#{uid}", 'fqdn' => "node-#{uid}.domain.tld", 'uid' => uid.to_s, 'node_roles' => [role],
        'network_roles' => { 'neutron/mesh' => "192.168.2.#{uid}", 'mgmt/vip' => "192.168.0.#{uid}" }
      }]
    end
    { 'nodes' => Hash[nodes] }
  end

  def self.facts(uid)
    { 'fqdn' => "node-#{uid}.domain.tld", 'network_metadata' => network_metadata, 'nodes' => [] }
  end
end

# An authority with a node's certificate, made for these tests.
class Authority
  attr_reader :key, :certificate

  def initialize(not_after = Time.now + 3600)
    @key = OpenSSL::PKey::RSA.new(2048)
    @certificate = sign('/CN=authority', @key, not_after)
  end

  def sign(name, key, not_after = Time.now + 3600)
    made = OpenSSL::X509::Certificate.new
    made.version = 2
    made.serial = rand(1 << 60)
    made.subject = OpenSSL::X509::Name.parse(name)
    made.issuer = OpenSSL::X509::Name.parse('/CN=authority')
    made.public_key = key.public_key
    made.not_before = Time.now - 7200
    made.not_after = not_after
    made.sign(@key, OpenSSL::Digest.new('SHA256'))
  end
end

# Compares text with a file; UPDATE_GOLDEN=1 writes it.
RSpec::Matchers.define :be_golden do |name|
  path = File.join(GOLDEN, name)
  match do |text|
    File.write(path, text) if ENV['UPDATE_GOLDEN']
    File.exist?(path) && File.read(path) == text
  end
  failure_message { |text| "differs from #{path} (UPDATE_GOLDEN=1 rewrites it):\n#{text}" }
end
