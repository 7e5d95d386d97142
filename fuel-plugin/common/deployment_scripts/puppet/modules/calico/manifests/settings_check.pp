# Checks every setting again, on the node, before anything is changed.
#
# [*settings*] the plugin's section of hiera
# [*node*]     what the node knows: fqdn, network_metadata, nodes
#
class calico::settings_check (
  $settings,
  $node,
) {
  calico_validate($settings, $node)
}
