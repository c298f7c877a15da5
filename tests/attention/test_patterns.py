"""Every rule of a pattern, written down a second time as loops from the papers' definitions.

What one field means is a function of two places in a document; what fields mean together is the
union of those, on the left only where the pattern is causal. Backends are held to `reference`,
forward and backward, over all combinations of small fields.
"""

from dataclasses import replace
from itertools import accumulate, pairwise, product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from longspan.attention import (
    AttentionPlan,
    Pattern,
    attend,
    auto_backend,
    block_lists,
    native,
    refusal,
)
from longspan.attention.contradictions import contradictions
from longspan.attention.key_tables import Layout
from longspan.attention.sparse_blocks import BLOCK
from longspan.attention.token_rules import rule

LENGTHS = (1, 2, 3, 5, 8, 4)
GLOBALS = ((), (0,), (4, 9, 10))


def loops(pattern, length, is_global, head, num_heads):
    """(N, N) bool of one document and head, pair by pair."""
    mask = torch.zeros(length, length, dtype=torch.bool)
    table = random_blocks(pattern, length, head, num_heads)
    for i, j in product(range(length), repeat=2):
        near = near_by_loop(pattern, i, length, head, num_heads)
        extra = j < pattern.sinks
        extra |= pattern.stride > 0 and (i - j) % pattern.stride == 0
        extra |= j % pattern.block in range(pattern.block - pattern.summaries, pattern.block)
        extra |= j // pattern.block in table[i // pattern.block]
        mask[i, j] = (j in near or extra) and not (pattern.causal and j > i)
    for i, j in product(range(length), repeat=2):
        mask[i, j] |= is_global_by_loop(pattern, i, length, is_global)
        mask[i, j] |= is_global_by_loop(pattern, j, length, is_global)
    return mask


