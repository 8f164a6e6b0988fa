#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Prints what this machine's network and kernel hold that the tests could leave behind, one thing a line, sorted.
# tests/run.sh compares it before and after.
set -u
export PATH="$PATH:/usr/sbin:/sbin"

{
    ip netns list | awk '{print "namespace", $1}'
    ip -o link show | awk -F': ' '{print "link", $2}'
    ip rule show | sed 's/^/rule v4 /'
    ip -6 rule show | sed 's/^/rule v6 /'
    ip route show table all | sed 's/^/route v4 /; s/ expires [0-9]*sec//'
    ip -6 route show table all | sed 's/^/route v6 /; s/ expires [0-9]*sec//'
    awk '{print "mount", $3, $2}' /proc/self/mounts
    for tree in $(awk '$3 == "bpf" {print $2}' /proc/self/mounts | sort -u); do
        find "$tree" -mindepth 1 | sed 's/^/pin /'
    done
    for tree in $(awk '$3 == "cgroup2" || $3 == "cgroup" {print $2}' /proc/self/mounts | sort -u); do
        find "$tree" -mindepth 1 -type d -name '*bruma*' | sed 's/^/cgroup /'
    done
    for directory in /etc/cni /opt/cni /var/lib/cni /var/lib/kubelet /var/lib/containerd /var/log/pods; do
        [ ! -d "$directory" ] || echo "directory $directory"
    done
    # BPF objects that nothing named in a file system holds, but a process or an attachment does
    bpftool -j link list 2>/dev/null | tr '{' '\n' | sed -n 's/.*"id":\([0-9]*\),"type":"\([a-z_]*\)".*/link \1 \2/p' |
        sed 's/^/bpf /'
    # Programs that the tests start; the tests' own shells and Python are not looked for.
    for comm in /proc/[0-9]*/comm; do
        read -r name 2>/dev/null <"$comm" || continue
        case "$name" in
        bruma-* | brumactl | nginx | redis-server | tcpdump | iperf3 | etcd | dnsmasq | kube* | containerd* | cluster-app)
            pid=${comm#/proc/}
            echo "process ${pid%/comm} $name"
            ;;
        esac
    done
} 2>/dev/null | LC_ALL=C sort
