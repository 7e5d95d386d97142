require File.expand_path('../../environment', __FILE__)

describe 'calico::etcd_credentials' do
  let(:common) { { 'node_name' => 'node-2', 'address' => '192.168.0.2' } }

  context 'with the cluster of the plugin' do
    let(:params) { common }
    it { is_expected.to compile.with_all_deps }
    it { is_expected.to contain_file('/etc/calico/etcd').with_mode('0700') }

    it 'makes a certificate, and only if the one that is there is not good' do
      is_expected.to contain_exec('certificate for etcd')
        .with_command(%r{issue-certificate /var/lib/astute/neutron/neutron /etc/calico/etcd node-2 192\.168\.0\.2$})
        .with_unless(%r{certificate-is-good /var/lib/astute/neutron/neutron /etc/calico/etcd node-2 192\.168\.0\.2$})
    end
  end

  context 'with another one' do
    let(:params) { common.merge('own' => false, 'ca' => 'AUTHORITY', 'cert' => '', 'node_key' => '') }
    it { is_expected.to compile.with_all_deps }
    it { is_expected.to contain_file('/etc/calico/etcd/ca.crt').with('ensure' => 'file', 'content' => "AUTHORITY\n", 'mode' => '0600') }
    it { is_expected.to contain_file('/etc/calico/etcd/node.key').with_ensure('absent') }
    it { is_expected.not_to contain_exec('certificate for etcd') }
  end
end
