"""What the fields of a pattern cannot say together."""

from collections.abc import Iterator

RandomTable = tuple[tuple[tuple[int, ...], ...], ...]  # by head and block, `random_blocks` blocks


def contradictions(
    *,
    window: int | None,
    causal: bool,
    dilation: int | tuple[int, ...],
    block: int,
    global_edges: int,
    random_blocks: int,
    random_table: RandomTable | None,
    summaries: int,
    **_: object,
) -> Iterator[str]:
    """What is wrong with a pattern whose fields say what nobody can mean together."""
    if causal and global_edges:
        yield (
            f"causal=True with global_edges={global_edges}: global tokens see, and are seen, both "
            "ways; use sinks"
        )
    if window is None and dilation != 1:
        yield f"dilation={dilation} with window=None: full attention has no gaps; set dilation to 1"
    if block > 1 and dilation != 1:
        yield f"dilation={dilation} with block={block}: blocks have no gaps; set one of them to 1"
    if summaries > block or (summaries and block == 1):
        yield f"summaries={summaries} are the last tokens of a block; block={block} must be larger"
    if random_table is not None and not random_blocks:
        yield "random_table is given with random_blocks=0; say how many there are in a row"
