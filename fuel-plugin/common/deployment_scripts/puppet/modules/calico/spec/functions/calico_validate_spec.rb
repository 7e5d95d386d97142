require File.expand_path('../../environment', __FILE__)

describe 'calico_validate' do
  def complaint(changes, node = 4)
    given = changes.is_a?(Hash) ? Environment.settings(changes) : changes
    scope.call_function('calico_validate', [given, Environment.facts(node)])
    nil
  rescue Puppet::Error => error
    error.message
  end

  it 'takes the defaults' do
    expect(complaint({})).to be_nil
  end

  it 'takes the greatest values' do
    expect(complaint('as_number' => '4294967295', 'workload_mtu' => '9000', 'metadata_addr' => 'none')).to be_nil
  end

  it 'takes peers, endpoints and other choices' do
    changes = {
      'enable_external_peering' => true, 'external_peers' => "edge-1:65001:203.0.113.1\r\n edge-2:1:203.0.113.2\n",
      'etcd_endpoints' => 'http://192.0.2.1:2379, http://etcd.example.org:4001/', 'bgp_topology' => 'mesh'
    }
    expect(complaint(changes)).to be_nil
  end

  it 'leaves out what a clear checkbox hides' do
    expect(complaint('external_peers' => 'nonsense', 'etcd_ca' => 'nonsense')).to be_nil
  end

  # Setting, its bad value (with others where they matter), what the line says.
  {
    'as_number' => [
      ['0', 'from 1 to 4294967295'], ['4294967296', 'from 1 to'], ['', 'from 1 to'], ['1.10', 'from 1 to'],
      ["64512\n1", 'from 1 to'], ['-1', 'from 1 to']
    ],
    'workload_mtu' => [['1279', 'from 1280 to 9000'], ['9001', 'from 1280'], ['large', 'from 1280']],
    'metadata_port' => [['0', 'from 1 to 65535'], ['65536', 'from 1'], ['179', 'port of BGP']],
    'ippool_cidr' => [
      ['10.65.0.0', 'expected a network'], ['10.65.0.1/16', 'an address and not a network; cure: write 10.65.0.0/16'], ['10.65.0.0/33', 'expected a network'],
      ['10.65.0.0/30', 'from /8 to /29'], ['224.0.0.0/8', 'ordinary addresses'], ['127.0.0.0/8', 'ordinary addresses'],
      ['192.168.2.0/24', 'contains 192.168.2.1, the address of node-1'], ['10.065.0.0/16', 'expected a network'],
      ['10.65.0.0/16/8', 'expected a network'], ['fd00::/64', 'expected a network']
    ],
    'ippool_gateway' => [
      ['10.66.0.1', 'no host\'s address of ippool_cidr 10.65.0.0/16'], ['10.65.0.0', 'no host\'s address'],
      ['10.65.255.255', 'no host\'s address'], ['10.65.0', 'expected an address'], ['', 'expected an address']
    ],
    'bgp_topology' => [['star', 'reflectors, mesh']],
    'kernel_choice' => [['mainline', 'plugin, keep']],
    'kernel_failure_policy' => [['', 'iptables, fail']],
    'log_level' => [['trace', 'debug, info, warning, error']],
    'ebpf_mode' => [['yes', 'true or false']],
    'metadata_addr' => [['localhost', 'expected an IPv4 address'], ['127.0.0.256', 'expected an IPv4 address']]
  }.each do |setting, cases|
    cases.each do |value, says|
      it "refuses #{setting} #{value.inspect}" do
        message = complaint(setting => value)
        expect(message).to match(/setting #{setting}, node node-4\.domain\.tld: (?=.*; cure: .).*#{Regexp.escape(says)}/)
      end
    end
  end

  {
    'edge' => 'not name:asn:address', 'edge:1' => 'not name:asn:address', 'edge:1:203.0.113.1:x' => 'not name:asn:address',
    'Edge:1:203.0.113.1' => 'small letters', 'edge:0:203.0.113.1' => 'from 1 to 4294967295',
    'edge:4294967296:203.0.113.1' => 'from 1 to 4294967295', 'edge:1:203.0.113' => 'no router', 'edge:1:127.0.0.1' => 'no router',
    'edge:1:224.0.0.1' => 'no router', 'edge:1:192.168.2.4' => 'is the node node-4 itself',
    'edge:1:192.168.0.1' => 'is the node node-1 itself', 'edge:1:10.65.3.4' => 'is for VMs',
    "edge:1:203.0.113.1\nedge:1:203.0.113.2" => 'name "edge" twice',
    "a:1:203.0.113.1\nb:1:203.0.113.1" => 'address "203.0.113.1" twice', '' => 'is empty'
  }.each do |peers, says|
    it "refuses the peers #{peers.inspect}" do
      message = complaint('enable_external_peering' => true, 'external_peers' => peers)
      expect(message).to match(/\Asetting external_peers, node node-4\.domain\.tld: .*#{Regexp.escape(says)}.*; cure: ./)
    end
  end

  {
    'ftp://192.0.2.1:2379' => 'no URL', '192.0.2.1:2379' => 'no URL', 'http://192.0.2.1' => 'no URL',
    'http://192.0.2.1:0' => 'no URL', 'http://192.0.2.1:65536' => 'no URL', 'http://192.0.2.256:2379' => 'no URL',
    'http://user@192.0.2.1:2379' => 'no URL', 'http://192.0.2.1:2379/v2' => 'no URL', 'http://-a:2379' => 'no URL',
    'http://a..b:2379' => 'no URL', 'https://192.0.2.1:2379' => 'etcd_tls, which is clear'
  }.each do |endpoints, says|
    it "refuses the endpoints #{endpoints.inspect}" do
      message = complaint('etcd_endpoints' => endpoints)
      expect(message).to match(/\Asetting etcd_endpoints, node node-4\.domain\.tld: .*#{Regexp.escape(says)}.*; cure: ./)
    end
  end

  it 'refuses endpoints without TLS when that is set' do
    expect(complaint('etcd_endpoints' => 'http://192.0.2.1:2379', 'etcd_tls' => true)).to include('write https://')
  end

  it 'refuses a metrics port that is the metadata port' do
    expect(complaint('metrics_enabled' => true, 'metrics_port' => '8775')).to include('is metadata_port, too')
  end

  it 'refuses an environment without a controller' do
    facts = { 'fqdn' => 'node-4', 'network_metadata' => { 'nodes' => { 'node-4' => Environment.network_metadata['nodes']['node-4'] } } }
    expect { scope.call_function('calico_validate', [Environment.settings, facts]) }.to raise_error(/needs a controller/)
  end

  it 'refuses a section that is not there' do
    expect(complaint(nil)).to include('enable the plugin on the Settings tab')
  end

  it 'tells each problem in a line of its own' do
    expect(complaint('as_number' => '0', 'workload_mtu' => '1').lines.count).to eq(2)
  end

  describe 'with PEM texts' do
    let(:authority) { Authority.new }
    let(:key) { OpenSSL::PKey::RSA.new(2048) }
    let(:certificate) { authority.sign('/CN=node', key) }

    def tls(changes)
      own = {
        'etcd_endpoints' => 'https://192.0.2.1:2379', 'etcd_tls' => true, 'etcd_ca' => authority.certificate.to_pem,
        'etcd_cert' => certificate.to_pem, 'etcd_key' => key.to_pem
      }
      complaint(own.merge(changes))
    end

    it 'takes an authority, a certificate and its key' do
      expect(tls({})).to be_nil
    end

    it 'takes an authority alone, or nothing' do
      expect(tls('etcd_cert' => '', 'etcd_key' => '')).to be_nil
      expect(tls('etcd_ca' => '', 'etcd_cert' => '', 'etcd_key' => '')).to be_nil
    end

    it 'refuses text that is no PEM' do
      expect(tls('etcd_ca' => 'nonsense')).to match(/setting etcd_ca, .*is no PEM/)
      expect(tls('etcd_key' => 'nonsense')).to match(/setting etcd_key, .*is no PEM/)
    end

    it 'refuses PEM that is no certificate' do
      broken = certificate.to_pem.lines.to_a
      broken.delete_at(3)
      expect(tls('etcd_cert' => broken.join)).to match(/setting etcd_cert, .*is no certificate/)
    end

    it 'refuses a certificate without its key' do
      expect(tls('etcd_key' => '')).to match(/setting etcd_key, .*is empty, but the other one is not/)
    end

    it 'refuses the key of another certificate' do
      expect(tls('etcd_key' => OpenSSL::PKey::RSA.new(2048).to_pem)).to match(/setting etcd_key, .*not the key of etcd_cert/)
    end

    it 'refuses a key with a password' do
      locked = key.to_pem(OpenSSL::Cipher.new('aes-128-cbc'), 'secret')
      expect(tls('etcd_key' => locked)).to match(/setting etcd_key, .*without a password/)
    end

    it 'refuses a certificate that has expired' do
      old = Authority.new(Time.now - 60)
      expect(tls('etcd_ca' => old.certificate.to_pem)).to match(/setting etcd_ca, .*has expired/)
    end

    it 'does not repeat a key in its message' do
      expect(tls('etcd_key' => 'S3cr3tNonsense')).not_to include('S3cr3tNonsense')
    end
  end
end
