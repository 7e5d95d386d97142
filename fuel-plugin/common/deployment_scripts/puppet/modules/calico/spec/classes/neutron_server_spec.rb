require File.expand_path('../../environment', __FILE__)

describe 'calico::neutron_server' do
  let(:params) { { 'etcd_url' => 'http://192.168.0.2:2379', 'compute_count' => 17, 'mtu' => '9000' } }
  ml2 = '/etc/neutron/plugins/ml2/ml2_conf.ini'
  neutron = '/etc/neutron/neutron.conf'

  it { is_expected.to compile.with_all_deps }
  it { is_expected.to contain_package('networking-calico') }
  it { is_expected.to contain_service('neutron-server').with('ensure' => 'running', 'enable' => true) }

  {
    [neutron, 'DEFAULT', 'dhcp_agents_per_network'] => '17', [neutron, 'DEFAULT', 'agent_down_time'] => '60',
    [neutron, 'DEFAULT', 'global_physnet_mtu'] => '9000', [neutron, 'DEFAULT', 'l3_ha'] => 'False',
    [neutron, 'DEFAULT', 'api_workers'] => '0', [neutron, 'DEFAULT', 'rpc_workers'] => '0',
    [neutron, 'calico', 'etcd_host'] => '192.168.0.2', [neutron, 'calico', 'etcd_port'] => '2379',
    [ml2, 'ml2', 'mechanism_drivers'] => 'calico', [ml2, 'ml2', 'type_drivers'] => 'local,flat',
    [ml2, 'ml2', 'tenant_network_types'] => 'local'
  }.each do |(path, section, setting), value|
    it "sets #{setting} to #{value}" do
      is_expected.to contain_ini_setting("#{path} #{section}/#{setting}")
        .with('path' => path, 'section' => section, 'setting' => setting, 'value' => value)
        .that_notifies('Service[neutron-server]')
    end
  end

  it { is_expected.to contain_ini_setting("#{neutron} calico/etcd_key_file").with_ensure('absent') }

  context 'before the first compute' do
    let(:params) { { 'etcd_url' => 'http://192.168.0.2:2379', 'compute_count' => 0 } }
    it { is_expected.to contain_ini_setting("#{neutron} DEFAULT/dhcp_agents_per_network").with_value('1') }
  end

  context 'with TLS' do
    let(:pre_condition) { "class { 'calico::etcd_credentials': node_name => 'node-2', address => '192.168.0.2' }" }
    let(:params) do
      { 'etcd_url' => 'https://192.168.0.2:2379', 'compute_count' => 1, 'etcd_tls' => true, 'etcd_files' => %w[ca.crt node.crt node.key] }
    end
    it { is_expected.to compile.with_all_deps }
    it { is_expected.to contain_ini_setting("#{neutron} calico/etcd_host").with_value('192.168.0.2') }
    it { is_expected.to contain_ini_setting("#{neutron} calico/etcd_key_file").with_value('/etc/neutron/calico-etcd/node.key') }
    it { is_expected.to contain_file('/etc/neutron/calico-etcd/node.key').with('owner' => 'neutron', 'mode' => '0400') }
  end
end
