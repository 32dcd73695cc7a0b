"""Whether architectures come back from their text: every net of rightfit, every classifier of keras.applications.

Each net is written as JSON and YAML, both are read, the model is made of what was read, and its configuration and the
names and shapes of its weights have to be those of the net. A row holds the bytes and the seconds of either text.

    PYTHONPATH=src python benchmarks/architectures.py
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from common import RESULTS, installed

OUTPUT = RESULTS / "architectures.json"
QUICK = ("resnet20", "seresnet18", "keras:MobileNetV2", "keras:ConvNeXtTiny")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="four nets; writes nothing unless --output is given"
    )
    parser.add_argument("--only", help="names that begin so, as in keras:")
    parser.add_argument("--output", type=Path, help=f"JSON; default {OUTPUT.relative_to(OUTPUT.parents[2])}")
    args = parser.parse_args()
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    makers = nets()
    wanted = [name for name in makers if name.startswith(args.only or "")]
    rows = []
    for name in QUICK if args.quick else wanted:
        rows.append({"net": name} | there_and_back(makers[name]))
        print(
            "{net:<26} {same!s:<5} {json_bytes:>10,} bytes  to YAML {to_yaml:.1f} s, back {from_yaml:.1f} s".format(
                **rows[-1]
            )
        )
        sys.stdout.flush()
        gc.collect()
    wrong = [row["net"] for row in rows if not row["same"]]
    result = {
        "backend": os.environ["KERAS_BACKEND"],
        "versions": installed(("keras", "tensorflow-cpu", "pyyaml")),
        "wrong": wrong,
        "nets": rows,
    }
    output = args.output or (None if args.quick else OUTPUT)
    if output:
        output.write_text(json.dumps(result, indent=1) + "\n")
    print(
        f"{len(rows) - len(wrong)} of {len(rows)} nets came back the same"
        + (f"; not {wrong}" if wrong else "")
    )
    return 1 if wrong else 0


def nets() -> dict[str, Any]:
    """Name -> what makes it, with its first weights never filled in: only shapes are compared."""
    from rightfit.nets.keras_models import classifiers
    from rightfit.nets.resnet import build
    from rightfit.nets.variants import VARIANTS

    def ours(name: str) -> Any:
        return lambda: build(name, 5, (32, 32), dropout=0.1)

    def theirs(make: Any) -> Any:
        return lambda: make(weights=None, classes=5, classifier_activation=None)

    found = {f"keras:{name}": theirs(make) for name, make in classifiers().items()}
    return found | {name: ours(name) for name in VARIANTS}


def there_and_back(make: Any) -> dict[str, Any]:
    import keras

    from rightfit.saving.architecture import to_config, to_json, to_yaml
    from rightfit.saving.building import measured
    from rightfit.saving.checked import checked
    from rightfit.saving.texts import read_json, read_yaml
    from rightfit.saving.weights import named_weights

    keras.backend.clear_session()
    model = make()
    seconds = {}
    started = time.perf_counter()
    as_json = to_json(model)
    seconds["to_json"] = time.perf_counter() - started
    started = time.perf_counter()
    as_yaml = to_yaml(model)
    seconds["to_yaml"] = time.perf_counter() - started
    started = time.perf_counter()
    config = read_yaml(as_yaml)
    seconds["from_yaml"] = time.perf_counter() - started
    again = measured(checked(config))
    same = read_json(as_json) == config == to_config(again) and [
        (n, tuple(v.shape)) for n, v in named_weights(again)
    ] == [(n, tuple(v.shape)) for n, v in named_weights(model)]
    return {"same": same, "json_bytes": len(as_json), **{key: round(s, 2) for key, s in seconds.items()}}


if __name__ == "__main__":
    sys.exit(main())
