require File.expand_path('../../environment', __FILE__)

describe 'calico::etcd' do
  let(:members) { (1..3).map { |n| { 'name' => "node-#{n}", 'address' => "192.168.0.#{n}" } } }
  let(:common) { { 'node_name' => 'node-2', 'address' => '192.168.0.2', 'members' => members } }

  context 'on a controller that joins' do
    let(:params) { common.merge('begin' => false) }

    it { is_expected.to compile.with_all_deps }
    it { expect(catalogue.resource('file', '/etc/default/etcd')[:content]).to be_golden('etcd-plain') }
    it { is_expected.to contain_firewall('410 calico etcd clients').with_dport('2379') }
    it { is_expected.to contain_firewall('410 calico etcd members').with_dport('2380') }
    it { is_expected.to contain_service('etcd').with('ensure' => 'running', 'enable' => true) }
    it { is_expected.to contain_file('/etc/init/etcd.conf').with_content(%r{\. /etc/calico/etcd-initial}) }
    it { is_expected.not_to contain_exec('former controllers leave etcd') }

    it 'has a place before etcd is installed, because that starts it' do
      is_expected.to contain_exec('place in the etcd cluster')
        .with_command(%r{place /var/lib/etcd/calico /etc/calico/etcd-initial node-2 http://192\.168\.0\.2:2380 no http://192\.168\.0\.1:2379 http://192\.168\.0\.3:2379$})
        .with_creates('/var/lib/etcd/calico/member').that_comes_before('Package[etcd-server]')
    end
  end

  context 'on the controller that begins' do
    let(:params) { common.merge('begin' => true) }
    it { is_expected.to contain_exec('place in the etcd cluster').with_command(/ yes /) }
    it { is_expected.to contain_exec('former controllers leave etcd').that_requires('Exec[etcd is healthy]') }
  end

  context 'with TLS' do
    let(:pre_condition) { "class { 'calico::etcd_credentials': node_name => 'node-2', address => '192.168.0.2' }" }
    let(:params) { common.merge('begin' => false, 'tls' => true) }

    it { is_expected.to compile.with_all_deps }
    it { expect(catalogue.resource('file', '/etc/default/etcd')[:content]).to be_golden('etcd-tls') }
    it { is_expected.to contain_file('/etc/calico-etcd-server/node.key').with('mode' => '0400', 'owner' => 'etcd').that_notifies('Service[etcd]') }
    it { is_expected.to contain_file('/etc/calico-etcd-server/node.key').that_comes_before('Package[etcd-server]') }
  end

  context 'with systemd' do
    let(:facts) { { 'calico_init' => 'systemd' } }
    let(:params) { common.merge('begin' => false) }
    it { is_expected.to contain_file('/etc/systemd/system/etcd.service.d/calico.conf').with_content(%r{-/etc/calico/etcd-initial}) }
    it { is_expected.not_to contain_file('/etc/init/etcd.conf') }
  end
end
