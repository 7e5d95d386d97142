require File.expand_path('../../environment', __FILE__)

script = '/usr/lib/calico-kernel/calico-kernel'

describe 'calico::kernel' do
  context 'with the eBPF dataplane' do
    let(:params) { { :ensure_mode => true, :failure_policy => 'fail', :version => '6.1.192-2+calico1' } }

    it 'tries the kernel of the pinned version unless that is done' do
      is_expected.to contain_exec('calico-kernel try').with(
        :command => "#{script} try --policy fail --version 6.1.192-2+calico1",
        :unless  => "#{script} is-done try --policy fail",
        :require => 'Class[Calico::Kernel_scripts]'
      )
      is_expected.not_to contain_exec('calico-kernel remove')
    end
  end

  context 'with a kernel that is kept' do
    let(:params) { { :ensure_mode => true, :choice => 'keep' } }

    it 'judges the running kernel and installs none' do
      is_expected.to contain_exec('calico-kernel keep').with_command("#{script} keep --policy iptables")
      is_expected.not_to contain_exec('calico-kernel try')
    end
  end

  context 'without the eBPF dataplane' do
    let(:params) { { :ensure_mode => false } }

    it 'takes everything back where it is' do
      is_expected.to contain_exec('calico-kernel remove').with(
        :onlyif => "test -x #{script}",
        :unless => "#{script} is-done remove"
      )
      is_expected.not_to contain_class('calico::kernel_scripts')
    end
  end
end

describe 'calico::kernel_verify' do
  context 'with the eBPF dataplane' do
    let(:params) { { :ensure_mode => true } }

    it { is_expected.to contain_exec('calico-kernel verify').with_command("#{script} verify --policy iptables") }
    it { is_expected.to contain_file('/usr/lib/calico-kernel').with_source('puppet:///modules/calico/kernel') }
  end

  context 'without the eBPF dataplane' do
    let(:params) { { :ensure_mode => false } }

    it { is_expected.to contain_exec('remove the scripts of the kernel').with_require('Exec[calico-kernel remove]') }
  end
end
