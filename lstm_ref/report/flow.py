"""Flow: where gradients vanish, last or explode, in words, as CSV, and as a picture (PNG or SVG, with matplotlib)."""

from __future__ import annotations

import csv
import io
import pathlib
import textwrap
from typing import Any

import numpy as np

from ..flow import LOST, Curve, Flow

COLUMNS = ("network", "forget_bias", "lag", "k", "dh", "dc", "share", "bound_dh", "bound_share")
FORMATS = (".png", ".svg")
# Okabe and Ito's colours, told apart by the colour-blind; in print without colour the marks tell
INKS = (("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#E69F00", "v"), ("#56B4E9", "P"))
PLAIN, GREY = "#000000", "#666666"
SIZE, DOTS = (7.2, 7.6), 150  # inches: a page's width, so that print shows the letters at their own size; PNG dots per inch
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
LETTERS, GAP = 8.5, 0.05  # points; the least distance of two labels as a share of a panel's height
RANGE = 290  # powers of ten either way, within float64's
STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "sans-serif"],
    "font.size": LETTERS,
    "svg.hashsalt": "lstm-ref",
    "svg.fonttype": "none",
}  # words stay words


def lines(found: Flow, target: str) -> str:
    """One line per network: its fate, its rate, from where its shares are lost; and the bound."""
    n = found.sizes
    out = [f"flow of {target}  T={n.T}, B=1, D={n.D}, H={n.H}"]
    if found.asked != n.T:
        out[0] += f"   (T: what it supports, not {found.asked}; --steps asks for more)"
    width = max(len(_name(c)) for c in found.curves)
    for c in found.curves:
        lost = "" if c.lost is None else f"   lost in float32 beside step t from {_back(c.lost)} on"
        out.append(f"  {_name(c):<{width}}  {c.fate:<8}  ×{_rate(c.rate)} per step back{lost}")
    rnn = found.curves[0]
    beta = rnn.beta_f * rnn.beta_W
    fate = "so that it must vanish" if beta < 1 else "which says nothing: a bound that grows is no gradient that explodes"
    out.append(f"  the plain RNN's bound is ×{_rate(beta)} per step (β_f = {rnn.beta_f:.3g}, β_W = {rnn.beta_W:.3g}), {fate}")
    return "\n".join(out)


def table(found: Flow) -> str:
    """The values as CSV, one row per network and lag: norms of ∂J_t/∂h_k, ∂J_t/∂c_k and the share of step k, and the RNN's bounds.

    Empty is what a network does not have: the RNN no c, the LSTM no bound, the states before the first step (k = 0) no share.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for c in found.curves:
        bias = "" if c.network == "RNN" else "given" if c.forget_bias is None else f"{c.forget_bias:g}"
        for lag in range(len(c.dh)):
            values = [None if v is None or lag >= len(v) else repr(float(v[lag])) for v in (c.dh, c.dc, c.share, c.bound, c.share_bound)]
            writer.writerow([c.network, bias, lag, len(c.dh) - 1 - lag, *values])
    return out.getvalue()


def files(text: str) -> list[pathlib.Path]:
    """The pictures to draw, from names with commas. Raises ValueError for a format that is not drawn, or without matplotlib."""
    paths = [pathlib.Path(p.strip()) for p in text.split(",") if p.strip()]
    for p in paths:
        if p.suffix.lower() not in FORMATS:
            raise ValueError(f"--out has {p}; it must end with .png or .svg (both: --out flow.png,flow.svg)")
    if paths:
        try:
            import matplotlib  # noqa: F401 (whether it is there)
        except ImportError:
            raise ValueError("a picture needs matplotlib: pip install 'lstm-ref[plots]'; --csv FILE writes the values without it") from None
    return paths


def save(found: Flow, target: str, paths: list[pathlib.Path]) -> None:
    """Draw once, write every file; the same values give the same bytes."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figure = draw(found, target)
        for p in paths:
            svg = p.suffix.lower() == ".svg"
            figure.savefig(p, dpi=DOTS, format=p.suffix[1:].lower(), metadata={"Date": None} if svg else {"Software": None})


