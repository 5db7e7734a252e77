"""How time and memory of inference grow with the pixels and with the batch: this project and its main peers.

    python -m benchmarks.growth                          # writes benchmarks/growth.json and benchmarks/growth.png
    python -m benchmarks.growth --draw                   # draws growth.png anew from growth.json

Every point is a fresh process, since a peak never goes down. A peer that exceeds a limit is not asked for more. Peers
of one point follow each other, so that they meet the machine in one mood.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.harness import report
from benchmarks.harness.alone import measure_alone
from benchmarks.harness.case import Case
from benchmarks.harness.inference_peers import INFERENCE, PEERS
from benchmarks.harness.options import bench_of, parser_of
from benchmarks.harness.pool import Bench, GivenUp, Skipped

MAIN_PEERS = ["ours", "openvino", "onnxruntime", "torch"]
_COLORS = {"ours": "#0b6e4f", "openvino": "#d1495b", "onnxruntime": "#e09f3e", "torch": "#30638e"}
_MARKERS = {"ours": "o", "openvino": "s", "onnxruntime": "^", "torch": "D"}


def main() -> None:
    arguments = _parse_arguments()
    data = Path(arguments.folder, "growth.json")
    if not arguments.draw:
        bench = bench_of(arguments, "benchmarks.harness.inference_peers", PEERS)
        sides = [(side, 1) for side in arguments.sizes]
        batches = [(arguments.side_of_batches, batch) for batch in arguments.batches]
        with tempfile.TemporaryDirectory() as folder:
            cases = [
                Case(folder, arguments.variant, side, side, arguments.classes, batch, arguments.threads)
                for side, batch in dict.fromkeys(sides + batches)
            ]
            result = measure(bench, arguments.peers, cases, arguments.runs)
        data.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    result = json.loads(data.read_text(encoding="utf-8"))
    report.write(as_table(result), arguments.output)
    draw(result, Path(arguments.folder, "growth.png"), arguments.side_of_batches)


def measure(bench: Bench, keys: list[str], cases: list[Case], later_runs: int) -> dict[str, Any]:
    """Measures every peer at every point.

    Returns:
        "points", a list of dictionaries, "about" in words, and "given_up", the reason by peer.
    """
    points: list[dict[str, Any]] = []
    given_up: dict[str, str] = {}
    too_many = dict.fromkeys(keys, float("inf"))  # pixels of a batch at which a peer exceeded a limit
    versions = []
    for case in cases:
        pixels = case.batch * case.height * case.width
        for key in keys:
            if pixels >= too_many[key]:
                continue
            print(f"  {case.height}x{case.width}, batch {case.batch}: {PEERS[key].title}", file=sys.stderr, flush=True)
            try:
                result = measure_alone(bench, key, case, later_runs)
            except (Skipped, GivenUp) as reason:
                too_many[key] = pixels if isinstance(reason, GivenUp) else 0
                given_up[key] = f"{reason} (at {case.height}x{case.width}, batch {case.batch})"
                continue
            versions.append(result.versions)
            point = {"peer": key, "title": PEERS[key].title, "side": case.height, "batch": case.batch}
            peaks = {"peak_gigabytes": result.peak / 1e9, "import_gigabytes": result.import_peak / 1e9}
            points.append({**point, "seconds": result.later_seconds, **peaks})
    about = f"{cases[0].variant.upper()}, {cases[0].classes} classes, float32, {cases[0].threads} threads"
    return {"about": f"{about}. {report.machine(versions, bench.hide)}", "points": points, "given_up": given_up}


def as_table(result: dict[str, Any]) -> str:
    """The points as a table: seconds and gigabytes of each peer, a row a size."""
    titles = {point["peer"]: point["title"] for point in result["points"]}
    by_place: dict[tuple[int, int], dict[str, str]] = {}
    for point in result["points"]:
        cell = f"{point['seconds']:.3f} s, {point['peak_gigabytes']:.2f} GB"
        by_place.setdefault((point["side"], point["batch"]), {})[point["peer"]] = cell
    rows = [
        [f"{side}x{side}, batch {batch}", *(cells.get(peer, "") for peer in titles)]
        for (side, batch), cells in by_place.items()
    ]
    table = report.table(["input", *titles.values()], rows)
    skipped = report.skipped_lines(result["given_up"], {key: PEERS[key].title for key in result["given_up"]})
    return f"\n### Growth: {result['about']}\n\n{table}\n{skipped}\n"


def draw(result: dict[str, Any], path: Path, side_of_batches: int) -> None:
    """Four panels, all axes logarithmic: time and memory against pixels at batch 1, and against the batch."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 2, sharey="row")
    quantities = {"seconds": "seconds an inference", "peak_gigabytes": "peak of the process, GB"}
    for row, (quantity, label) in enumerate(quantities.items()):
        for column, series in enumerate(("side", "batch")):
            panel = panels[row, column]
            for peer in dict.fromkeys(point["peer"] for point in result["points"]):
                points = _series(result["points"], peer, series, side_of_batches)
                x, y = [point[series] for point in points], [point[quantity] for point in points]
                style = {"color": _COLORS.get(peer), "marker": _MARKERS.get(peer, "o")}
                panel.plot(x, y, label=PEERS[peer].title, linewidth=2.5 if peer == "ours" else 1.5, **style)
            _finish(panel, sorted({point[series] for point in result["points"]}), series, side_of_batches)
            panel.set_ylabel(label if column == 0 else "")
    panels[0, 0].legend(frameon=False)
    figure.suptitle(result["about"].partition(". ")[0])
    figure.savefig(path, dpi=110)


def _series(points: list[dict[str, Any]], peer: str, series: str, side_of_batches: int) -> list[dict[str, Any]]:
    """The points of a peer at batch 1, or at the one size at which batches were measured; in order."""
    fixed = {"side": ("batch", 1), "batch": ("side", side_of_batches)}[series]
    chosen = [point for point in points if point["peer"] == peer and point[fixed[0]] == fixed[1]]
    return sorted(chosen, key=lambda point: point[series])


def _finish(panel: Any, ticks: list[int], series: str, side_of_batches: int) -> None:
    """Logarithmic axes with plain numbers, a grid and a label."""
    from matplotlib.ticker import LogLocator, NullFormatter

    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    panel.set_xticks(ticks, [f"{tick}²" if series == "side" else str(tick) for tick in ticks])
    panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.yaxis.set_major_formatter("{x:g}")
    panel.yaxis.set_minor_formatter(NullFormatter())
    panel.grid(True, which="both", color="#dddddd", linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)
    panel.set_xlabel("pixels (batch 1)" if series == "side" else f"batch ({side_of_batches}²)")


def _parse_arguments() -> argparse.Namespace:
    parser = parser_of(__doc__, INFERENCE, runs=3)
    parser.set_defaults(peers=MAIN_PEERS)
    parser.add_argument("--variant", default="b0")
    parser.add_argument("--classes", type=int, default=150)
    parser.add_argument("--sizes", nargs="*", type=int, default=[256, 512, 1024, 1536, 2048], help="sides, batch 1")
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--side-of-batches", type=int, default=512, help="side of the images of the batches")
    parser.add_argument("--folder", default=str(Path(__file__).parent), help="where growth.json and growth.png go")
    parser.add_argument("--draw", action="store_true", help="measure nothing, draw what growth.json holds")
    return parser.parse_args()


if __name__ == "__main__":
    main()
