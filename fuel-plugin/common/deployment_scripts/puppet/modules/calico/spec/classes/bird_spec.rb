require File.expand_path('../../environment', __FILE__)

describe 'calico::bird' do
  let(:controllers) { [1, 2].map { |n| { 'name' => "node-#{n}", 'address' => "192.168.2.#{n}", 'kind' => 'reflector' } } }
  let(:common) { { 'as_number' => '4200000000', 'pool' => '10.65.0.0/16' } }
  let(:configuration) { catalogue.resource('file', '/etc/bird/bird.conf')[:content] }

  context 'on a reflector with a router outside' do
    let(:params) do
      client = { 'name' => 'node-4', 'address' => '192.168.2.4', 'kind' => 'client' }
      common.merge(
        'role' => 'reflector', 'address' => '192.168.2.3', 'neighbors' => controllers + [client],
        'external_peers' => [{ 'name' => 'edge-1', 'as' => '4200000001', 'address' => '203.0.113.1' }]
      )
    end

    it { is_expected.to compile.with_all_deps }
    it { expect(configuration).to be_golden('bird-reflector.conf') }
    it { is_expected.to contain_firewall('410 calico bgp').with('dport' => '179', 'proto' => 'tcp', 'action' => 'accept') }
    it { is_expected.to contain_file('/etc/bird/bird.conf').that_comes_before('Package[bird]') }
    it { is_expected.to contain_service('bird').with('ensure' => 'running', 'enable' => true) }
    it { is_expected.to contain_file('/etc/init/bird.conf').with_content(%r{exec /usr/sbin/bird -f}) }

    it 'reads a new configuration without ending sessions' do
      is_expected.to contain_service('bird').with_restart(/birdc configure$/).that_subscribes_to('File[/etc/bird/bird.conf]')
    end
  end

  context 'on a client' do
    let(:params) { common.merge('role' => 'client', 'address' => '192.168.2.4', 'neighbors' => controllers) }

    it { expect(configuration).to be_golden('bird-client.conf') }

    context 'with systemd' do
      let(:facts) { { 'calico_init' => 'systemd' } }
      it { is_expected.not_to contain_file('/etc/init/bird.conf') }
    end
  end

  context 'in a mesh' do
    let(:params) do
      others = [{ 'name' => 'node-5', 'address' => '192.168.2.5', 'kind' => 'mesh' }]
      common.merge('role' => 'mesh', 'address' => '192.168.2.4', 'neighbors' => others)
    end

    it { expect(configuration).to be_golden('bird-mesh.conf') }
    it { expect(configuration).not_to include('rr client') }
  end

  context 'with a role that there is not' do
    let(:params) { common.merge('role' => 'star', 'address' => '192.168.2.4', 'neighbors' => []) }
    it { is_expected.to compile.and_raise_error(/role star, expected reflector, client or mesh/) }
  end
end
