#!/bin/bash
# What kindnetd does: the configuration of the CNI plugins, a route to the pods of every other node, and masquerading of
# pods that speak to somebody outside. Environment: NODE, POD_SUBNET.
nft -f - <<EOF
add table inet kindnet-ipmasq
delete table inet kindnet-ipmasq
table inet kindnet-ipmasq {
  chain postrouting {
    type nat hook postrouting priority srcnat - 5;
    ct state established,related accept
    fib saddr type local accept
    ip saddr $POD_SUBNET ip daddr != $POD_SUBNET masquerade
  }
}
EOF
columns='{.metadata.name} {.spec.podCIDR} {.status.addresses[?(@.type=="InternalIP")].address}{"\n"}'
while :; do
  kubectl get nodes --watch -o "jsonpath=$columns" | while read -r name network address; do
    [ -n "$address" ] || continue
    if [ "$name" != "$NODE" ]; then
      ip route replace "$network" via "$address"
      continue
    fi
    cat >/etc/cni/net.d/.new <<EOF
{"cniVersion": "0.4.0", "name": "kindnet", "plugins": [
  {"type": "ptp", "ipMasq": false, "mtu": 1500, "ipam": {"type": "host-local", "dataDir": "/run/cni-ipam-state",
    "routes": [{"dst": "0.0.0.0/0"}], "ranges": [[{"subnet": "$network"}]]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
EOF
    cmp -s /etc/cni/net.d/.new /etc/cni/net.d/10-kindnet.conflist ||
      mv /etc/cni/net.d/.new /etc/cni/net.d/10-kindnet.conflist
  done
  sleep 1
done
