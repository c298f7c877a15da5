"""The native kernel beside what every backend is held to: building, refusing, threads, limits."""

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from longspan.attention import api, attend, native, native_build

SOURCE = Path(native.__file__).parents[2]
needs_kernel = pytest.mark.usefixtures("kernel")
DTYPES = [torch.float32, torch.bfloat16]


@pytest.fixture(scope="session")
def kernel():
    if reason := native.unavailable():
        pytest.skip(reason)


@pytest.fixture
def run(make_qkv):
    """Output and gradients, as a list."""

    def run(plan, dtype, separate=True, backend="native"):
        qkv, global_qkv = make_qkv(plan, 4, 2, 16, torch.float32, separate)
        inputs = [x.to(dtype).requires_grad_() for x in (*qkv, *(global_qkv or ()))]
        out = attend(*inputs[:3], plan, global_qkv=tuple(inputs[3:]) or None, backend=backend)
        out_gradient = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
        return [out.detach(), *torch.autograd.grad(out, inputs, out_gradient)]

    return run


@pytest.fixture
def plan(make_plan):
    """A document of several segments, whose seams are no multiple of anything, and short ones."""
    return make_plan([2201, 3, 130], [0, 5, 1024, 1100, 2203, 2300], 37)


@needs_kernel
@pytest.mark.parametrize("separate", [False, True], ids=["shared", "separate"])
def test_segments_join_without_a_seam(plan, run, separate):
    exact = run(plan, torch.float64, separate, "reference")
    ours = [x.double() for x in run(plan, torch.float32, separate)]
    torch.testing.assert_close(ours, exact, atol=2e-5, rtol=2e-5)


# --- the same values, whoever computes them -----------------------------------------------------


@needs_kernel
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bits_do_not_depend_on_threads_or_repetition(plan, run, dtype):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = run(plan, dtype)
        torch.set_num_threads(2)
        for _ in range(5):
            assert all(a.equal(b) for a, b in zip(alone, run(plan, dtype), strict=True))
    finally:
        torch.set_num_threads(before)


@needs_kernel
@pytest.mark.parametrize("num_kv_heads", [1, 2])
def test_full_attention_of_few_heads_is_cut_and_still_the_oracles(make_plan, num_kv_heads):
    plan = make_plan([2100, 64], [3], None)
    inputs = [torch.randn(2164, h, 8, requires_grad=True) for h in (2, num_kv_heads, num_kv_heads)]
    out_gradient = torch.randn(2164, 2, 8)
    ours, exact = (
        [out, *torch.autograd.grad(out, inputs, out_gradient)]
        for out in (attend(*inputs, plan, backend=name) for name in ("native", "reference"))
    )
    torch.testing.assert_close(ours, exact, atol=2e-5, rtol=1e-4)


@needs_kernel
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_large_numbers_stay_finite(make_plan, dtype):
    plan = make_plan([300, 1], [0], 20)
    q = torch.full((301, 1, 16), -25.0, dtype=dtype)
    k = torch.full((301, 1, 16), 100.0, dtype=dtype)  # scores of -1e4 and, of one key, 0
    k[7] = 0
    v = torch.full((301, 1, 16), 1e4, dtype=dtype)
    inputs = [x.requires_grad_() for x in (q, k, v)]
    out = attend(*inputs, plan, backend="native")
    gradients = torch.autograd.grad(out.float().sum(), inputs)
    assert all(x.isfinite().all() for x in (out, *gradients))
    torch.testing.assert_close(out, torch.full_like(out, 1e4))


@needs_kernel
def test_a_nan_stays_in_its_rows(make_plan):
    plan = make_plan([400], [], 10)
    q, k, v = torch.randn(3, 400, 1, 8).unbind()
    k[200] = torch.nan
    out = attend(q, k, v, plan, backend="native")
    broken = out.isnan().any(-1).squeeze(1).nonzero().squeeze(1)
    assert broken.tolist() == list(range(190, 211))


# --- as PyTorch's other operators ---------------------------------------------------------------


