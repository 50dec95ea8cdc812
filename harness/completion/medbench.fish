# Completion of medbench for fish: ~/.config/fish/completions/medbench.fish
function __medbench_complete
    set -l words (commandline -opc)
    for line in (_MEDBENCH_LINE=(commandline -cp | string collect) $words[1] 2>/dev/null)
        switch $line
            case ':files*'
                __fish_complete_path (commandline -ct)
            case ':dirs*'
                __fish_complete_directories (commandline -ct)
            case '*'
                echo $line
        end
    end
end
complete -c medbench -f -a '(__medbench_complete)'
