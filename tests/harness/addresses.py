"""The addresses of every cluster of the harness. Control planes may share them: only a node makes them real."""

NODE = "172.31.255.1"  # on the loopback device, so that pods and host agree on it
SERVICES = "10.96.0.0/16"
API_SERVICE = "10.96.0.1"
PODS = "10.244.0.0/16"
NODE_PODS = "10.244.0.0/24"
