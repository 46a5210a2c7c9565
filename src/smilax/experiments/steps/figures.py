"""Cost of a step against parameters, batch size and chains."""

from collections.abc import Sequence
from pathlib import Path

from smilax.experiments.steps.timing import Row

SHOWN = ("gradient", "smile_naive", "psmile", "ismile diagonal", "ismile kronecker", "sghmc", "mclmc")
PEERS = ("Optax AdamW", "BlackJAX SGHMC", "BlackJAX MCLMC", "posteriors SGHMC", "bde MCLMC")


def cost_figure(rows: Sequence[Row], path: Path) -> None:
    """Three panels: seconds of a step against d, and cost in pairs of gradients against d and against B."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.2), layout="constrained")
    seconds, ratios, batches = figure.subplots(1, 3)
    colors = {name: f"C{k}" for k, name in enumerate(SHOWN)}
    for name in (*SHOWN, *PEERS):
        own = [r for r in rows if r.program == name and r.model == "mlp" and r.chains == 1]
        style = {"color": colors[name]} if name in colors else {"color": "0.6", "linestyle": ":"}
        large = sorted((r.num_params, r.seconds, r.ratio) for r in own if r.batch_size == 512)
        if large:
            d, time, ratio = zip(*large, strict=True)
            seconds.plot(d, time, marker=".", label=name, **style)
            if name in SHOWN and name != "gradient":
                ratios.plot(d, ratio, marker=".", **style)
        sizes = {r.num_params for r in own if r.batch_size != 512}
        of_batch = sorted((r.batch_size, r.ratio) for r in own if r.num_params in sizes)
        if of_batch and name in SHOWN and name != "gradient":
            batches.plot(*zip(*of_batch, strict=True), marker=".", **style)
    seconds.set(xscale="log", yscale="log", xlabel="parameters", ylabel="seconds a step", title="B = 512")
    ratios.set(
        xscale="log", xlabel="parameters", ylabel="two gradients = 1", title="cost in pairs of gradients, B = 512"
    )
    batches.set(
        xscale="log", xlabel="batch size", ylabel="two gradients = 1", title="the same against B, 10⁵ parameters"
    )
    for axes in (ratios, batches):
        axes.axhline(1, color="0.8", zorder=0)
        axes.set_ylim(0, 3)
    if seconds.lines:
        seconds.legend(fontsize=7)
    figure.savefig(path, dpi=120)
