require File.expand_path('../../environment', __FILE__)
require 'open3'
require 'tmpdir'

# With a command `neutron` that keeps its objects in files.
describe 'networks' do
  around do |example|
    Dir.mktmpdir do |folder|
      @folder = folder
      File.write("#{folder}/openrc", "export OS_TENANT_NAME=admin\n")
      File.write("#{folder}/neutron", <<-'END')
#!/bin/sh
cd "$(dirname "$0")"
[ "$OS_TENANT_NAME" = admin ] && [ ! -e down ] || { echo "Unable to reach the server" >&2; exit 1; }
echo "$@" >>calls
case $1 in
net-list) ;;
net-create) echo 5 >"$2.id" ;;
net-show | subnet-show) for last; do :; done; cat "$last.$3" ;;
subnet-create) echo "$3" >calico-v4.cidr; echo "$7" >calico-v4.gateway_ip ;;
esac
      END
      File.chmod(0o755, "#{folder}/neutron")
      example.run
    end
  end

  def networks(*arguments)
    environment = { 'PATH' => "#{@folder}:/usr/bin:/bin", 'CALICO_OPENRC' => "#{@folder}/openrc", 'CALICO_NODE' => 'node-1' }
    text, status = Open3.capture2e(environment, "#{MODULE}/files/networks", *arguments)
    [status.exitstatus, text]
  end

  def calls
    File.read("#{@folder}/calls").lines.grep(/create/)
  end

  it 'makes network and subnet once' do
    expect(networks('exists', '10.65.0.0/16', '10.65.0.1').first).to eq(1)
    2.times { expect(networks('make', '10.65.0.0/16', '10.65.0.1').first).to eq(0) }
    expect(networks('exists', '10.65.0.0/16', '10.65.0.1').first).to eq(0)
    expect(calls).to eq([
      "net-create calico --shared --provider:network_type local\n",
      "subnet-create calico 10.65.0.0/16 --name calico-v4 --gateway 10.65.0.1 --enable-dhcp\n"
    ])
  end

  it 'refuses a subnet that is another one' do
    networks('make', '10.65.0.0/16', '10.65.0.1')
    status, text = networks('make', '10.66.0.0/16', '10.66.0.1')
    expect(status).to eq(1)
    expect(text).to match(/setting ippool_cidr, node node-1: the subnet calico-v4 is 10\.65\.0\.0\/16, not 10\.66\.0\.0\/16; cure: /)
  end

  it 'refuses another gateway' do
    networks('make', '10.65.0.0/16', '10.65.0.1')
    expect(networks('make', '10.65.0.0/16', '10.65.0.2')).to match([1, /setting ippool_gateway, node node-1: .*10\.65\.0\.1, not 10\.65\.0\.2; cure: /])
  end

  it 'says that Neutron does not answer, and makes nothing' do
    File.write("#{@folder}/down", '')
    expect(networks('make', '10.65.0.0/16', '10.65.0.1')).to match([1, /node node-1: Neutron does not answer \(Unable to reach the server\); cure: /])
  end
end
