# SPDX-License-Identifier: Apache-2.0
"""A mesh file of a few workloads, and what a client asks first."""

import socket

from support.xds.control_plane import (
    ADDRESS,
    AUTHORIZATION,
)

CART, WEB = "lab//Pod/shop/cart-0", "Kubernetes//Pod/shop/web"


MESH = """
namespaces:
- name: shop
  labels: {istio.io/dataplane-mode: ambient}
- name: plain
workloads:
- uid: lab//Pod/shop/cart-0
  name: cart-0
  namespace: shop
  serviceAccount: cart
  workloadIps: ["10.9.0.2"]
  node: node-b
  authorizationPolicies: ["shop/only-web"]
  services:
    shop/cart.shop.svc.cluster.local: {80: 8080}
- name: web
  namespace: shop
  serviceAccount: web
- name: outside
  namespace: plain
  workloadIps: ["10.9.0.3"]
services:
- name: cart
  namespace: shop
  hostname: cart.shop.svc.cluster.local
  vips: ["/10.96.0.20", "/fd00::20"]
  ports: {80: 8080}
policies:
- name: only-web
  namespace: shop
  scope: WorkloadSelector
  action: Allow
  rules:
  - - - principals: [!Exact cluster.local/ns/shop/sa/web]
        notDestinationPorts: [9090]
"""


def subscribe(stream):
    """Both types, as a proxy does."""
    stream.ask(ADDRESS)
    stream.answer()
    stream.ask(AUTHORIZATION)
    stream.answer()
    return stream


def hbone(stream, uid):
    return stream.workload(uid) is not None and stream.workload(uid).tunnel_protocol == 1


def packed(*text):
    return [socket.inet_pton(socket.AF_INET6 if ":" in t else socket.AF_INET, t) for t in text]
