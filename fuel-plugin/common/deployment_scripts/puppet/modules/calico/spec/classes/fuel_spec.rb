require File.expand_path('../../environment', __FILE__)

describe 'calico::settings_check' do
  let(:params) { { 'settings' => Environment.settings, 'node' => Environment.facts(4) } }
  it { is_expected.to compile.with_all_deps }

  context 'with a setting that is bad' do
    let(:params) { { 'settings' => Environment.settings('as_number' => '0'), 'node' => Environment.facts(4) } }
    it { is_expected.to compile.and_raise_error(/setting as_number, node node-4/) }
  end
end

describe 'calico::hiera_override' do
  let(:scheme) { { 'transformations' => [{ 'action' => 'add-br', 'name' => 'br-prv', 'provider' => 'ovs' }] } }

  context 'in Fuel 9' do
    let(:params) { { 'network_scheme' => scheme, 'release' => '9.0' } }
    it { is_expected.to contain_file('/etc/hiera/plugins/fuel-plugin-calico.yaml').with_content(/use_ovs: false/) }
    it { is_expected.to contain_file('/etc/hiera/plugins/fuel-plugin-calico.yaml').with_content(/override: br-prv/) }
  end

  context 'in Fuel 6.1' do
    let(:params) { { 'network_scheme' => scheme, 'release' => '6.1' } }
    it { is_expected.to contain_file('/etc/hiera/override/plugins.yaml').with_content(/name: br-prv\n    provider: lnx/) }
  end
end

describe 'calico::networks' do
  let(:params) { { 'cidr' => '10.65.0.0/16', 'gateway' => '10.65.0.1', 'node_name' => 'node-1' } }
  it { is_expected.to compile.with_all_deps }
  it { is_expected.to contain_exec('network and subnet of the VMs').with_unless(%r{networks exists 10\.65\.0\.0/16 10\.65\.0\.1$}) }
end