def near_by_loop(pattern, i, length, head, num_heads):
    if pattern.window is None:
        return range(length)
    if pattern.block > 1:  # BigBird: one token stands for its block
        own = i // pattern.block
        blocks = range(own - pattern.window, own + pattern.window + 1)
        return [b * pattern.block + t for b in blocks for t in range(pattern.block)]
    groups = pattern.dilation if isinstance(pattern.dilation, tuple) else (pattern.dilation,)
    dilation = groups[head // (num_heads // len(groups))]
    return [i + dilation * step for step in range(-pattern.window, pattern.window + 1)]


def is_global_by_loop(pattern, i, length, is_global):
    num_blocks = (length + pattern.block - 1) // pattern.block
    edges = pattern.global_edges
    at_edge = i // pattern.block in [*range(edges), *range(num_blocks - edges, num_blocks)]
    return bool(is_global[i]) or at_edge


def random_blocks(pattern, length, head, num_heads):
    """Of a pattern's own draw: what it draws is tested below."""
    num_blocks = -(-length // pattern.block)
    of_head = next(p for heads, p in pattern.by_head(num_heads) if head in range(num_heads)[heads])
    return of_head.drawn_blocks(num_blocks)


def make_plan(pattern, lengths=LENGTHS, chosen=()):
    is_global = torch.zeros(sum(lengths), dtype=torch.bool)
    is_global[list(chosen)] = True
    return AttentionPlan(torch.tensor([0, *accumulate(lengths)]).int(), is_global, pattern)


def looped_mask(plan, head=0, num_heads=1):
    mask = torch.zeros(plan.num_tokens, plan.num_tokens, dtype=torch.bool)
    for first, last in pairwise(plan.cu_seqlens.tolist()):
        own = slice(first, last)
        document = loops(plan.pattern, last - first, plan.global_mask[own], head, num_heads)
        mask[own, own] = document
    return mask


def dense_mask(plan):
    """Of the only head."""
    ((_, own),) = plan.by_head(1)
    return own.pattern.dense_mask(own.cu_seqlens, own.global_mask)


def combinations(**values):
    """Every pattern of these fields' values that means something."""
    defaults = vars(Pattern(0))
    for chosen in product(*values.values()):
        fields = defaults | dict(zip(values, chosen, strict=True))
        if not list(contradictions(**fields)):
            yield Pattern(**fields)


OF_TOKENS = list(
    combinations(
        window=(0, 1, 3, None), causal=(False, True), sinks=(0, 2), dilation=(1, 2, 3),
        stride=(0, 3), random_blocks=(0, 1),
    )
)  # fmt: skip
OF_BLOCKS = list(
    combinations(
        window=(0, 1), causal=(False, True), sinks=(0, 1), block=(2, 3), global_edges=(0, 1),
        random_blocks=(0, 2), stride=(0, 4), summaries=(0, 1),
    )
)  # fmt: skip
PATTERNS = OF_TOKENS + OF_BLOCKS


def plans_of(patterns):
    for pattern, chosen in product(patterns, GLOBALS):
        if not (pattern.causal and chosen):
            yield make_plan(pattern, chosen=chosen)


# --- the definition -----------------------------------------------------------------------------


def test_the_mask_is_the_rule():
    assert len(PATTERNS) > 250
    for plan in plans_of(PATTERNS):
        dense = dense_mask(plan)
        assert dense.equal(looped_mask(plan)), (plan.pattern, plan.global_index)
        assert dense.diagonal().all(), "a token that does not see itself may see nothing"


# The same once more, as each source says it, of one document of N tokens.
N, W, L = 23, 4, 5
SOURCES = {
    # Longformer, section 3.1: a window of size w, w/2 on each side
    "sliding window": (Pattern(W), lambda i: {j for j in range(N) if abs(i - j) <= 2 * W / 2}),
    # there: gaps of size dilation; our number is the step, theirs plus one
    "dilated": (Pattern(W, dilation=3), lambda i: {i + 3 * s for s in range(-W, W + 1)}),
    # Mistral 7B, Jiang et al. 2023, section 2: positions i - W to i; in transformers the
    # `sliding_window` counts i itself: 0 <= i - j < sliding_window
    "mistral": (Pattern(W, causal=True), lambda i: {j for j in range(N) if 0 <= i - j < W + 1}),
    # StreamingLLM, figure 4: initial tokens and a rolling cache of recent ones
    "streaming": (
        Pattern(W, causal=True, sinks=2),
        lambda i: {j for j in range(i + 1) if j < 2 or j >= i - W},
    ),
    # Sparse Transformer, section 4.3, both heads merged: A1 = {t..i}, t = max(0, i - l), and
    # A2 = {j: (i - j) mod l = 0}
    "strided": (
        Pattern(L, causal=True, stride=L),
        lambda i: {*range(max(0, i - L), i + 1), *(j for j in range(i + 1) if (i - j) % L == 0)},
    ),
    # there: A1 = {j: floor(j/l) = floor(i/l)}, A2 = {j: j mod l in {t..l}}, t = l - c
    "fixed": (
        Pattern(0, causal=True, block=L, summaries=2),
        lambda i: {j for j in range(i + 1) if j // L == i // L or j % L in range(L - 2, L)},
    ),
    # BigBird, appendix D: a window of three blocks, the first global, in the code the last too
    "bigbird without random blocks": (
        Pattern(1, block=L, global_edges=1),
        lambda i: {
            j for j in range(N)
            if abs(i // L - j // L) <= 1 or {i // L, j // L} & {0, (N - 1) // L}
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SOURCES)
def test_the_mask_is_what_the_source_says(name):
    pattern, seen_by = SOURCES[name]
    plan = make_plan(pattern, [N])
    dense = pattern.dense_mask(plan.cu_seqlens, plan.global_mask)
    expected = torch.tensor([[j in seen_by(i) for j in range(N)] for i in range(N)])
    assert dense.equal(expected)


def test_groups_of_heads_have_their_dilation():
    plan = make_plan(Pattern(2, dilation=(3, 1, 1)), chosen=(7,))
    own = plan.by_head(6)
    assert [(heads.start, heads.stop) for heads, _ in own] == [(0, 2), (2, 4), (4, 6)]
    for heads, of_head in own:
        dense = of_head.pattern.dense_mask(plan.cu_seqlens, plan.global_mask)
        assert dense.equal(looped_mask(plan, heads.start, 6))
    with pytest.raises(ValueError, match="groups that do not divide 4 heads"):
        plan.by_head(4)


# --- random blocks ------------------------------------------------------------------------------


def test_random_blocks_are_those_that_are_not_seen_anyway():
    pattern = Pattern(1, block=4, global_edges=1, random_blocks=3, random_seed=(7, 2))
    for num_blocks in range(1, 14):
        for row, drawn in enumerate(pattern.drawn_blocks(num_blocks)):
            free = {b for b in range(1, num_blocks - 1) if abs(b - row) > 1}
            assert len(set(drawn)) == len(drawn) == min(3, len(free))
            assert set(drawn) <= free


def test_random_blocks_depend_on_seed_layer_head_and_nothing_else():
    pattern = Pattern(1, block=4, random_blocks=2, random_seed=(0, 5))
    heads = [p.drawn_blocks(40) for _, p in pattern.by_head(4)]
    assert heads == [p.drawn_blocks(40) for _, p in pattern.by_head(8)][:4]
    others = [replace(pattern, random_seed=s) for s in ((0, 6), (1, 5))]
    assert len({str(h) for h in [*heads, *(o.drawn_blocks(40) for o in others)]}) == 6
    # what a model was trained with must not change with a version of a library
    assert heads[0][:4] == FIRST_BLOCKS


FIRST_BLOCKS = [[28, 35], [25, 31], [8, 27], [26, 37]]


def test_a_given_table_is_taken_as_it_is():
    table = (((2,), (3,), (0,), (1,)), ((3,), (3,), (0,), (0,)))
    pattern = Pattern(0, block=2, random_blocks=1, random_table=table)
    plan = make_plan(pattern, [8, 3])
    for head in (0, 1):
        own = plan.by_head(2)[head][1].pattern
        assert own.drawn_blocks(4) == [list(row) for row in table[head]]
        dense = own.dense_mask(plan.cu_seqlens, plan.global_mask)
        assert dense[0, :8].tolist() == [j // 2 in (0, table[head][0][0]) for j in range(8)]
        assert dense[8:, 8:].sum() == (5 if table[head][0] != (0,) else 0), "3 tokens, 2 blocks"
    with pytest.raises(ValueError, match="random_table has 4 blocks, a document 5"):
        attend(*qkv(make_plan(pattern, [10]), 2, 2), make_plan(pattern, [10]), backend="blocked")
    with pytest.raises(ValueError, match="random_table is of 2 heads, the call of 3"):
        plan.by_head(3)


# --- backends -----------------------------------------------------------------------------------


def qkv(plan, num_heads, num_kv_heads, dtype=torch.float64):
    generator = torch.Generator().manual_seed(plan.num_tokens)
    sizes = (num_heads, num_kv_heads, num_kv_heads)
    return [torch.randn(plan.num_tokens, n, 4, generator=generator).to(dtype) for n in sizes]


def global_qkv(plan, num_heads, num_kv_heads, dtype):
    q, k, v = qkv(plan, num_heads, num_kv_heads, dtype)
    return q.flip(0)[plan.global_index], k.flip(0), v.flip(0)


def results(plan, backend, dtype=torch.float64, heads=(1, 1), separate=False, **arguments):
    """Output and gradients."""
    own = global_qkv(plan, *heads, dtype) if separate else ()
    inputs = [x.requires_grad_() for x in (*qkv(plan, *heads, dtype), *own)]
    of_globals = tuple(inputs[3:]) or None
    out = attend(*inputs[:3], plan, global_qkv=of_globals, backend=backend, **arguments)
    probe = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    return [out.detach(), *torch.autograd.grad(out, inputs, probe, materialize_grads=True)]


def assert_as_reference(plan, backend, dtype=torch.float64, **arguments):
    expected = results(plan, "reference", **arguments)
    ours = results(plan, backend, dtype, **arguments)
    where = f"{plan.pattern}; global: {plan.global_index.tolist()}"
    tolerance = {torch.float64: 1e-9, torch.float32: 2e-5}[dtype]
    torch.testing.assert_close(
        [x.double() for x in ours], expected, atol=tolerance, rtol=tolerance,
        msg=lambda text: f"{where}: {text}",
    )  # fmt: skip


def masked_attention(plan, heads):
    """As `results`, by PyTorch's own attention under the masks of the loops."""
    inputs = [x.requires_grad_() for x in qkv(plan, *heads)]
    mask = torch.stack([looped_mask(plan, head, heads[0]) for head in range(heads[0])])
    out = F.scaled_dot_product_attention(
        *(x.transpose(0, 1) for x in inputs), attn_mask=mask, enable_gqa=True
    ).transpose(0, 1)
    probe = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, inputs, probe)]


def test_reference_is_masked_attention():
    for plan in plans_of(PATTERNS[::7]):
        expected = masked_attention(plan, (1, 1))
        torch.testing.assert_close(results(plan, "reference"), expected)


OF_HEADS = [
    Pattern(2, dilation=(3, 1, 1), sinks=1),
    Pattern(1, causal=True, dilation=(2, 1, 4), sinks=2),
    Pattern(1, random_blocks=2, random_seed=(3, 1)),
    Pattern(0, block=2, random_blocks=1, random_seed=(3, 2), global_edges=1),
    Pattern(0, block=8, random_blocks=1, random_seed=(3, 3), sinks=1),
    Pattern(1, causal=True, block=8, random_blocks=1, random_seed=(3, 4), summaries=2),
    Pattern(0, block=8, random_blocks=2, random_table=(((0, 3), (3, 3), (1, 2), (0, 0)),) * 6),
]


@pytest.mark.parametrize("pattern", OF_HEADS, ids=str)
def test_each_head_has_its_own_mask(pattern):
    """What parts heads and puts them together again, all backends share: it is no oracle's."""
    plan = make_plan(pattern, [30, 1, 17], () if pattern.causal else (3, 31))
    masks = [looped_mask(plan, head, 6) for head in range(6)]
    assert any(not mask.equal(masks[0]) for mask in masks) == (pattern.random_table is None)
    for heads in ((6, 6), (6, 3), (6, 1)):
        expected = masked_attention(plan, heads)
        for backend in ("reference", "blocked"):
            torch.testing.assert_close(results(plan, backend, heads=heads), expected)
        if pattern.random_blocks == 0 and native.unavailable() is None:
            ours = results(plan, "native", torch.float32, heads=heads)
            ours = [x.double() for x in ours]
            torch.testing.assert_close(ours, expected, atol=2e-5, rtol=2e-5)


def test_blocked_serves_every_combination():
    for plan in plans_of(PATTERNS):
        assert_as_reference(plan, "blocked")


def test_blocks_that_are_read_whole_serve_every_combination(monkeypatch):
    """Smaller ones than `blocked` reads so, for which the loops and the oracle are small enough."""
    monkeypatch.setattr(block_lists, "SMALLEST_BLOCK", 2)
    patterns = [p for p in OF_BLOCKS if block_lists.serves(p)]
    assert len(patterns) > 70
    for plan in plans_of(patterns):
        assert_as_reference(plan, "blocked")


@pytest.mark.parametrize("backend", ["reference", "blocked"])
@pytest.mark.parametrize(
    "pattern",
    [Pattern(4), Pattern(4, stride=7), Pattern(1, block=8, random_blocks=1, random_seed=(1, 0))],
    ids=str,
)
def test_autocast_does_not_round_scores(pattern, backend):
    plan = make_plan(pattern, [40, 9], (0,))
    q, k, v = (x * 5 for x in qkv(plan, 2, 2, torch.bfloat16))
    expected = attend(q, k, v, plan, backend=backend)
    with torch.autocast("cpu", torch.bfloat16):
        out = attend(q.float(), k.float(), v.float(), plan, backend=backend)
    assert out.dtype == torch.bfloat16
    assert out.equal(expected)


@pytest.mark.parametrize("block_size", [1, 2, 3])
def test_tables_hold_every_pair_once(block_size):
    for plan in plans_of(PATTERNS[::3]):
        counts = torch.zeros(plan.num_tokens, plan.num_tokens, dtype=torch.int64)
        for table in Layout(plan.cu_seqlens, plan.global_mask, plan.pattern).tables(block_size):
            own = table.query_index.flatten()[table.place]
            assert own.equal(torch.arange(plan.num_tokens))
            keys = table.key_index[:, None].expand_as(table.mask).flatten(0, 1)[table.place]
            seen = table.mask.flatten(0, 1)[table.place].long()
            counts.scatter_add_(1, keys, seen)
        local = ~plan.global_mask
        dense = plan.pattern.dense_mask(plan.cu_seqlens, plan.global_mask)
        assert counts[local].equal(dense[local].long()), plan.pattern


def test_pairs_are_counted_without_the_mask():
    for plan in plans_of(PATTERNS[::2]):
        assert plan.num_pairs == dense_mask(plan).sum(), plan.pattern


MANY = st.builds(
    Pattern,
    st.one_of(st.integers(0, 40), st.just(500)),
    causal=st.booleans(),
    sinks=st.integers(0, 9),
    dilation=st.one_of(st.integers(1, 9), st.tuples(st.integers(1, 4), st.integers(1, 4))),
    random_blocks=st.integers(0, 2),
    stride=st.one_of(st.just(0), st.integers(1, 40)),
) | st.builds(
    Pattern,
    st.integers(0, 4),
    block=st.integers(2, 33),
    sinks=st.integers(0, 9),
    global_edges=st.integers(0, 2),
    random_blocks=st.integers(0, 3),
    summaries=st.integers(0, 2),
    stride=st.one_of(st.just(0), st.integers(1, 40)),
)


@settings(max_examples=30)
@given(data=st.data())
def test_blocked_serves_long_documents_and_groups_of_heads(data):
    pattern = data.draw(MANY, label="pattern")
    lengths = data.draw(st.lists(st.integers(1, 250), min_size=1, max_size=3), label="lengths")
    chosen = () if pattern.causal else data.draw(st.sets(st.integers(0, sum(lengths) - 1)))
    heads = data.draw(st.sampled_from([(2, 2), (4, 2), (4, 1)]), label="heads")
    plan = make_plan(pattern, lengths, sorted(chosen)[:5])
    assert_as_reference(plan, "blocked", heads=heads, separate=data.draw(st.booleans()))


def test_work_follows_the_pairs_and_not_the_length():
    for pattern in (
        Pattern(64, causal=True, sinks=4),
        Pattern(64, dilation=8),
        Pattern(1, block=64, global_edges=1, random_blocks=3),
    ):
        computed = [
            sum(table.mask.numel() for table in make_plan(pattern, [n]).key_tables)
            for n in (2048, 4096)
        ]
        assert computed[1] <= 2.2 * computed[0], pattern
        assert computed[1] <= 6 * make_plan(pattern, [4096]).num_pairs
    # whole blocks: no more than those that are seen, and one of what all see
    lists = make_plan(Pattern(1, block=64, random_blocks=3), [4096], (0,)).block_lists(2)
    assert lists.chosen.shape == (2, 64, 3 + 3 + 1)
    # keys a token grow with n / l here, so that work is O(n * n / l)
    plan = make_plan(Pattern(64, stride=64, causal=True), [4096])
    assert sum(table.mask.numel() for table in plan.key_tables) <= 6 * plan.num_pairs


def test_dropout_is_of_probabilities():
    pattern = Pattern(3, sinks=2, stride=5)
    plan = make_plan(pattern, [40])
    zeros, values = torch.zeros(40, 1, 40), torch.eye(40)[:, None]
    torch.manual_seed(0)
    out = torch.stack(
        [attend(zeros, zeros, values, plan, backend="blocked", dropout_p=0.5) for _ in range(400)]
    )[:, :, 0]
    seen = pattern.mask(40)
    expected = seen / seen.sum(1, keepdim=True)
    assert {0.0, 2.0} == set((out / expected)[:, seen].round(decimals=4).unique().tolist())
    torch.testing.assert_close(out.mean(0), expected, atol=0.06, rtol=0)


# --- what means nothing -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"causal": True, "global_edges": 1}, "global tokens see, and are seen, both ways"),
        ({"window": None, "dilation": 2}, "full attention has no gaps"),
        ({"dilation": 2, "block": 4}, "blocks have no gaps"),
        ({"summaries": 1}, "block=1 must be larger"),
        ({"summaries": 5, "block": 4}, "block=4 must be larger"),
        ({"random_table": (((0,),),)}, "random_blocks=0; say how many"),
    ],
)
def test_fields_that_contradict_each_other(fields, message):
    with pytest.raises(ValueError, match=message):
        Pattern(**{"window": 2} | fields)


def test_global_tokens_have_no_place_in_a_causal_pattern():
    with pytest.raises(ValueError, match=r"2 global tokens see, .* use sinks"):
        make_plan(Pattern(2, causal=True), chosen=(0, 3))


# --- native -------------------------------------------------------------------------------------

WITHOUT_KERNEL = OF_BLOCKS + [p for p in OF_TOKENS if p.stride or p.random_blocks]


@pytest.fixture
def has_native():
    if reason := native.unavailable():
        pytest.skip(reason)


@pytest.mark.usefixtures("has_native")
@pytest.mark.parametrize("separate", [False, True], ids=["shared", "separate"])
def test_native_serves_causal_windows_sinks_and_dilation(separate):
    patterns = [p for p in OF_TOKENS if not (p.stride or p.random_blocks)]
    assert len(patterns) > 30
    for plan in plans_of(patterns):
        assert_as_reference(plan, "native", torch.float32, separate=separate)


@pytest.mark.usefixtures("has_native")
@settings(max_examples=12)
@given(data=st.data())
def test_native_serves_long_documents_and_groups_of_heads(data):
    window = st.one_of(st.integers(0, 40), st.sampled_from([200, 600, 1500]))
    dilation = st.one_of(st.integers(1, 9), st.tuples(st.integers(1, 4), st.integers(1, 4)))
    fields = {"causal": st.booleans(), "sinks": st.sampled_from([0, 1, 4, 20])}
    made = st.builds(Pattern, window, dilation=dilation, **fields)
    pattern = data.draw(made | st.builds(Pattern, st.none(), **fields), label="pattern")
    # segments of the kernel are of 512 queries and more
    lengths = data.draw(st.lists(st.integers(1, 1300), min_size=1, max_size=2), label="lengths")
    chosen = () if pattern.causal else data.draw(st.sets(st.integers(0, sum(lengths) - 1)))
    heads = data.draw(st.sampled_from([(2, 2), (4, 2), (4, 1)]), label="heads")
    plan = make_plan(pattern, lengths, sorted(chosen)[:5])
    separate = data.draw(st.booleans(), label="separate")
    assert_as_reference(plan, "native", torch.float32, heads=heads, separate=separate)


HUGE = 2**30  # what a configuration allows
BEYOND = [
    Pattern(HUGE, dilation=4, sinks=2),
    Pattern(100, dilation=2**26, sinks=1),
    Pattern(HUGE, causal=True, sinks=HUGE),
    Pattern(3, stride=HUGE, random_blocks=4096),
    Pattern(0, block=HUGE, global_edges=HUGE, random_blocks=9),
    Pattern(1, block=8, random_blocks=4096, summaries=7),
]


@pytest.mark.parametrize("pattern", BEYOND, ids=str)
def test_numbers_beyond_any_document(pattern):
    """No table is as large as they are, and no sum of them leaves its integers."""
    lengths, chosen = [26, 3], () if pattern.causal else (4,)
    plan = make_plan(pattern, lengths, chosen)
    said = {name: x for name, x in vars(pattern).items() if x in (HUGE, 2**26, 4096)}
    same = make_plan(replace(pattern, **dict.fromkeys(said, 80)), lengths, chosen)
    expected = masked_attention(same, (1, 1))
    torch.testing.assert_close(results(plan, "blocked"), expected)
    if pattern.is_windowed and native.unavailable() is None:
        ours = [x.double() for x in results(plan, "native", torch.float32)]
        torch.testing.assert_close(ours, expected, atol=2e-5, rtol=2e-5)
    ((_, own),) = plan.by_head(1)
    table, _ = own.token_tables
    token = torch.arange(len(table))
    pairs = rule(table, own.pattern)(token[:, None], token[None])
    local = (~own.global_mask).nonzero().squeeze(1)
    assert pairs[local, : plan.num_tokens].equal(looped_mask(same)[local])


@pytest.mark.usefixtures("has_native")
def test_what_native_does_not_serve_goes_to_blocked():
    call = {"dtype": torch.float32, "device": "cpu", "head_size": 4, "dropout_p": 0.0}
    for pattern in WITHOUT_KERNEL:
        if pattern == Pattern(pattern.window):
            continue
        reason = refusal("native", pattern=pattern, needs_gradient=True, **call)
        assert reason is not None
        assert str(pattern) in reason
        assert auto_backend(pattern=pattern, **call)[0] == "blocked"
        with pytest.raises(ValueError, match=r"native cannot serve .*; or use blocked"):
            attend(*qkv(make_plan(pattern), 1, 1, torch.float32), make_plan(pattern), backend="native")  # fmt: skip
    assert auto_backend(pattern=Pattern(3, causal=True, dilation=2), **call)[0] == "native"


# --- flex ---------------------------------------------------------------------------------------


def test_flex_reads_the_rule_and_no_block_too_few():
    """In plain operators; on a GPU, and slowly on the CPU, the same is compiled."""
    long = [
        Pattern(5, causal=True, sinks=2, stride=50),
        Pattern(1, block=16, global_edges=1, random_blocks=2, summaries=3),
        Pattern(9, dilation=4),
        Pattern(None, causal=True),
    ]
    plans = [*plans_of(PATTERNS[::5]), *(make_plan(p, [300, 7, 90]) for p in long)]
    for plan in plans:
        table, (count, places, num_full, full, *_) = plan.token_tables
        token = torch.arange(len(table))
        pairs = rule(table, plan.pattern)(token[:, None], token[None])
        dense = plan.pattern.dense_mask(plan.cu_seqlens, plan.global_mask)
        local = (~plan.global_mask).nonzero().squeeze(1)
        assert pairs[local, : plan.num_tokens].equal(dense[local]), plan.pattern
        blocks = len(table) // BLOCK
        for row in range(blocks):
            in_block = pairs.view(blocks, BLOCK, blocks, BLOCK)[row].transpose(0, 1)
            masked = set(places[0, 0, row, : count[0, 0, row]].tolist())
            whole = set(full[0, 0, row, : num_full[0, 0, row]].tolist())
            assert whole == {b for b in range(blocks) if in_block[b].all()}
            assert masked | whole == {b for b in range(blocks) if in_block[b].any()}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*script_method.*:DeprecationWarning")
@pytest.mark.parametrize(
    "pattern",
    [
        Pattern(3, causal=True, sinks=2, stride=9),
        Pattern(1, block=16, global_edges=1, random_blocks=2, summaries=3),
        Pattern(5, dilation=(3, 1)),
    ],
    ids=str,
)
def test_flex_computes_the_pattern_of_any_length_in_one_program(pattern):
    for lengths, separate in (([300, 5], False), ([40, 7, 700], True)):
        plan = make_plan(pattern, lengths, () if pattern.causal else (30,))
        q, k, v = (x.repeat(1, 1, 4) for x in qkv(plan, 4, 2, torch.float32))
        own = (q.flip(0)[plan.global_index], k.flip(0), v.flip(0)) if separate else None
        ours, expected = (
            attend(q, k, v, plan, global_qkv=own, backend=backend)
            for backend in ("flex", "reference")
        )
        torch.testing.assert_close(ours, expected, atol=2e-6, rtol=2e-5)