@needs_kernel
def test_autocast_computes_in_its_dtype_and_returns_gradients_in_ours(plan, make_qkv):
    qkv, _ = make_qkv(plan, 2, 2, 8, torch.float32)
    inputs = [x.requires_grad_() for x in qkv]
    with torch.autocast("cpu", torch.bfloat16):
        out = attend(*inputs, plan, backend="native")
    assert out.dtype == torch.bfloat16
    gradients = torch.autograd.grad(out.float().sum(), inputs)
    assert {x.dtype for x in gradients} == {torch.float32}
    expected = attend(*(x.bfloat16() for x in qkv), plan, backend="native")
    assert out.equal(expected)


@needs_kernel
def test_gradient_checkpointing_and_inference_mode(plan, make_qkv):
    qkv, _ = make_qkv(plan, 2, 1, 8, torch.float32)
    inputs = [x.requires_grad_() for x in qkv]

    def call(*inputs):
        return attend(*inputs, plan, backend="native")

    plain = call(*inputs)
    kept = checkpoint(call, *inputs, use_reentrant=False)
    with torch.inference_mode():
        assert call(*inputs).equal(plain)
    for ours, expected in zip(
        torch.autograd.grad(kept.sum(), inputs), torch.autograd.grad(plain.sum(), inputs)
    ):
        assert ours.equal(expected)


@needs_kernel
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_operators_are_registered_as_pytorch_demands(make_plan, make_qkv):
    plan = make_plan([30, 5], [0, 31], 4)
    (q, k, v), _ = make_qkv(plan, 2, 1, 8, torch.float32)
    inputs = [x.requires_grad_() for x in (q, k, v)]
    arguments = (*inputs, None, None, None, plan.cu_seqlens, plan.global_index, 4, False, 0.3)
    checks = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(torch.ops.longspan.attention.default, arguments, test_utils=checks)


@needs_kernel
def test_any_strides_give_the_same(plan, make_qkv):
    (q, k, v), _ = make_qkv(plan, 2, 2, 8, torch.float32)
    expected = attend(q, k, v, plan, backend="native")
    turned = [x.permute(2, 1, 0).contiguous().permute(2, 1, 0) for x in (q, k, v)]
    assert not turned[0].is_contiguous()
    assert attend(*turned, plan, backend="native").equal(expected)


# --- what it cannot do --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "device", "dropout_p", "message"),
    [
        (torch.float64, "cpu", 0.0, r"in float32 and bfloat16, not in float64; or use blocked"),
        (torch.float16, "cpu", 0.0, r"not in float16"),
        (torch.float32, "meta", 0.0, r"it runs on the CPU, not on meta"),
        (torch.float32, "cpu", 0.1, r"it has no dropout \(dropout_p=0.1\); set it to 0"),
    ],
)
def test_what_it_cannot_serve_is_refused_by_name_and_left_to_blocked(
    dtype, device, dropout_p, message, make_plan
):
    plan = make_plan([6], [0], 1)
    qkv = [torch.zeros(6, 2, 8, dtype=dtype, device=device) for _ in range(3)]
    with pytest.raises(ValueError, match=message):
        attend(*qkv, plan, backend="native", dropout_p=dropout_p)
    assert api._choose("auto", qkv[0], plan, dropout_p) == "blocked"


@pytest.fixture
def not_yet_loaded(monkeypatch):
    """As in a process that has not used the kernel yet."""
    monkeypatch.setattr(api, "_announced", set())
    for module, name in ((native, "unavailable"), (native, "_load"), (native_build, "library")):
        monkeypatch.setattr(module, name, getattr(module, name).__wrapped__)


@pytest.mark.parametrize(
    ("lacking", "message"),
    [
        ({"CXX": "no-such-compiler"}, r"no C\+\+ compiler 'no-such-compiler'; install g\+\+ or"),
        ({"processor": {"avx2"}}, r"it needs AVX-512, and this processor .* lacks avx512"),
    ],
    ids=["compiler", "processor"],
)
def test_without_a_kernel_blocked_serves_and_the_log_says_why_once(
    lacking, message, not_yet_loaded, make_plan, monkeypatch, caplog
):
    if "CXX" in lacking:
        monkeypatch.setenv("CXX", lacking["CXX"])
        monkeypatch.setattr(native_build, "processor_flags", lambda: native_build.REQUIRED)
    else:
        monkeypatch.setattr(native_build, "processor_flags", lambda: lacking["processor"])
    plan = make_plan([6], [0], 1)
    qkv = [torch.randn(6, 2, 8) for _ in range(3)]
    with caplog.at_level(logging.INFO, logger="longspan.attention"):
        for _ in range(3):
            out = attend(*qkv, plan)
    assert out.equal(attend(*qkv, plan, backend="blocked"))
    (record,) = caplog.records
    assert record.getMessage().startswith("attention backend: blocked (plain PyTorch; not native:")
    assert ("no C++ compiler" in record.getMessage()) == ("CXX" in lacking)
    with pytest.raises(ValueError, match=message):
        attend(*qkv, plan, backend="native")


