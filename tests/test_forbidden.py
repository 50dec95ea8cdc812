"""Things that no file of the project may do."""

import ast
from pathlib import Path

import pytest
from source_files import ROOT, source_files

OUTPUT_MODULE = Path("tasks/foundation/console.py")
MAX_LINES = 600
MAX_FUNCTION_LINES = 100
# Each broad handler has its reason beside it; a new one needs a decision, not a habit.
BROAD_HANDLERS = {
    Path("adapters/function.py"): 1,  # what a user's function raises is the error of one sample
    Path("adapters/guarding.py"): 3,  # what a plugin raises is the error of one sample
    Path("adapters/hf/processing.py"): 1,
    Path("harness/cli.py"): 1,  # what nobody foresaw is a sentence, with its traceback in a file
    Path("tasks/foundation/files.py"): 1,  # whatever stops a writer, its half file goes
    Path("tasks/foundation/last_resort.py"): 1,  # as in harness/cli.py, in the folder of the work
    Path("tasks/foundation/model_files.py"): 1,  # libraries wrap their lack of memory in errors of their own
    Path("tasks/foundation/registry.py"): 1,
    Path("tasks/metrics/asked.py"): 2,  # what a plugin raises costs that metric alone
    Path("tasks/metrics/clinical.py"): 1,  # what the library raises costs that metric alone
    Path("tasks/metrics/meteor.py"): 1,
    Path("tasks/prepare.py"): 1,  # what a plugin's reader raises
    Path("unimed/training/folder.py"): 1,  # tokenizers raises nothing narrower where it cannot write
    Path("unimed/tokens.py"): 2,
}


def calls(tree: ast.Module) -> list[str]:
    return [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def broad_handlers(tree: ast.Module) -> int:
    caught = [node.type for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler)]
    return sum(kind is None or ast.unparse(kind) in {"Exception", "BaseException"} for kind in caught)


def offenders(forbidden: set[str], allowed: Path | None = None) -> dict[str, list[str]]:
    found = {
        str(path): [name for name in calls(tree) if name in forbidden]
        for path, tree in source_files()
        if path != allowed
    }
    return {path: names for path, names in found.items() if names}


def test_only_the_output_module_writes_to_the_terminal() -> None:
    writers = {"print", "sys.stdout.write", "sys.stderr.write", "rich.print", "click.echo", "click.secho"}
    assert offenders(writers, OUTPUT_MODULE) == {}


def test_nothing_evaluates_text() -> None:
    assert offenders({"eval", "exec", "compile", "os.system", "subprocess.getoutput"}) == {}


def test_pickles_are_read_by_the_restricted_unpickler_only() -> None:
    unsafe = {"pickle.load", "pickle.loads", "pickle.Unpickler", "joblib.load", "yaml.load"}
    assert offenders(unsafe, Path("tasks/restricted_pickle.py")) == {}


def test_torch_reads_tensors_only() -> None:
    found = [
        (path, {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords})
        for path, tree in source_files()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"
    ]
    assert found
    assert all(keywords.get("weights_only") == "True" for _, keywords in found)


def test_numpy_never_unpickles() -> None:
    for path, tree in source_files():
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert ast.unparse(node.value) == "False", path


def test_broad_handlers_are_counted() -> None:
    found = {path: broad_handlers(tree) for path, tree in source_files()}
    assert {path: number for path, number in found.items() if number} == BROAD_HANDLERS


def test_there_are_no_asserts_outside_the_tests() -> None:
    found = [path for path, tree in source_files() if any(isinstance(node, ast.Assert) for node in ast.walk(tree))]
    assert found == []


def test_files_and_functions_stay_readable() -> None:
    long_files: list[Path] = []
    long_functions: list[str] = []
    for path, tree in source_files():
        if len((ROOT / path).read_text(encoding="utf-8").splitlines()) > MAX_LINES:
            long_files.append(path)
        long_functions += [
            f"{path}: {node.name}"
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno > MAX_FUNCTION_LINES
        ]
    assert (long_files, long_functions) == ([], [])


@pytest.mark.parametrize("text", ["print('x')", "eval('1')", "pickle.loads(b'')"])
def test_the_check_sees_calls(text: str) -> None:
    assert calls(ast.parse(text)) == [text.partition("(")[0]]
