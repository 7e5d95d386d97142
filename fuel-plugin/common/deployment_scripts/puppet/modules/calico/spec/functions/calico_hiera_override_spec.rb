require File.expand_path('../../environment', __FILE__)
require 'yaml'

describe 'calico_hiera_override' do
  scheme = {
    'version' => '1.1', 'endpoints' => { 'br-ex' => {} },
    'transformations' => [
      { 'action' => 'add-br', 'name' => 'br-ex' },
      { 'action' => 'add-br', 'name' => 'br-floating', 'provider' => 'ovs' },
      { 'action' => 'add-patch', 'bridges' => %w[br-floating br-ex], 'provider' => 'ovs' }
    ]
  }

  def values(*arguments)
    YAML.load(scope.call_function('calico_hiera_override', arguments))
  end

  it 'adds transformations where the scheme is merged' do
    expect(values(scheme, false)).to eq(
      'use_ovs' => false,
      'network_scheme' => { 'transformations' => [
        { 'action' => 'override', 'override' => 'br-floating', 'provider' => 'lnx' },
        { 'action' => 'override', 'override' => 'patch__br-ex--br-floating', 'provider' => 'lnx' }
      ] }
    )
  end

  it 'gives the whole scheme where it is not' do
    whole = values(scheme, true)['network_scheme']
    expect(whole['endpoints']).to eq('br-ex' => {})
    expect(whole['transformations'].map { |one| one['provider'] }).to eq([nil, 'lnx', 'lnx'])
  end

  it 'leaves a scheme without Open vSwitch alone' do
    expect(values({ 'transformations' => [{ 'action' => 'add-br', 'name' => 'br-ex' }] }, false)).to eq('use_ovs' => false)
  end
end