def draw(found: Flow, target: str):
    """Two panels over t − k: the gradient that arrives, and the share in the weight gradient over that of step t."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE)
    above, below = figure.subplots(
        2, 1, sharex=True, gridspec_kw={"left": 0.095, "right": 0.745, "top": 0.845, "bottom": 0.065, "hspace": 0.2}
    )
    n = found.sizes
    figure.text(0.02, 0.98, "Gradients on their way back through time: LSTM and plain RNN", size=11.5, weight="bold", va="top")
    words = textwrap.fill(sentence(found), 112) + f"\n{target}  T = {n.T}, D = {n.D}, H = {n.H}"
    figure.text(0.02, 0.95, words, va="top", linespacing=1.4)
    _panel(above, "What arrives at step k of the gradient sent into hₜ: ‖∂Jₜ/∂hₖ‖, and dotted ‖∂Jₜ/∂cₖ‖")
    _panel(below, "Share of step k in ∂Jₜ/∂W over step t's; shaded: too small for float32 to add to it")
    below.set_xlabel("steps back, t − k")
    _curves(above, found, lambda c: (c.dh, c.dc, c.bound), rates=True)
    _curves(below, found, lambda c: (_over(c.share, c), None, None if c.share_bound is None else _over(c.share_bound, c)))
    above.axhline(1, color="#aaaaaa", lw=0.7, zorder=0)
    bottom = below.get_ylim()[0]
    if bottom < LOST:
        below.axhspan(bottom, LOST, color="#000000", alpha=0.07, lw=0, zorder=0)
    return figure


def sentence(found: Flow) -> str:
    """What the picture shows: which gradients vanish, which last, which explode, and how fast."""
    rnn, *others = found.curves
    said = f"The plain RNN's gradient {rnn.fate} (×{_rate(rnn.rate)} per step)"
    if len(others) == 1 and others[0].forget_bias is None:
        return f"{said}; the LSTM's {others[0].fate} (×{_rate(others[0].rate)})."
    parts = []
    for fate in dict.fromkeys(c.fate for c in others):
        mine = [f"{_bias(c)}\u00a0(×{_rate(c.rate)})" for c in others if c.fate == fate]
        parts.append(f"{fate} at forget bias {_listed(mine)}")
    return f"{said}; the LSTM's {_listed(parts)}."


def _panel(axes, title: str) -> None:
    axes.set_yscale("log")
    axes.set_title(title, loc="left", size=LETTERS + 0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e4e4e4", lw=0.5)
    axes.set_axisbelow(True)
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda value, _: "10" + str(round(np.log10(value))).translate(RAISED) if value > 0 else "")


def _curves(axes, found: Flow, of, rates: bool = False) -> None:
    """Lines with their names at their right ends; the bound may leave the panel, which belongs to the gradients."""
    ends: list[tuple[float, str, float, str]] = []
    seen: list[np.ndarray] = []
    T = found.sizes.T
    for number, c in enumerate(found.curves):
        main, dotted, bound = of(c)
        colour, mark = (PLAIN, None) if c.network == "RNN" else INKS[(number - 1) % len(INKS)]
        lag = np.arange(len(main))
        axes.plot(lag, _drawable(main), color=colour, lw=1.5, marker=mark, ms=4, markevery=(2 + 2 * number, max(T // 6, 1)), mew=0)
        seen.append(_drawable(main))
        if dotted is not None:
            axes.plot(lag, _drawable(dotted), color=colour, lw=1.2, ls=(0, (1, 1.4)))
            seen.append(_drawable(dotted))
        if bound is not None:
            axes.plot(lag, _drawable(bound), color=GREY, lw=1.1, ls=(0, (6, 3)))
            ends.append((_last(bound), "bound, RNN", c.beta_f * c.beta_W, GREY))
        ends.append((_last(main), _name(c, short=True), c.rate, colour))
    values = np.concatenate([*seen, [1.0]])
    values = np.log10(values[np.isfinite(values)])
    room = max(0.06 * np.ptp(values), 0.3)
    low, high = max(values.min() - room, -RANGE), min(values.max() + room, RANGE)
    axes.set_ylim(10.0**low, 10.0**high)
    axes.set_xlim(0, T)
    axes.xaxis.get_major_locator().set_params(integer=True)
    limit = 10.0**high
    _names(axes, [(v, name + (f"  ×{_rate(r)}" if rates else "") + (" ↑" if v > limit else ""), ink) for v, name, r, ink in ends])


def _names(axes, ends: list[tuple[float, str, str]]) -> None:
    """Labels beside the right edge, as near to the ends of their lines as they can stand without touching, with a lead to each."""
    bottom, top = np.log10(axes.get_ylim())
    with np.errstate(divide="ignore"):
        ends = sorted((float(np.clip((np.log10(v) - bottom) / (top - bottom), 0, 1)), text, ink) for v, text, ink in ends)
    places = [at for at, _, _ in ends]
    for _ in range(200):  # push neighbours apart, evenly
        for a in range(len(places) - 1):
            short = GAP - (places[a + 1] - places[a])
            if short > 0:
                places[a], places[a + 1] = places[a] - short / 2, places[a + 1] + short / 2
        shift = max(-places[0], 0.0) - max(places[-1] - 1, 0.0)
        places = [p + shift for p in places]
    for (at, text, ink), place in zip(ends, places, strict=True):
        axes.plot([1.005, 1.03], [at, place], transform=axes.transAxes, color=ink, lw=0.7, clip_on=False)
        axes.text(1.037, place, text, transform=axes.transAxes, color=ink, va="center")


def _drawable(values: np.ndarray) -> np.ndarray:
    """What a logarithmic axis can show."""
    return np.where((values > 10.0**-RANGE) & (values < 10.0**RANGE), values, np.nan)


def _last(values: np.ndarray) -> float:
    """The value that a line ends with, 0 where there is no line."""
    shown = _drawable(values)
    shown = shown[np.isfinite(shown)]
    return float(shown[-1]) if shown.size else 0.0


def _over(values: np.ndarray, c: Curve) -> np.ndarray:
    """Over step t's own share; nothing where that is zero."""
    with np.errstate(all="ignore"):
        return values / c.share[0]


def _name(c: Curve, short: bool = False) -> str:
    if c.network == "RNN":
        return "plain RNN"
    if c.forget_bias is None:
        return "LSTM" if short else "LSTM as given"
    return f"LSTM, bias {_bias(c)}" if short else f"LSTM, forget bias {_bias(c)}"


def _bias(c: Curve) -> str:
    return f"{c.forget_bias:g}".replace("-", "−")


def _rate(rate: float) -> str:
    return f"{rate:.2f}" if 0.1 <= rate < 10 else f"{rate:.2g}"


def _back(lag: int) -> str:
    return f"{lag} step{'s' if lag != 1 else ''} back"


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
