"""Nothing in our source can run what it reads: the calls that do are not there to be reached."""

import ast
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(
    [
        *(ROOT / "src").rglob("*.py"),
        *(ROOT / "benchmarks").rglob("*.py"),
        *(ROOT / "data").rglob("*.py"),
        *(ROOT / ".ci").rglob("*.py"),
        ROOT / "train.py",
        ROOT / "eval.py",
    ]
)
# of builtins
RUNS_TEXT = {"eval", "exec", "compile", "__import__"}
# modules whose loading is running; the name of an error is all that may be had of them
RUNS_BYTES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib",
              "runpy", "code", "imp"}  # fmt: skip
# the last two parts of a call's name, or the last alone where nothing harmless has it
FORBIDDEN = {
    "os.system", "os.popen", "tempfile.mktemp", "importlib.import_module", "hub.load", "jit.load",
    "yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.unsafe_load_all", "yaml.full_load",
    "yaml.full_load_all", "utils.call", "utils.get_class", "utils.get_object", "instantiate",
    "read_pickle", "load_from_checkpoint", "load_state_dict_from_url", "get_class_from_dynamic_module",
    "exec_module", "run_path", "run_module",
}  # fmt: skip
# what stands there all the same, and why
ALLOWED = {
    ("src/longspan/registration.py", "exec_module"),  # of transformers, which is installed
}


def name_of(call: ast.Call) -> str:
    return ast.unparse(call.func)


def keyword(call: ast.Call, name: str) -> object:
    """The constant that a keyword gives; ... where it is not given, or is no constant."""
    for given in call.keywords:
        if given.arg == name and isinstance(given.value, ast.Constant):
            return given.value.value
    return ...


def offences(source: str) -> list[str]:
    """What of a source could run data, as `line: call`."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [f"{node.lineno}: import {a.name}" for a in node.names
                      if a.name.partition(".")[0] in RUNS_BYTES]  # fmt: skip
        elif isinstance(node, ast.ImportFrom) and (node.module or "") in RUNS_BYTES:
            found += [f"{node.lineno}: {a.name} of {node.module}" for a in node.names
                      if not a.name.endswith("Error")]  # fmt: skip
        elif isinstance(node, ast.Call) and is_forbidden(node):
            found.append(f"{node.lineno}: {name_of(node)}")
    return found


def is_forbidden(call: ast.Call) -> bool:
    name = name_of(call)
    parts = name.rsplit(".", 2)
    last = parts[-1]
    if "." not in name and name in RUNS_TEXT:
        return True
    if {last, ".".join(parts[-2:])} & FORBIDDEN:
        return True
    if name == "torch.load" and keyword(call, "weights_only") is not True:
        return True
    if keyword(call, "allow_pickle") is not ... and keyword(call, "allow_pickle") is not False:
        return True
    if keyword(call, "shell") is True:
        return True
    if last == "from_pretrained" and name.partition(".")[0] in ("AutoConfig", "AutoTokenizer"):
        return keyword(call, "trust_remote_code") is not False
    return any(
        given.arg in ("trust_remote_code", "weights_only")
        and not isinstance(given.value, ast.Constant)
        for given in call.keywords
    ) or keyword(call, "trust_remote_code") not in (False, ...)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_call_runs_what_it_reads(file):
    place = str(file.relative_to(ROOT))
    found = offences(file.read_text(encoding="utf-8"))
    allowed = [name for where, name in ALLOWED if where == place]
    assert [o for o in found if not o.endswith(tuple(allowed) or ("\0",))] == []


@pytest.mark.parametrize(
    "source",
    [
        "eval(text)",
        "import pickle",
        "from pickle import loads",
        "from joblib import load",
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "torch.load(f, weights_only=flag)",
        "np.load(f, allow_pickle=True)",
        "pd.read_pickle(f)",
        "yaml.load(f, Loader=yaml.SafeLoader)",
        "hydra.utils.instantiate(config)",
        "instantiate(config)",
        "subprocess.run(c, shell=True)",
        "os.system(c)",
        "AutoTokenizer.from_pretrained(f)",
        "AutoModel.from_pretrained(f, trust_remote_code=True)",
        "LongDocumentModule.load_from_checkpoint(f)",
        "tempfile.mktemp()",
        "importlib.import_module(name)",
    ],
)
def test_what_would_run_data_is_found(source):
    assert offences(source)


@pytest.mark.parametrize(
    "source",
    [
        "model.eval()",
        "re.compile(x)",
        "torch.compile(f)",
        "from pickle import UnpicklingError",
        "torch.load(f, map_location='cpu', weights_only=True)",
        "np.load(f)",
        "yaml.safe_load(f)",
        "subprocess.run([c])",
        "AutoTokenizer.from_pretrained(f, trust_remote_code=False)",
    ],
)
def test_what_is_harmless_is_not(source):
    assert not offences(source)


def targets(node: object) -> list[str]:
    if isinstance(node, list):
        return [found for item in node for found in targets(item)]
    if not isinstance(node, dict):
        return []
    own = [str(value) for key, value in node.items() if key == "_target_"]
    return own + [found for value in node.values() for found in targets(value)]


def test_hydra_makes_objects_of_our_own_plugin_alone():
    found = [
        target
        for file in sorted((ROOT / "conf").rglob("*.yaml"))
        for target in targets(yaml.safe_load(file.read_text(encoding="utf-8")))
    ]
    assert found
    assert all(target.startswith("hydra_plugins.longspan_sweeper.") for target in found)
