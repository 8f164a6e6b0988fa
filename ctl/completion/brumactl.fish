# SPDX-License-Identifier: Apache-2.0
# Completion of brumactl for fish.
complete -c brumactl -f
complete -c brumactl -l run-dir -r -a '(__fish_complete_directories)' -d 'run directory of agent and proxy'
complete -c brumactl -l kubeconfig -r -d 'kubeconfig of a cluster'
complete -c brumactl -l context -x -d 'context of the kubeconfig'
complete -c brumactl -l node -x -d 'this node alone'
complete -c brumactl -l system-namespace -x -d 'where Bruma is installed'
complete -c brumactl -s n -l namespace -x -d 'pods of this namespace'
complete -c brumactl -s A -l all-namespaces -d 'pods of all namespaces'
complete -c brumactl -s o -l output -x -a 'json table' -d 'form of the output'
complete -c brumactl -l version -d 'print the version'
complete -c brumactl -s h -l help -d 'print help'
complete -c brumactl -n __fish_use_subcommand -a status -d 'state of agent, proxy and mesh, and problems'
complete -c brumactl -n __fish_use_subcommand -a pods -d 'the pods of this node'
complete -c brumactl -n __fish_use_subcommand -a connections -d 'open connections'
complete -c brumactl -n __fish_use_subcommand -a flows -d 'connections as they are opened, closed and refused'
complete -c brumactl -n '__fish_seen_subcommand_from flows' -s f -l follow -d 'without an end'
complete -c brumactl -n '__fish_seen_subcommand_from flows' -l for -x -d seconds
complete -c brumactl -n '__fish_seen_subcommand_from flows' -l from -x -d 'from a pod, namespace or address'
complete -c brumactl -n '__fish_seen_subcommand_from flows' -l to -x -d 'to a pod, namespace, address or service'
complete -c brumactl -n '__fish_seen_subcommand_from flows' -l reason -x -a '(brumactl reasons 2>/dev/null | awk "NR > 1 { print \$1 }")' -d reason
complete -c brumactl -n '__fish_seen_subcommand_from flows' -l refused -d 'that were refused'
complete -c brumactl -n __fish_use_subcommand -a top -d 'who uses the mesh most'
complete -c brumactl -n '__fish_seen_subcommand_from top' -l by -x -a 'workload namespace service' -d 'what a row is'
complete -c brumactl -n '__fish_seen_subcommand_from top' -l sort -x -a 'bytes in out open opened failed name' -d order
complete -c brumactl -n '__fish_seen_subcommand_from top' -s c -l count -x -d rows
complete -c brumactl -n '__fish_seen_subcommand_from top' -l interval -x -d 'seconds between two readings'
complete -c brumactl -n '__fish_seen_subcommand_from top' -l once -d 'one time, also on a terminal'
complete -c brumactl -n __fish_use_subcommand -a dashboard -d 'a page in the browser'
complete -c brumactl -n '__fish_seen_subcommand_from dashboard' -l port -x -d 'of the page'
complete -c brumactl -n '__fish_seen_subcommand_from dashboard' -l no-browser -d 'do not open it'
complete -c brumactl -n __fish_use_subcommand -a policy -d 'authorization policies'
complete -c brumactl -n __fish_use_subcommand -a identities -d certificates
complete -c brumactl -n __fish_use_subcommand -a endpoints -d 'endpoints that are left out for a moment'
complete -c brumactl -n __fish_use_subcommand -a explain -d 'why a pod or a connection is in its state'
complete -c brumactl -n __fish_use_subcommand -a end -d 'a pod is about to end'
complete -c brumactl -n __fish_use_subcommand -a replace -d 'start the next proxy'
complete -c brumactl -n '__fish_seen_subcommand_from replace' -l timeout -x -d 'seconds to take over'
complete -c brumactl -n '__fish_seen_subcommand_from replace' -a '(__fish_complete_path)'
complete -c brumactl -n __fish_use_subcommand -a check -d 'whether all is as it should be'
complete -c brumactl -n '__fish_seen_subcommand_from check' -l before -d 'this machine, before an install'
complete -c brumactl -n __fish_use_subcommand -a doctor -d checks
complete -c brumactl -n __fish_use_subcommand -a reasons -d 'all failure reasons'
complete -c brumactl -n '__fish_seen_subcommand_from reasons' -l markdown -d 'as the page of docs'
complete -c brumactl -n '__fish_seen_subcommand_from end' -a '(brumactl pods 2>/dev/null | awk "NR == 1 { n = \$1 == \"NODE\" } NR > 1 { print \$(1 + n) \"/\" \$(2 + n) }")'
complete -c brumactl -n '__fish_seen_subcommand_from explain' -a '(brumactl pods 2>/dev/null | awk "NR == 1 { n = \$1 == \"NODE\" } NR > 1 { print \$(1 + n) \"/\" \$(2 + n) }"; brumactl reasons 2>/dev/null | awk "NR > 1 { print \\$1 }")'
