"""What all figures have in common: axes, colours that follow the background, and legends that cover no data."""

from typing import Any

# Okabe and Ito's palette, which colour-blind readers can tell apart, and the same hues light enough for a dark ground.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DARK_COLORS = ("#4DA3E0", "#FF8A47", "#35C79B", "#E7A3CB", "#F5C04A", "#A5DCFF")
# Reference lines: as far from white as from black.
MUTED = "#7F7F7F"
# So that a series is known by more than its colour.
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 3)))
MARKERS = ("o", "s", "^", "D", "v", "P")
SIZE = (4.5, 4.0)


def make_axes(ax: Any, size: tuple[float, float] = SIZE) -> Any:
    """`ax`, or new axes in a figure that belongs to no window."""
    if ax is not None:
        return ax
    # The object interface: no global state.
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained").add_subplot()


def is_dark(ax: Any) -> bool:
    """Whether the axes have a dark background; where they are transparent, whether text is light."""
    import matplotlib
    from matplotlib.colors import to_rgba

    for color in (ax.get_facecolor(), ax.get_figure().get_facecolor()):
        red, green, blue, alpha = to_rgba(color)
        if alpha > 0.5:
            return 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
    red, green, blue, _ = to_rgba(matplotlib.rcParams["text.color"])
    return 0.299 * red + 0.587 * green + 0.114 * blue > 0.5


def palette(ax: Any) -> tuple[str, ...]:
    """Six colours that are readable on the background of the axes."""
    return DARK_COLORS if is_dark(ax) else COLORS


def ink() -> str:
    """The colour of text."""
    import matplotlib

    return str(matplotlib.rcParams["text.color"])


def below(ax: Any, ncols: int = 2) -> None:
    """A legend below the axes, where no data are."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.transforms import ScaledTranslation

    # Ticks, their labels and the axis label have a height in points, whatever the size of the axes.
    height = 3.9 * FontProperties(size="medium").get_size_in_points()
    shift = ScaledTranslation(0, -height / 72, ax.get_figure().dpi_scale_trans)
    ax.legend(
        frameon=False, fontsize="small", loc="upper center", bbox_to_anchor=(0.5, 0), borderaxespad=0, ncols=ncols,
        bbox_transform=ax.transAxes + shift,
    )  # fmt: skip


def grouped(value: float, _: int = 0) -> str:
    """A number with its thousands apart, for axes that count."""
    return f"{value:,.0f}"
