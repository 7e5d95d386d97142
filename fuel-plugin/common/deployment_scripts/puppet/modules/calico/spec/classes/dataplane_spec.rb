require File.expand_path('../../environment', __FILE__)

describe 'calico::dataplane' do
  let(:settings) do
    {
      'ebpf_mode' => true, 'node_name' => 'node-4', 'hostname' => 'node-4.domain.tld',
      'etcd_urls' => ['http://192.168.0.2:2379', 'http://192.168.0.1:2379'],
      'manifest' => '/etc/fuel/plugins/x/manifests/calico-dataplane.pp', 'modulepath' => '/etc/fuel/plugins/x/modules'
    }
  end
  let(:felix_cfg) { catalogue.resource('file', '/etc/calico/felix.cfg')[:content] }

  shared_examples 'the eBPF agent' do
    it { is_expected.to compile.with_all_deps }
    it { is_expected.to contain_class('calico::agent') }
    it { is_expected.not_to contain_class('calico::felix') }
    it { is_expected.to contain_package('calico-ebpf').with_ensure('installed').that_requires('File[/etc/calico/felix.cfg]') }
    it { is_expected.to contain_service('calico-ebpf').with('ensure' => 'running', 'enable' => true) }
    it { is_expected.not_to contain_package('calico-felix') }

    it 'looks at bpffs before the agent can mount it' do
      is_expected.to contain_exec('whose bpffs it is').that_comes_before('Package[calico-ebpf]')
    end

    it 'takes Felix away last' do
      is_expected.to contain_exec('this kernel can run the agent').that_comes_before('Service[calico-ebpf]')
      is_expected.to contain_exec('the agent has policy in force').that_requires('Service[calico-ebpf]')
      is_expected.to contain_exec('the agent takes over from Felix')
        .with_command(%r{handover to-agent calico-felix$}).that_requires('Exec[the agent has policy in force]')
    end
  end

  shared_examples 'Felix' do
    it { is_expected.to compile.with_all_deps }
    it { is_expected.to contain_class('calico::felix') }
    it { is_expected.not_to contain_class('calico::agent') }
    it { is_expected.to contain_package('calico-felix').with_ensure('installed').that_requires('File[/etc/calico/felix.cfg]') }
    it { is_expected.to contain_service('calico-felix').with('ensure' => 'running', 'enable' => true) }
    it { is_expected.not_to contain_service('calico-ebpf') }

    it 'takes the agent away last, and stops it only when Felix can be had' do
      is_expected.to contain_exec('Felix can be installed').that_comes_before('Exec[the agent stands back]')
      is_expected.to contain_exec('the agent stands back').that_comes_before('Package[calico-felix]')
      is_expected.to contain_exec('Felix takes over from the agent')
        .with_command(%r{handover to-felix calico-ebpf$}).that_requires('Service[calico-felix]')
    end
  end

  context 'with the checkbox set' do
    let(:params) { settings }
    it_behaves_like 'the eBPF agent'
    it { expect(felix_cfg).to be_golden('felix-ebpf.cfg') }
    it { is_expected.to contain_file('/etc/calico/dataplane.setting').with_content("ebpf\n") }
    it { is_expected.to contain_file('/usr/sbin/calico-dataplane-switch').with_mode('0755') }

    it 'does not wait for the agent where systemd would' do
      is_expected.to contain_service('calico-ebpf').without_start
    end

    context 'under systemd' do
      let(:facts) { { 'calico_init' => 'systemd' } }
      it { is_expected.to contain_service('calico-ebpf').with_start(/--no-block start/) }
    end
  end

  context 'with the checkbox clear' do
    let(:params) { settings.merge('ebpf_mode' => false) }
    it_behaves_like 'Felix'
    it { expect(felix_cfg).to be_golden('felix-iptables.cfg') }
    it { is_expected.to contain_file('/etc/calico/dataplane.setting').with_content("iptables\n") }
  end

  context 'with a kernel that did not come up' do
    let(:params) { settings.merge('unavailable' => 'kernel 6.1 did not boot') }
    it_behaves_like 'Felix'
    it { is_expected.to contain_file('/etc/calico/dataplane.setting').with_content("ebpf\n") }

    context 'and the policy to fail' do
      let(:params) { settings.merge('unavailable' => 'kernel 6.1 did not boot', 'failure_policy' => 'fail') }
      it { is_expected.to compile.and_raise_error(/setting kernel_failure_policy, node node-4: .*kernel 6\.1 did not boot.*; cure: /) }
    end
  end

  context 'with the operator\'s choice of iptables' do
    let(:params) { settings.merge('choice' => 'iptables') }
    it_behaves_like 'Felix'
  end

  context 'with the operator\'s choice of eBPF' do
    let(:params) { settings.merge('ebpf_mode' => false, 'choice' => 'ebpf') }
    it_behaves_like 'the eBPF agent'
  end

  context 'with everything else set' do
    let(:params) do
      settings.merge(
        'etcd_urls' => ['https://192.168.0.2:2379'], 'etcd_ca' => '/etc/calico/etcd/ca.crt',
        'etcd_cert' => '/etc/calico/etcd/node.crt', 'etcd_key' => '/etc/calico/etcd/node.key',
        'metadata_addr' => 'none', 'metadata_port' => '8776', 'log_level' => 'warning',
        'metrics_enabled' => true, 'metrics_port' => '9999'
      )
    end
    it { expect(felix_cfg).to be_golden('felix-everything.cfg') }
  end
end
