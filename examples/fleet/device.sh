#!/bin/sh
# What each of the three devices does: an engine, the first release once it is in the registry, and the daemon.
set -eu
install -m 0755 /in/valise-installer /usr/local/bin/valise-installer
dockerd-entrypoint.sh dockerd >/var/log/dockerd.log 2>&1 &
until docker info >/dev/null 2>&1; do sleep 1; done
if ! grep -qs '^fleet:' /etc/valise/till.yaml; then
  until valise-installer install --source oci:http://registry:5000/till --key /in/cosign.pub v1.0.0; do sleep 5; done
  install -m 0600 /in/gateway-token /etc/valise/till.gateway-token
  cat >>/etc/valise/till.yaml <<'YAML'
fleet:
  hawkbit: https://proxy/
  gateway_token_file: /etc/valise/till.gateway-token
  poll: {min: 5s}
  attributes: {site: example}
YAML
fi
exec valise-installer serve
