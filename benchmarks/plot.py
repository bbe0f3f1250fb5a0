"""Draws the figures of the documentation from committed rows: docs/images/passes.svg, networks.svg and cifar10.svg.

passes.svg: forward + backward of single shapes, in passes. networks.svg: the time of all layers of a network of
layers.csv, as a multiple of iabn's. cifar10.svg: validation accuracy by epoch, a line per seed. One of the first two
takes all its bars from one file, the first of the given ones that has rows for it, and is left out where none has.

  pip install -r dev/requirements-plot.txt
  python benchmarks/plot.py
"""

import argparse
import csv
import re
from collections import Counter
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

HERE = Path(__file__).parent
RESULTS = [HERE / "results" / name for name in ("compare_h100.csv", "layer_h100.csv")]
CURVES = {
    "cifar10.svg": (
        HERE / "results" / "cifar10_h100.csv",
        "val_top1",
        "CIFAR-10 (JPEG), bf16, three seeds each",
        "validation accuracy, %",
    ),
    "camvid.svg": (
        HERE / "results" / "camvid_h100.csv",
        "val_miou",
        "CamVid 480x360, bf16, three seeds each",
        "validation mean IoU, %",
    ),
}
SHAPES = [
    "128x64x112x112",
    "128x256x56x56",
    "64x256x56x56",
    "128x512x28x28",
    "128x1024x14x14",
    "8x1024x65x65",
    "128x2048x7x7",
    "32x256x14x14",
    "2x32x64x64x64",
]
PANELS = [("bfloat16", "channels_last"), ("float32", "channels_last")]
VARIANTS = {
    "iabn": ("InPlace-ABN", "#22aa66"),
    "batch_norm": ("PyTorch: BatchNorm, leaky ReLU", "#d9a59c"),
    "compiled": ("the same under torch.compile", "#aa3333"),
}
BYTE_LIMIT = 5  # forward reads x and writes z, backward reads z and d_z and writes d_x


class Rows:
    """p50 of forward + backward by metric, shape, dtype, layout and variant."""

    def __init__(self, path):
        self.values, self.gpus = {}, set()
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                # Not those with another activation, nor the few shapes that were measured in graphs.
                if row["pass"] != "both" or row["case"].startswith(("layer ", "shapes")):
                    continue
                key = tuple(row[name] for name in ("metric", "shape", "dtype", "layout", "variant"))
                # compare_torch.py measures a shape once per network that has it: the first one counts.
                self.values.setdefault(key, float(row["p50"]))
                self.gpus.add(row["gpu"])

    def find(self, metric, shape, panel):
        """{variant: value}, empty where the shape isn't measured."""
        found = {name: self.values.get((metric, shape, *panel, name)) for name in VARIANTS}
        return {name: value for name, value in found.items() if value is not None}


def read_layers():
    with (HERE / "layers.csv").open() as file:
        networks = {}
        for row in csv.DictReader(line for line in file if not line.startswith("#")):
            networks.setdefault(row["network"], []).append((row["shape"], int(row["count"])))
        return networks


def network_ratios(rows, panel):
    """{network: {variant: time of all layers / iabn's}} of the networks whose every shape is measured."""
    ratios = {}
    for network, layers in read_layers().items():
        total, measured = Counter(), Counter()
        for shape, count in layers:
            for name, ms in rows.find("time", shape, panel).items():
                total[name] += count * ms
                measured[name] += 1
        if measured["iabn"] == len(layers):
            ratios[network] = {n: total[n] / total["iabn"] for n in total if measured[n] == len(layers)}
    return ratios


