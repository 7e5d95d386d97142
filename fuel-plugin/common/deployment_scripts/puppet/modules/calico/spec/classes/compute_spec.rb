require File.expand_path('../../environment', __FILE__)

describe 'calico::dhcp_agent' do
  let(:params) { { 'etcd_url' => 'http://192.168.0.2:2379' } }
  it { is_expected.to compile.with_all_deps }
  it { is_expected.to contain_package('networking-calico') }
  it { is_expected.to contain_service('calico-dhcp-agent').with('ensure' => 'running', 'enable' => true) }
  it { is_expected.to contain_ini_setting('/etc/neutron/neutron.conf DEFAULT/use_namespaces').with_value('False') }
  it { is_expected.to contain_ini_setting('/etc/neutron/neutron.conf calico/etcd_port').that_notifies('Service[calico-dhcp-agent]') }
  it { is_expected.to contain_file('/etc/init/calico-dhcp-agent.conf').that_comes_before('Service[calico-dhcp-agent]') }

  context 'with systemd' do
    let(:facts) { { 'calico_init' => 'systemd' } }
    it { is_expected.to contain_file('/etc/systemd/system/calico-dhcp-agent.service').with_content(%r{ExecStart=/usr/bin/calico-dhcp-agent --config-file /etc/neutron/neutron\.conf$}) }
  end
end

describe 'calico::nova_metadata' do
  nova = '/etc/nova/nova.conf'
  it { is_expected.to compile.with_all_deps }
  it { is_expected.to contain_package('nova-api-metadata') }
  it { is_expected.to contain_service('nova-api-metadata').with('ensure' => 'running', 'enable' => true) }
  it { is_expected.to contain_ini_setting("#{nova} DEFAULT/enabled_apis").with_value('metadata').that_notifies('Service[nova-api-metadata]') }
  it { is_expected.to contain_ini_setting("#{nova} DEFAULT/metadata_listen").with_value('127.0.0.1') }
  it { is_expected.to contain_ini_setting("#{nova} neutron/service_metadata_proxy").with_value('False') }
  it { is_expected.to contain_ini_setting("#{nova} DEFAULT/linuxnet_interface_driver").with_ensure('absent') }
  it { is_expected.to contain_file_line('qemu may open taps') }

  context 'without metadata' do
    let(:params) { { 'address' => 'none' } }
    it { is_expected.to compile.with_all_deps }
    it { is_expected.not_to contain_service('nova-api-metadata') }
  end
end

describe 'calico::no_ovs' do
  it { is_expected.to compile.with_all_deps }
  %w[openvswitch-switch neutron-l3-agent neutron-metadata-agent neutron-plugin-openvswitch-agent].each do |package|
    it { is_expected.to contain_package(package).with_ensure('purged') }
  end
end
