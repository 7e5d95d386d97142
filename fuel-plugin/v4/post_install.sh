#!/bin/sh
# Runs on the Fuel master, as root, by whatever /bin/sh is there. Fuel 8.0 reads conditions of tasks only as text, and
# gets a file of its own.
set -eu
plugin=/var/www/nailgun/plugins/fuel-plugin-calico-4.1
if [ -d /etc/puppet/liberty-8.0 ] && [ ! -d /etc/puppet/mitaka-9.0 ]; then
    cp "$plugin/deployment_tasks_8.0.yaml" "$plugin/deployment_tasks.yaml"
    echo "fuel-plugin-calico: task graph for Fuel 8.0"
fi