# --- the cache ----------------------------------------------------------------------------------


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """Stands in for a compiler: writes the file it should, and a line into `calls`."""
    program = tmp_path / "compiler"
    calls = tmp_path / "calls"
    program.write_text(
        f'#!/bin/sh\necho "$@" >> {calls}\n[ "$1" = --version ] && exit\n'
        'while [ $# -gt 1 ]; do [ "$1" = -o ] && echo > "$2"; shift; done\n'
    )
    program.chmod(0o755)
    calls.touch()
    monkeypatch.setenv("CXX", str(program))
    monkeypatch.setenv("LONGSPAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(native_build, "processor_flags", lambda: native_build.REQUIRED)
    # the cached result belongs to the real compiler
    monkeypatch.setattr(native_build, "library", native_build.library.__wrapped__)
    return calls


def compilations(calls):
    return sum(" -c " in f" {line}" for line in calls.read_text().splitlines())


def test_it_is_compiled_once_into_a_folder_of_ones_own(compiler, tmp_path):
    first, second = native_build.library(), native_build.library()
    assert first == second
    assert first.parent == tmp_path / "cache"
    assert compilations(compiler) == len(list(native_build.CSRC.glob("*.cpp")))
    assert first.parent.stat().st_mode & 0o777 == 0o700
    assert sorted(x.name for x in first.parent.iterdir()) == sorted([first.name, "lock"])


def test_another_version_or_processor_is_compiled_anew(compiler, monkeypatch):
    files = {native_build.library()}
    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", "99.0")
        files.add(native_build.library())
    with monkeypatch.context() as patch:
        patch.setattr(native_build, "processor_flags", lambda: native_build.REQUIRED | {"amx"})
        files.add(native_build.library())
    assert len(files) == 3


def test_a_compiler_that_fails_is_named_with_its_error(compiler, tmp_path):
    program = tmp_path / "compiler"
    program.write_text("#!/bin/sh\n[ $1 = --version ] || { echo 'x.h:1: error: odd' >&2; exit 1; }")
    with pytest.raises(native_build.CannotBuildError, match=r"compiler failed: x.h:1: error: odd;"):
        native_build.library()
    assert [x.name for x in (tmp_path / "cache").iterdir()] == ["lock"]


@pytest.mark.parametrize("danger", ["folder", "library", "link"])
def test_what_others_can_write_is_not_loaded(danger, compiler, tmp_path):
    cache = tmp_path / "cache"
    if danger == "folder":
        cache.mkdir()
        cache.chmod(0o777)
        assert native_build.library().parent != cache
        return
    file = native_build.library()
    if danger == "library":
        file.chmod(0o722)
    else:
        file.rename(tmp_path / "elsewhere")
        file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionError, match=str(file)):
        native_build.library()


