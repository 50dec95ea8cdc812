# Completion of medbench for bash 4.4 or newer: source this, or put it where bash-completion looks for `medbench`.
_medbench() {
    local value help
    COMPREPLY=()
    while IFS=$'\t' read -r value help; do
        case "$value" in
            :files) compopt -o default ;;
            :dirs) compopt -o dirnames ;;
            *)
                COMPREPLY+=("$value")
                [[ "$value" == *[=:,] ]] && compopt -o nospace
                [[ -e "$value" ]] && compopt -o filenames
                ;;
        esac
    done < <(_MEDBENCH_BREAKS="$COMP_WORDBREAKS" _MEDBENCH_LINE="${COMP_LINE:0:COMP_POINT}" "$1" 2>/dev/null)
    return 0
}
complete -o nosort -F _medbench medbench