def draw_bars(axes, groups, decimals):
    """groups: {label: {variant: value}}, drawn from the top."""
    names = [name for name in VARIANTS if any(name in values for values in groups.values())]
    height = 0.8 / len(names)
    for index, name in enumerate(names):
        places = [group + index * height for group, values in enumerate(groups.values()) if name in values]
        lengths = [values[name] for values in groups.values() if name in values]
        label, colour = VARIANTS[name]
        bars = axes.barh(places, lengths, 0.92 * height, color=colour, label=label)
        axes.bar_label(bars, fmt=f"%.{decimals}f", padding=2, fontsize=8)
    axes.set_yticks([group + 0.4 - height / 2 for group in range(len(groups))], groups)
    axes.margins(x=0.12)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 5, 10]))
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def draw(groups_of, title, x_label, decimals, marked, rows):
    """A panel per dtype and layout with rows; None where there is none. marked: (x, text) of a vertical line."""
    groups = {panel: groups_of(panel) for panel in PANELS}
    groups = {panel: bars for panel, bars in groups.items() if bars}
    if not groups:
        return None
    bars = max(sum(len(values) for values in panel.values()) for panel in groups.values())
    figure = Figure(figsize=(9.5, 1.5 + 0.19 * bars), layout="constrained")
    panels = figure.subplots(1, len(groups), sharey=True, squeeze=False)[0]
    for axes, (panel, values) in zip(panels, groups.items(), strict=True):
        draw_bars(axes, values, decimals)
        axes.axvline(marked[0], color="#333333", linewidth=1, linestyle=(0, (4, 3)), label=marked[1])
        axes.set_title(", ".join(panel).replace("_", "-"), fontsize=10)
        axes.set_xlabel(x_label)
    panels[0].invert_yaxis()  # the others share it
    figure.suptitle(f"{title} ({', '.join(sorted(rows.gpus))})", fontsize=11, fontweight="bold")
    handles, labels = panels[0].get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda index: labels[index] == marked[1])
    figure.legend(
        [handles[index] for index in order],
        [labels[index] for index in order],
        loc="outside lower center",
        ncols=len(labels) if len(labels) < 4 else 2,
        frameon=False,
        fontsize=9,
    )
    return figure


def draw_passes(rows):
    def groups(panel):
        found = {f"[{shape.replace('x', ', ')}]": rows.find("passes", shape, panel) for shape in SHAPES}
        return {label: values for label, values in found.items() if "iabn" in values}

    marked = (BYTE_LIMIT, f"byte limit: {BYTE_LIMIT}")
    return draw(groups, "Forward + backward of one layer", "passes over the tensor", 1, marked, rows)


def draw_networks(rows):
    def groups(panel):
        return {
            network: {name: ratio for name, ratio in ratios.items() if name != "iabn"}
            for network, ratios in network_ratios(rows, panel).items()
        }

    title = "All normalisation layers of a network, forward + backward"
    return draw(groups, title, "time, as a multiple of InPlace-ABN's", 2, (1, "InPlace-ABN"), rows)


def draw_curves(path, metric, title, label):
    """A value by epoch of the runs of train_cifar10.py or train_camvid.py."""
    curves = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["metric"] == metric:
                curves.setdefault(row["variant"], []).append(float(row["p50"]))
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.subplots()
    labels = {"standard": ("BatchNorm, leaky ReLU", "#aa3333"), "inplace": ("InPlace-ABN", "#22aa66")}
    for variant, values in curves.items():
        text, color = labels[variant.split()[0]]
        name = text if variant.endswith("seed 1") else None
        axes.plot(range(1, len(values) + 1), values, color=color, label=name, linewidth=1)
    axes.set(xlabel="epoch", ylabel=label, title=title)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="lower right")
    return figure


def save(figure, path):
    matplotlib.rcParams.update({"svg.hashsalt": "iabn", "svg.fonttype": "none"})
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    # A drawn element per line, no blanks at a line's end: for readable differences, and less than 400 lines.
    text = re.sub(r"\s*\n\s*(?!\s*<)", " ", path.read_text())
    text = re.sub(r"(<g[^>]*>)\n\s*(?=<(?!g))", r"\1", text)
    text = re.sub(r"\n\s*</g>", "</g>", text)
    path.write_text(text.strip() + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="rows, preferred ones first; default: results/*_h100.csv")
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs" / "images")
    options = parser.parse_args()
    files = [Rows(path) for path in options.files or RESULTS if path.exists()]
    for name, draw_figure in {"passes.svg": draw_passes, "networks.svg": draw_networks}.items():
        figure = next((figure for figure in map(draw_figure, files) if figure), None)
        if figure:
            save(figure, options.out / name)
        print(f"{name}: {'written' if figure else 'left out, no file has its rows'}")
    for name, (path, *text) in CURVES.items():
        save(draw_curves(path, *text), options.out / name)


if __name__ == "__main__":
    main()
