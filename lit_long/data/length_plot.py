"""The picture of a length report: matplotlib, imported on use, drawn by Agg without pyplot's global state."""

from pathlib import Path
from typing import Any

_NAMED = 8  # sources with a colour of their own


def plot_lengths(split: dict[str, Any], title: str, path: Path) -> Path:
    """Tokens by document length, stacked by source, and the share of tokens in documents longer than a length.

    Args:
        split: one split of :func:`lit_long.data.length_report.length_report`.
        title: of the whole.
        path: where to write the PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    bars, lines = FigureCanvasAgg(figure).figure.subplots(1, 2)
    bounds = [bucket["up_to"] for bucket in split["buckets"]]
    places = range(len(bounds))
    scale, unit = _unit(max(bucket["tokens"] for bucket in split["buckets"]))
    bottom = [0.0] * len(bounds)
    named = _named(split["sources"])
    for number, source in enumerate(named):
        own = {bucket["up_to"]: bucket["tokens"] for bucket in source["buckets"]}
        heights = [own.get(bound, 0) / scale for bound in bounds]
        bars.bar(places, heights, 0.85, bottom=bottom, label=source["name"], color=f"C{number}")
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
        _share(lines, source, f"C{number}", 1.4, source["name"] if len(named) > 1 else None)
    if len(named) > 1:
        _share(lines, split, "black", 2.2, "all")
        bars.legend(frameon=False)
        lines.legend(frameon=False, loc="lower left")
    for place, (top, bucket) in enumerate(zip(bottom, split["buckets"], strict=True)):
        if bucket["documents"]:
            bars.annotate(
                f"{bucket['documents']:,}", (place, top), (0, 2), textcoords="offset points", ha="center", fontsize=7
            )
    bars.set_xticks(places, [_short(bound) for bound in bounds], rotation=45 if len(bounds) > 9 else 0)
    bars.set_ylim(0, 1.08 * max(bottom))
    bars.set_xlabel("document length (tokens), up to")
    bars.set_ylabel(f"tokens ({unit})" if unit else "tokens")
    bars.set_title("Tokens by document length (numbers: documents)", fontsize=10)
    lines.set_xscale("log", base=2)
    ticks = bounds[:: -(-len(bounds) // 10)]
    lines.set_xticks(ticks, [_short(bound) for bound in ticks])
    lines.minorticks_off()
    lines.set_ylim(0, 103)
    lines.set_xlabel("L (tokens)")
    lines.set_ylabel("% of tokens")
    lines.set_title("Share of tokens in documents longer than L", fontsize=10)
    for axes in (bars, lines):
        axes.grid(alpha=0.2, axis="both" if axes is lines else "y")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, dpi=150)
    return path


def _share(axes: Any, counted: dict[str, Any], color: str, width: float, label: str | None) -> None:
    if counted["tokens"]:
        first = counted["buckets"][0]["over"] or 0.5
        lengths = [first, *(bucket["up_to"] for bucket in counted["buckets"])]
        shares = [100.0, *(100 * bucket["share_in_longer"] for bucket in counted["buckets"])]
        axes.plot(lengths, shares, marker="o", markersize=3, color=color, linewidth=width, label=label)


def _named(sources: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The sources with the most tokens, the others as one."""
    ordered = sorted(sources, key=lambda source: -source["tokens"])
    if len(ordered) <= _NAMED:
        return ordered
    rest: dict[int, int] = {}
    for source in ordered[_NAMED - 1 :]:
        for bucket in source["buckets"]:
            rest[bucket["up_to"]] = rest.get(bucket["up_to"], 0) + bucket["tokens"]
    total = longer = sum(rest.values())
    buckets = []
    for bound, tokens in sorted(rest.items()):
        longer -= tokens
        share = longer / total if total else 0.0
        buckets.append({"over": bound // 2, "up_to": bound, "tokens": tokens, "share_in_longer": share})
    others = {"name": f"{len(ordered) - _NAMED + 1} others", "tokens": total, "buckets": buckets}
    return [*ordered[: _NAMED - 1], others]


def _unit(largest: int) -> tuple[float, str]:
    for scale, unit in ((1e12, "trillions"), (1e9, "billions"), (1e6, "millions"), (1e3, "thousands")):
        if largest >= scale:
            return scale, unit
    return 1.0, ""


def _short(length: int) -> str:
    """A power of two as people say it: 512, 32K, 4M."""
    for scale, unit in ((1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K")):
        if length >= scale:
            return f"{length // scale}{unit}"
    return str(length)
