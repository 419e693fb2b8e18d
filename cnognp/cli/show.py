"""``cnognp show``: how a run stands, or what a folder of results holds."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from cnognp.cli import console, findings
from cnognp.training.config import RunFolder

if TYPE_CHECKING:
    from cnognp.training.snapshots import Kept

_UNJUDGED: dict[str, Any] = {
    "constant_loss": None, "constant_metrics": {}, "start_loss": None, "remark": "",
}  # fmt: skip

_SHOWN = 10
"""Points of each kind that the table has; --json has all."""
_RANKED = {"point": "passes at their new points", "epoch": "means over their epochs"}


def prepare(parser: ArgumentParser, argv: list[str]) -> list[str]:
    """Adds the arguments."""
    parser.add_argument("run", type=str, help="folder of a run, or of results")
    parser.add_argument("--json", action="store_true", help="one object on standard output")
    return argv


def command(options: Namespace) -> None:
    """Prints status, best member and metrics of the newest checkpoint; or the results."""
    folder = RunFolder(Path(options.run))
    if not folder.config_path.is_file() and (files := sorted(folder.analysis.glob("*.h5"))):
        return _show_results(files, options.json)
    config = folder.config()
    found, damaged = folder.newest()
    for path in damaged:
        console.note(f"{path} is damaged; showing the checkpoint before it")
    meta = {"status": "not begun", "iterations": 0, "method": config.method, "task": config.task}
    document = summary(folder, meta if found is None else found.meta, folder.kept())
    if options.json:
        console.emit(document)
    else:
        print_summary(document)


def _show_results(files: list[Path], as_json: bool) -> None:
    """Prints the results of what left no run: a path, a study, the minima of a function."""
    from landscape.results import load

    results = {file.stem: load(file) for file in files}
    if as_json:
        return console.emit({name: findings.document(found) for name, found in results.items()})
    for found in results.values():
        findings.tell(found)


def summary(
    folder: RunFolder, meta: dict[str, Any], kept: "Mapping[str, Kept] | None" = None
) -> dict[str, Any]:
    """What there is to say of a run.

    Args:
        folder: the run.
        meta: the description in its checkpoint.
        kept: the points of its trajectories that were kept, as `RunFolder.kept` gives them.
    """
    empty: dict[str, Any] = {
        "member": None, "loss": None, "gradient_norm": None, "fitness": None,
        "metrics": {"train": {}, "validation": {}, "test": {}},
    }  # fmt: skip
    best = {**empty, **meta.get("best", {})}
    # In the order of the empty one: a checkpoint keeps its keys in order of the alphabet.
    best["metrics"] = {split: best["metrics"].get(split, {}) for split in empty["metrics"]}
    return {
        "run": str(folder.path),
        "task": meta["task"],
        "method": meta["method"],
        "status": meta["status"],
        "iterations": meta["iterations"],
        "fitness_from": meta.get("fitness_from"),
        "not_finite": meta.get("not_finite", []),
        "judgement": {**_UNJUDGED, **meta.get("judgement", {})},
        "best": best,
        "snapshots": [entry for kind, own in (kept or {}).items() for entry in _listed(kind, own)],
    }


def _listed(kind: str, kept: "Kept") -> list[dict[str, Any]]:
    """The points of a kind, by the names that ``analyze --member`` has for them."""
    from cnognp.training.snapshots import pooled

    return [
        {
            "point": f"{kind}-{number}", "member": point.member, "round": point.round,
            "metrics": point.measured, "file": str(point.path),
        }
        for number, point in enumerate(pooled(kind, kept), 1)
    ]  # fmt: skip


def print_summary(document: dict[str, Any]) -> None:
    """Prints the summary as tables."""
    best = document["best"]
    rows = [(name, document[name]) for name in ("run", "task", "method", "status", "iterations")]
    if lost := document["not_finite"]:
        rows.append(("members not finite", f"{len(lost)}: {', '.join(map(str, lost))}"))
    names = {"member": "best member", "loss": "its loss", "gradient_norm": "its gradient norm"}
    names["fitness"] = "its fitness"
    rows += [(title, best[key]) for key, title in names.items() if best[key] is not None]
    if (source := document["fitness_from"]) is not None:
        rows.append(("members ranked by", _RANKED[source]))
    judgement = document["judgement"]
    names = {"constant_loss": "loss of the best constant", "start_loss": "loss of the best start"}
    rows += [(title, judgement[key]) for key, title in names.items() if judgement[key] is not None]
    if judgement["remark"]:
        rows.append(("remark", judgement["remark"]))
    console.table("", ("", ""), rows)
    splits = {name: measured for name, measured in best["metrics"].items() if measured}
    if splits:
        # As they come from a checkpoint, which orders by the alphabet, but the loss first.
        columns = sorted(next(iter(splits.values())), key=lambda name: (name != "loss", name))
        measured = [[split, *(found[name] for name in columns)] for split, found in splits.items()]
        console.table("best member", ("split", *columns), measured)
    if document["snapshots"]:
        console.table("points kept", *_kept(document["snapshots"]))


def _kept(points: list[dict[str, Any]]) -> tuple[tuple[str, ...], list[list[Any]]]:
    """Columns and rows of the first points of each kind, with what decides and what is reported."""
    first = points[0]["metrics"]
    score = "accuracy" if "accuracy" in first["train"] else "loss"
    asked = [("train", "loss"), ("validation", "loss"), ("validation", score), ("test", score)]
    columns = [place for place in dict.fromkeys(asked) if first[place[0]]]
    shown = [point for point in points if int(point["point"].rpartition("-")[2]) <= _SHOWN]
    rows = [
        [p["point"], p["member"], p["round"], *(p["metrics"][s][name] for s, name in columns)]
        for p in shown
    ]
    return ("point", "member", "round", *(f"{split}\n{name}" for split, name in columns)), rows
