require File.expand_path('../../environment', __FILE__)

describe 'calico_plan' do
  def plan(uid, changes = {})
    scope.call_function('calico_plan', [Environment.settings(changes), Environment.facts(uid)])
  end

  def addresses(plan, kind)
    plan['bgp_neighbors'].select { |one| one['kind'] == kind }.map { |one| one['address'] }
  end

  it 'makes controllers reflectors of each other and of the computes' do
    expect(plan(2)['bgp_role']).to eq('reflector')
    expect(addresses(plan(2), 'reflector')).to eq(%w[192.168.2.1 192.168.2.3])
    expect(addresses(plan(2), 'client')).to eq(%w[192.168.2.4 192.168.2.5])
  end

  it 'makes computes clients of all controllers' do
    expect(plan(4)['bgp_role']).to eq('client')
    expect(addresses(plan(4), 'reflector')).to eq(%w[192.168.2.1 192.168.2.2 192.168.2.3])
  end

  it 'lets all speak with all in a mesh' do
    mesh = plan(4, 'bgp_topology' => 'mesh')
    expect(mesh['bgp_role']).to eq('mesh')
    expect(addresses(mesh, 'mesh')).to eq(%w[192.168.2.1 192.168.2.2 192.168.2.3 192.168.2.5])
  end

  it 'lets controllers alone speak with routers outside' do
    peering = { 'enable_external_peering' => true, 'external_peers' => 'edge:65001:203.0.113.1' }
    peer = { 'name' => 'edge', 'as' => '65001', 'address' => '203.0.113.1' }
    expect(plan(1, peering)['bgp_external_peers']).to eq([peer])
    expect(plan(4, peering)['bgp_external_peers']).to eq([])
  end

  it 'makes controllers members of etcd, and the primary one begin' do
    expect(plan(1)['etcd_members'].map { |one| one['address'] }).to eq(%w[192.168.0.1 192.168.0.2 192.168.0.3])
    expect([1, 2, 4].map { |uid| plan(uid)['etcd_begins'] }).to eq([true, false, false])
  end

  it 'begins with the own member on a controller, with different ones on computes' do
    expect(plan(2)['etcd_urls'].first).to eq('http://192.168.0.2:2379')
    expect([4, 5].map { |uid| plan(uid)['etcd_urls'].first }).to eq(%w[http://192.168.0.2:2379 http://192.168.0.3:2379])
    expect(plan(4)['etcd_urls'].sort).to eq((1..3).map { |uid| "http://192.168.0.#{uid}:2379" })
  end

  it 'names credentials that there are' do
    expect(plan(4)['etcd_files']).to eq([])
    expect(plan(4)['etcd_ca_path']).to eq('')
    own = plan(4, 'etcd_tls' => true)
    expect(own['etcd_files']).to eq(%w[ca.crt node.crt node.key])
    expect(own['etcd_key_path']).to eq('/etc/calico/etcd/node.key')
    expect(own['etcd_urls'].first).to start_with('https://')
    other = plan(4, 'etcd_tls' => true, 'etcd_endpoints' => 'https://etcd:2379', 'etcd_ca' => Authority.new.certificate.to_pem)
    expect(other['etcd_files']).to eq(%w[ca.crt])
    expect(other['etcd_urls']).to eq(%w[https://etcd:2379])
    expect(other['etcd_own']).to be(false)
  end

  it 'counts the computes' do
    expect(plan(1)['compute_count']).to eq(2)
  end

  it 'reads the nodes of Fuel 6.1, where a node has an entry to a role' do
    nodes = [
      { 'uid' => '1', 'name' => 'node-1', 'fqdn' => 'node-1.domain.tld', 'role' => 'primary-controller', 'internal_address' => '192.168.0.1' },
      { 'uid' => '1', 'name' => 'node-1', 'fqdn' => 'node-1.domain.tld', 'role' => 'compute', 'internal_address' => '192.168.0.1' },
      { 'uid' => '2', 'name' => 'node-2', 'fqdn' => 'node-2.domain.tld', 'role' => 'compute', 'internal_address' => '192.168.0.2' }
    ]
    facts = { 'fqdn' => 'node-1.domain.tld', 'network_metadata' => {}, 'nodes' => nodes }
    both = scope.call_function('calico_plan', [Environment.settings, facts])
    expect([both['is_controller'], both['is_compute'], both['compute_count']]).to eq([true, true, 2])
    expect(both['node_address']).to eq('192.168.0.1')
    expect(addresses(both, 'client')).to eq(%w[192.168.0.2])
  end

  it 'fails for a node that is none of the environment' do
    facts = Environment.facts(4).merge('fqdn' => 'elsewhere')
    expect { scope.call_function('calico_plan', [Environment.settings, facts]) }.to raise_error(/elsewhere.*none of the environment/)
  end

  it 'fails as calico_validate does' do
    expect { plan(4, 'as_number' => '0') }.to raise_error(/setting as_number, node node-4/)
  end
end
