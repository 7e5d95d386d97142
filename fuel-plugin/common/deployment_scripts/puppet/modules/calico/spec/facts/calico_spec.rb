require File.expand_path('../../environment', __FILE__)
require 'facter'

describe 'facts' do
  before do
    Facter.clear
    allow(File).to receive(:readable?).and_call_original
    allow(File).to receive(:read).and_call_original
  end

  after { Facter.clear }

  def file(path, text)
    allow(File).to receive(:readable?).with(path).and_return(!text.nil?)
    allow(File).to receive(:read).with(path).and_return(text)
  end

  def fact(name)
    load File.join(MODULE, 'lib/facter/calico.rb')
    Facter.value(name)
  end

  describe 'calico_nova_host' do
    it 'is the host name of the system without a file of Nova' do
      file('/etc/nova/nova.conf', nil)
      expect(fact(:calico_nova_host)).to eq(Socket.gethostname)
    end

    it 'is what Nova was told' do
      file('/etc/nova/nova.conf', "[DEFAULT]\n#host = other\nhostile = 1\nhost = Compute-1.example.org\n[vnc]\nhost = x\n")
      expect(fact(:calico_nova_host)).to eq('Compute-1.example.org')
    end

    it 'is not a host of another section' do
      file('/etc/nova/nova.conf', "[DEFAULT]\ndebug = true\n[vnc]\nhost = x\n")
      expect(fact(:calico_nova_host)).to eq(Socket.gethostname)
    end
  end

  describe 'calico_ebpf_unavailable' do
    it 'is the first line of the marker' do
      file('/etc/calico/ebpf-unavailable', "no BTF\nmore\n")
      expect(fact(:calico_ebpf_unavailable)).to eq('no BTF')
    end

    it 'has a word for an empty marker: it counts, too' do
      file('/etc/calico/ebpf-unavailable', '')
      expect(fact(:calico_ebpf_unavailable)).to eq('no reason given')
    end

    it 'is none without one' do
      file('/etc/calico/ebpf-unavailable', nil)
      expect(fact(:calico_ebpf_unavailable)).to eq('none')
    end
  end

  it 'calico_dataplane_choice is what the operator chose, or none' do
    file('/etc/calico/dataplane.choice', "iptables\n")
    expect(fact(:calico_dataplane_choice)).to eq('iptables')
    file('/etc/calico/dataplane.choice', nil)
    Facter.clear
    expect(fact(:calico_dataplane_choice)).to eq('none')
  end
end
