"""Draw what each preset of conf/model/pattern shows a document: docs/patterns/<preset>.png, and
those that are compared at equal pairs a token side by side: docs/patterns/equal.png.

    python benchmarks/pattern_pictures.py [--output docs/patterns]

Windows, blocks and strides are drawn smaller by the number that stands over the picture, so that a
document of 48 tokens shows them; steps, sinks and numbers of blocks are as they are.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from longspan.attention import Pattern
from longspan.compose.cells import compose_cells

ROOT = Path(__file__).resolve().parents[1]
TOKENS = 48
WITHIN, GLOBAL = "#3a6ea5", "#d98032"
# how much smaller it is drawn, and of which layers and heads
PICTURED: dict[str, tuple[int, list[tuple[int, int]]]] = {
    "longformer": (64, [(0, 0)]),
    "longformer_charlm": (64, [(0, 0), (6, 0), (11, 0), (11, 7)]),
    "dilated": (16, [(0, 0)]),
    "bigbird": (32, [(0, 0), (0, 1), (1, 0)]),
    "streaming_llm": (128, [(0, 0)]),
    "mistral": (512, [(0, 0)]),
    "sparse_transformer_strided": (16, [(0, 0)]),
    "sparse_transformer_fixed": (16, [(0, 0)]),
    "modernbert": (16, [(0, 0), (1, 0)]),
    "growing": (16, [(0, 0), (1, 0)]),
    "shrinking": (32, [(0, 0), (1, 0)]),
}
# in the order of conf/sweep/patterns.yaml
EQUAL = ("window", "window_global", "window_global_random", "dilated", "strided", "sinks", "full")


def smaller(pattern: Pattern, factor: int) -> Pattern:
    """Of 1/factor of the tokens in windows, blocks and strides."""
    if pattern.block > 1:
        block, summaries = pattern.block // factor, pattern.summaries // factor
        return replace(pattern, block=block, summaries=summaries)
    window = None if pattern.window is None else max(1, pattern.window // factor)
    return replace(pattern, window=window, stride=pattern.stride // factor)


def draw(preset: str, output: Path) -> Path:
    """One panel for each layer and head that is told apart."""
    factor, panels = PICTURED[preset]
    figure = Figure(figsize=(3.1 * len(panels), 3.5), layout="constrained")
    for axes, (layer, head) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
    ):
        own = draw_mask(axes, preset, factor, layer, head)
        axes.set_title(f"layer {layer}" + (f", head {head}" if own else ""), fontsize=9)
    return save(figure, f"{preset}, 1/{factor} as large", output / f"{preset}.png")


def draw_equal(output: Path) -> Path:
    """The patterns that are compared at equal pairs a token, side by side."""
    figure = Figure(figsize=(3.1 * 4, 3.3 * 2), layout="constrained")
    places = figure.subplots(2, 4).ravel()
    for axes, name in zip(places, EQUAL, strict=False):
        own = draw_mask(axes, f"equal_cls/{name}", 8, 0, 0)
        axes.set_title(name + (", head 0" if own else ""), fontsize=9)
    places[-1].set_visible(False)
    return save(figure, "equal_cls, 1/8 as large", output / "equal.png")


def draw_mask(axes: Axes, preset: str, factor: int, layer: int, head: int) -> bool:
    """Who sees whom in one layer and head.

    Returns:
        Whether heads differ.
    """
    (cell,) = compose_cells([f"model/pattern={preset}", "task.pooling=mean"])
    model = cell.config.model
    pattern = smaller(Pattern(**model.layer_patterns[layer]), factor)
    own = next(p for heads, p in pattern.by_head(model.num_heads) if head in range(99)[heads])
    bounds = torch.tensor([0, TOKENS])
    is_global = own.with_edges(bounds, torch.arange(TOKENS) < int(cell.config.globals.cls))
    seen = own.dense_mask(bounds, is_global).int()
    by_globals = is_global[:, None] | is_global[None, :]
    colors = ListedColormap(["white", WITHIN, GLOBAL])
    axes.imshow((seen + by_globals.int()).numpy(), cmap=colors, vmin=0, vmax=2)
    axes.set_xticks([])
    axes.set_yticks([])
    for edge in range(TOKENS + 1):
        axes.axhline(edge - 0.5, color="#dddddd", linewidth=0.3)
        axes.axvline(edge - 0.5, color="#dddddd", linewidth=0.3)
    axes.set(xlabel="key", ylabel="query")
    return own is not pattern


def save(figure: Figure, title: str, file: Path) -> Path:
    figure.suptitle(title, fontsize=9)
    figure.savefig(file, dpi=110)
    return file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "patterns")
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    mpl.use("agg")
    for preset in PICTURED:
        print(draw(preset, output))
    print(draw_equal(output))


if __name__ == "__main__":
    main()