@pytest.mark.parametrize("missing", ["home", "folder"])
def test_without_a_place_of_ones_own_a_temporary_one_serves(
    missing, compiler, tmp_path, monkeypatch
):
    monkeypatch.delenv("LONGSPAN_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if missing == "home":
        monkeypatch.setattr(Path, "home", lambda: Path("~nobody").expanduser() / "no")
        monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    else:
        (tmp_path / "file").touch()  # also root cannot make a folder below a file
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    folder = native_build.library().parent
    assert folder.name.startswith("longspan-")
    assert folder.stat().st_mode & 0o777 == 0o700


def test_two_processes_compile_once(compiler, tmp_path):
    program = tmp_path / "compiler"
    program.write_text(program.read_text().replace("while", "sleep 0.5\nwhile", 1))
    code = (
        "from longspan.attention import native_build as b; b.processor_flags = lambda: b.REQUIRED;"
        "print(b.library())"
    )
    environment = os.environ | {"PYTHONPATH": str(SOURCE)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    files = {process.communicate()[0] for process in started}
    assert [process.returncode for process in started] == [0, 0]
    assert len(files) == 1
    assert compilations(compiler) == len(list(native_build.CSRC.glob("*.cpp")))


# --- memory -------------------------------------------------------------------------------------

# what the kernel allocates for itself, no operator returns: only the process shows it
PEAK = """
import resource, sys, torch
from longspan.attention import AttentionPlan, Pattern, attend
def run(tokens, global_tokens):
    global_mask = torch.zeros(tokens, dtype=torch.bool)
    global_mask[:global_tokens] = True
    plan = AttentionPlan(torch.tensor([0, tokens], dtype=torch.int32), global_mask, Pattern(16))
    qkv = [torch.randn(tokens, 1, 16, requires_grad=True) for _ in range(3)]
    attend(*qkv, plan, backend="native").sum().backward()
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
run(64, 1)
before = peak()
run(int(sys.argv[1]), int(sys.argv[2]))
print(peak() - before)
"""


@needs_kernel
@pytest.mark.parametrize(("tokens", "global_tokens"), [(65536, 1), (16384, 1024)])
def test_the_process_holds_no_square(tokens, global_tokens):
    finished = subprocess.run(
        [sys.executable, "-c", PEAK, str(tokens), str(global_tokens)],
        env=os.environ | {"PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=True,
    )
    # q, k, v, out and their gradients are eight times T * E; a matrix of T x T would be 17 GB and
    # 1 GB, the scores of the global tokens alone 67 MB in the second case
    assert int(finished.stdout) < 40 * tokens * 16 * 4


# --- memory errors ------------------------------------------------------------------------------

SANITIZED = """
import sys, torch
from longspan.attention import AttentionPlan, Pattern, attend, native_build
from pathlib import Path
native_build.library = lambda: Path(sys.argv[1])
torch.set_num_threads(2)
cases = [
    ([1], [], 0), ([5, 1, 3], [0, 6], 1), ([130, 64], [3, 150], 7), ([130], range(130), 9),
    ([1100, 9], [0, 500, 1099, 1103], 33), ([700], [1], None),
]
for lengths, places, window in cases:
    for dtype in (torch.float32, torch.bfloat16):
        for heads, kv_heads, size in ((1, 1, 1), (4, 2, 17), (2, 2, 64)):
            for separate in (False, True):
                tokens = sum(lengths)
                global_mask = torch.zeros(tokens, dtype=torch.bool)
                global_mask[list(places)] = True
                bounds = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0).int()
                plan = AttentionPlan(bounds, global_mask, Pattern(window))
                def make(n, h):
                    return torch.randn(n, h, size).to(dtype).requires_grad_()
                qkv = [make(tokens, heads), make(tokens, kv_heads), make(tokens, kv_heads)]
                more = None
                if separate:
                    more = (make(len(places), heads), make(tokens, kv_heads), make(tokens, kv_heads))
                attend(*qkv, plan, global_qkv=more, backend="native").float().sum().backward()
                assert all(x.grad.isfinite().all() for x in (*qkv, *(more or ())))
print("clean")
"""


@needs_kernel
@pytest.mark.slow
def test_the_kernel_touches_no_memory_but_its_own(tmp_path):
    compiler = shutil.which(native_build.cpp_extension.get_cxx_compiler())
    sanitizer = subprocess.run(
        [compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if not Path(sanitizer).is_absolute():
        pytest.skip("the compiler has no AddressSanitizer")
    library = native_build.compile_library(compiler, tmp_path, ("-fsanitize=address", "-g1", "-O1"))
    finished = subprocess.run(
        [sys.executable, "-c", SANITIZED, str(library)],
        env=os.environ
        | {
            "PYTHONPATH": str(SOURCE),
            "LD_PRELOAD": sanitizer,
            "ASAN_OPTIONS": "detect_leaks=0",  # Python's own
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-4000:]
    assert finished.stdout == "clean\n"
