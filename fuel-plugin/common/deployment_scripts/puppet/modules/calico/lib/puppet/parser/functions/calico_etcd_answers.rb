require File.expand_path('../../../../puppet_x/calico/etcd_probe', __FILE__)

module Puppet::Parser::Functions
  newfunction(:calico_etcd_answers, :doc => <<-DOC) do |arguments|
    Fails when none of the URLs answers as a healthy etcd within a limit of seconds.

    Takes the URLs, the PEM texts by `ca`, `cert` and `key`, the limit for each, and the node's name for the message.
  DOC
    urls, tls, seconds, node = arguments
    failure = PuppetX::Calico::EtcdProbe.failure(urls, tls, seconds.to_i)
    if failure
      raise Puppet::ParseError, "setting etcd_endpoints, node #{node}: etcd cannot be reached (#{failure}); cure: start etcd there, open its port for this node, or correct the setting"
    end
  end
end
