"""The table of `benchmarks.study`: the scores of every variant over its seeds."""

import numpy as np

from sims_jax.evaluation import BASELINES

JUDGE_DIGITS = 16  # of the judge's SHA-256
SHOWN = ("accuracy", "miou", "frechet", "frechet_patches", "spectrum_gap", "gradient_ratio", "tint")


def summarize(reports: dict[str, list[dict]], variants: dict[str, dict], baselines_of: str) -> dict:
    """The table of each variant's reports, one a seed; and what each of the `variants` changes.

    Baselines are those of one variant.

    A score's `value` is the mean over seeds; `low` and `high` are the lowest and the highest ends
    of the seeds' bootstrap intervals.
    """
    first = next(iter(reports.values()))[0]
    rows = {"real": [first["scores"]["real"]]}
    for name, some in reports.items():
        rows[name] = [one["scores"]["photos"] for one in some]
        for baseline in BASELINES:
            if name == baselines_of and all(baseline in one["scores"] for one in some):
                rows[baseline] = [one["scores"][baseline] for one in some]
    return {
        "protocol": first["protocol"],
        "real_halves": first["real_halves"],
        "variants": {
            name: {
                "changed": variants.get(name, {}),
                "scores": {key: over_seeds([one[key] for one in some]) for key in some[0]},
                "seeds": some,
            }
            for name, some in rows.items()
        },
    }


def over_seeds(found: list) -> dict[str, float] | float:
    """One score of several seeds; some have no interval."""
    if not isinstance(found[0], dict):
        return float(np.mean(found))
    return {
        "value": float(np.mean([one["value"] for one in found])),
        "low": min(one["low"] for one in found),
        "high": max(one["high"] for one in found),
    }


def to_markdown(table: dict) -> str:
    """The scores that are `SHOWN`, a variant a line, and what they are of."""
    lines = [["", *SHOWN, "seeds"]]
    for name, row in table["variants"].items():
        scores = [row["scores"][key] for key in SHOWN]
        cells = [f"{s['value']:.3g} [{s['low']:.3g}, {s['high']:.3g}]" for s in scores]
        lines.append([name, *cells, "" if name == "real" else str(len(row["seeds"]))])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    rows = ["| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines]
    judged = table["protocol"]
    halves = ", ".join(f"{name} {x:.3g}" for name, x in table["real_halves"].items())
    return "\n".join(
        [
            *rows,
            "",
            "Means over seeds; in brackets the lowest and the highest ends of the seeds' intervals "
            f"({judged['bootstrap']}).",
            f"Judge {judged['judge_sha256'][:JUDGE_DIGITS]}, protocol {judged['version']}, "
            f"{judged['n']} photos of {'x'.join(map(str, judged['size']))}; halves of the real "
            f"photos to each other: {halves}.",
            "",
        ]
    )
