# SPDX-License-Identifier: Apache-2.0
# Completion of brumactl for bash.
_brumactl() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} word command=""

    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        case $word in
        status | pods | connections | flows | top | dashboard | policy | identities | endpoints | explain | end | replace | check | doctor | reasons) command=$word ;;
        esac
    done
    case $previous in
    -o | --output) mapfile -t COMPREPLY < <(compgen -W "json table" -- "$current") && return ;;
    --reason) mapfile -t COMPREPLY < <(compgen -W "$(brumactl reasons 2>/dev/null | awk 'NR > 1 { print $1 }')" -- "$current") && return ;;
    --from | --to) mapfile -t COMPREPLY < <(compgen -W "$(brumactl pods 2>/dev/null | awk 'NR == 1 { n = $1 == "NODE" } NR > 1 { print $(1 + n) "/" $(2 + n) }')" -- "$current") && return ;;
    --by) mapfile -t COMPREPLY < <(compgen -W "workload namespace service" -- "$current") && return ;;
    --sort) mapfile -t COMPREPLY < <(compgen -W "bytes in out open opened failed name" -- "$current") && return ;;
    --kubeconfig) mapfile -t COMPREPLY < <(compgen -f -- "$current") && return ;;
    --context) mapfile -t COMPREPLY < <(compgen -W "$(kubectl config get-contexts -o name 2>/dev/null)" -- "$current") && return ;;
    --node) mapfile -t COMPREPLY < <(compgen -W "$(brumactl status 2>/dev/null | awk 'NR == 1 { n = $1 == "NODE" } NR > 1 && n && NF { print $1 } !NF { exit }')" -- "$current") && return ;;
    --run-dir) mapfile -t COMPREPLY < <(compgen -d -- "$current") && return ;;
    esac
    case $command in
    "") mapfile -t COMPREPLY < <(compgen -W "status pods connections flows top dashboard policy identities endpoints explain end replace check doctor reasons --run-dir --kubeconfig --context --node --system-namespace --version --help -o --output" -- "$current") ;;
    explain)
        local pods reasons
        pods=$(brumactl pods 2>/dev/null | awk 'NR == 1 { n = $1 == "NODE" } NR > 1 { print $(1 + n) "/" $(2 + n) }')
        reasons=$(brumactl reasons 2>/dev/null | awk 'NR > 1 { print $1 }')
        mapfile -t COMPREPLY < <(compgen -W "$pods $reasons" -- "$current")
        ;;
    end) mapfile -t COMPREPLY < <(compgen -W "$(brumactl pods 2>/dev/null | awk 'NR == 1 { n = $1 == "NODE" } NR > 1 { print $(1 + n) "/" $(2 + n) }')" -- "$current") ;;
    replace) mapfile -t COMPREPLY < <(compgen -cf -W "--timeout" -- "$current") ;;
    reasons) mapfile -t COMPREPLY < <(compgen -W "--markdown -o" -- "$current") ;;
    flows) mapfile -t COMPREPLY < <(compgen -W "-f --follow --for --from --to --reason --refused -o --node --kubeconfig --context --help" -- "$current") ;;
    check) mapfile -t COMPREPLY < <(compgen -W "--before -o --node --kubeconfig --context --help" -- "$current") ;;
    top) mapfile -t COMPREPLY < <(compgen -W "--by --sort --count --interval --once -n --namespace -A --all-namespaces -o --node --kubeconfig --context --help" -- "$current") ;;
    dashboard) mapfile -t COMPREPLY < <(compgen -W "--port --no-browser --node --kubeconfig --context --help" -- "$current") ;;
    pods | connections) mapfile -t COMPREPLY < <(compgen -W "-n --namespace -A --all-namespaces -o --node --kubeconfig --context --help" -- "$current") ;;
    *) mapfile -t COMPREPLY < <(compgen -W "-o --node --kubeconfig --context --help" -- "$current") ;;
    esac
}
complete -F _brumactl brumactl kubectl-bruma
