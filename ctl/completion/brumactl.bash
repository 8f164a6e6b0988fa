# SPDX-License-Identifier: Apache-2.0
# Completion of brumactl for bash.
_brumactl() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} word command=""

    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        case $word in
        status | pods | connections | policy | identities | endpoints | explain | end | replace | doctor | reasons) command=$word ;;
        esac
    done
    case $previous in
    -o | --output) mapfile -t COMPREPLY < <(compgen -W "json table" -- "$current") && return ;;
    --run-dir) mapfile -t COMPREPLY < <(compgen -d -- "$current") && return ;;
    esac
    case $command in
    "") mapfile -t COMPREPLY < <(compgen -W "status pods connections policy identities endpoints explain end replace doctor reasons --run-dir --version --help -o" -- "$current") ;;
    explain)
        local pods reasons
        pods=$(brumactl pods 2>/dev/null | awk 'NR > 1 { print $1 "/" $2 }')
        reasons=$(brumactl reasons 2>/dev/null | awk 'NR > 1 { print $1 }')
        mapfile -t COMPREPLY < <(compgen -W "$pods $reasons" -- "$current")
        ;;
    end) mapfile -t COMPREPLY < <(compgen -W "$(brumactl pods 2>/dev/null | awk 'NR > 1 { print $1 "/" $2 }')" -- "$current") ;;
    replace) mapfile -t COMPREPLY < <(compgen -cf -- "$current") ;;
    reasons) mapfile -t COMPREPLY < <(compgen -W "--markdown -o" -- "$current") ;;
    *) mapfile -t COMPREPLY < <(compgen -W "-o" -- "$current") ;;
    esac
}
complete -F _brumactl brumactl
