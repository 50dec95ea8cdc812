#compdef medbench
# Completion of medbench for zsh: as the file `_medbench` in a folder of $fpath, or sourced after compinit.
_medbench() {
    local line value
    local -a closed open
    for line in ${(f)"$(_MEDBENCH_LINE="${(j: :)words[1,CURRENT]}" ${words[1]} 2>/dev/null)"}; do
        value="${line%%$'\t'*}"
        case "$value" in
            :files) _files ;;
            :dirs) _path_files -/ ;;
            *[=:,]) open+=("$value") ;;
            *) closed+=("${value//:/\\:}:${line#*$'\t'}") ;;
        esac
    done
    (( $#closed )) && _describe -V 'medbench' closed -Q
    (( $#open )) && compadd -Q -S '' -a open
    return 0
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _medbench "$@"
else
    compdef _medbench medbench
fi
